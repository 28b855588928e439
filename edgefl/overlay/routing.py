"""Routed requests: an encoded message travels to the device nearest (by XOR) to a key.

Every hop is strictly nearer to the key than the one before, so a request ends after at most 64 hops whatever the tables
hold. A hop settles the next digit inside its own zone as long as the zone has anybody with that prefix; only then the
request leaves it (Canon). So what the zone has is found without leaving it, all requests of a zone for one key leave
it among the few that share most digits with the key, and requests with zone scope never leave it.

    each hop:  duplicate? acknowledge only --> acknowledge --> nobody nearer? deliver --> forward, wait for the ack
               no ack within max(0.5 s, 4 RTT): suspect that hop, try the next best; all dropped as dead: deliver

A hop is acknowledged per request, not by "any message" (which loses requests). Duplicates, which retries make, are
known by origin and request number. The answer goes straight to the origin. A lookup without an answer is repeated
once, by another way, then reported as failed.

A leaf would not get the answer: it walks to the owner itself (search.py), because answers come back on links that it
has dialled. It begins with the owner of the last time, which is usually the end of the walk as well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING

from edgefl.declared import dataclass
from edgefl.errors import WireError
from edgefl.overlay.device import Device
from edgefl.overlay.ids import ID_BITS, shared_digits
from edgefl.overlay.liveness import Liveness, Peer
from edgefl.overlay.membership import Membership
from edgefl.overlay.requests import Requests
from edgefl.overlay.search import RowQueries, Search
from edgefl.wire.codec import Message, decode, encode
from edgefl.wire.contact import Contact
from edgefl.wire.overlay import Found, Lookup, Route, RouteAck, Scope

if TYPE_CHECKING:
    from edgefl.effects import TimerKey

MAX_SEEN = 2048
"""Requests remembered to suppress duplicates, at most: 200 requests per second for ten seconds."""

SEEN_S = 60.0
"""How long at least they are remembered: a retry comes within seconds, and after up to sixteen."""

MAX_TRIES = 8
"""Attempts for one request at one hop: enough with half of all contacts dead (0.4 % left)."""

MAX_FORWARDS_PER_PEER = 64
"""Requests of one previous hop that wait for an acknowledgement; more are not taken over (it tries another)."""

MAX_OWNERS = 32
"""Owners of keys that a leaf remembers: of both directories, its zone, and the trees of a busy device."""

LOOKUP_TRIES = 2

LOOKUP = ("routing", "lookup")


@dataclass(slots=True)
class _Forward:
    message: Route
    previous: int
    tried: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Lookup:
    number: int
    key: int
    tries: int = 0
    avoid: set[int] = field(default_factory=set)


Deliver = Callable[[Route, Message, float], None]
"""A body has reached the owner of its key: the request, its decoded body, now."""

OnLookup = Callable[[int, "Contact | None", int, float], None]
"""A lookup has ended: its number, the owner or None, hops, now."""


class Router:
    """Forwards, delivers and originates routed requests for one device."""

    __slots__ = (
        "_device",
        "_liveness",
        "_lookups",
        "_membership",
        "_open_of",
        "_owners",
        "_queries",
        "_requests",
        "_seen",
        "_seen_before",
        "_seen_since",
        "_waiting",
        "deliver",
        "on_lookup",
    )

    def __init__(
        self, device: Device, requests: Requests, liveness: Liveness, membership: Membership, queries: RowQueries
    ) -> None:
        self._device = device
        self._requests = requests
        self._liveness = liveness
        self._membership = membership
        self._queries = queries
        # Sets by their keys: a dictionary of a few takes a third of the memory.
        self._seen: dict[int, None] = {}
        self._seen_before: dict[int, None] = {}
        self._seen_since = float("-inf")
        self._waiting: dict[tuple[int, int], _Forward] = {}
        self._open_of: dict[int, int] = {}
        self._lookups: dict[int, _Lookup] = {}
        self._owners: dict[int, Contact] = {}
        self.deliver: Deliver = lambda route, body, now: None
        self.on_lookup: OnLookup = lambda request, owner, hops, now: None

    # Originating

    def route(self, key: int, body: Message, now: float, *, scope: Scope = Scope.GLOBAL) -> None:
        """Send `body` to the owner of `key`, best effort like every message. Needs a joined device."""
        if self._device.joined:
            self._originate(Route(self._requests.number(), key, self._device.contact, encode(body), 0, scope), now)

    def _originate(self, message: Route, now: float, avoid: Iterable[int] = ()) -> None:
        self._remember(message, now)
        forward = _Forward(message, self._device.node_id, list(avoid))
        if self._device.contact.dialable:
            self._advance(forward, now)
        else:
            self._walk(forward, now)

    def _walk(self, forward: _Forward, now: float) -> None:
        """Nobody can send us an answer unless we have dialled it: find the owner and ask it ourselves."""
        message = forward.message
        before = self._owners.pop(message.key, None)
        seeds = (
            [peer.contact for peer in self._membership.members() if not peer.suspect] if before is None else [before]
        )

        def found(now: float) -> None:
            owner = None if search.nearest is None else self._liveness.peers.get(search.nearest.node_id)
            if owner is not None:
                self._owners[message.key] = owner.contact
                if len(self._owners) > MAX_OWNERS:
                    del self._owners[next(iter(self._owners))]
                self._forward(forward, owner, now)
            elif before is not None:
                self._walk(forward, now)

        within = message.origin.zone if message.scope is Scope.ZONE else None
        search = Search(self._device, self._queries, message.key, seeds, found, within=within, brief=True)
        search.step(now)

    def lookup(self, key: int, now: float) -> int:
        """Who is nearest to `key`? The answer comes as `on_lookup` with the number returned here, never before."""
        lookup = _Lookup(self._requests.number(), key)
        self._lookups[lookup.number] = lookup
        self._device.set_timer((*LOOKUP, lookup.number), now)
        return lookup.number

    def on_timer(self, key: TimerKey, now: float) -> bool:
        if key[:2] != LOOKUP:
            return False
        lookup = self._lookups.pop(key[2], None)  # type: ignore[call-overload]
        if lookup is not None:
            self._ask(lookup, now)
        return True

    def _ask(self, lookup: _Lookup, now: float) -> None:
        number = self._requests.number()
        timeout = partial(self._lookup_timeout, number)
        patience_s = self._device.profile.lookup_timeout_s
        if not self._device.joined or not self._requests.open(("lookup", number), 0, now, patience_s, timeout):
            self._failed(lookup, now)
            return
        lookup.tries += 1
        self._lookups[number] = lookup
        first = self._next_hop(lookup.key, Scope.GLOBAL, lookup.avoid)
        message = Route(number, lookup.key, self._device.contact, encode(Lookup()))
        self._originate(message, now, lookup.avoid)
        if first is not None:
            lookup.avoid.add(first.node_id)

    def _lookup_timeout(self, number: int, now: float) -> None:
        lookup = self._lookups.pop(number)
        if lookup.tries < LOOKUP_TRIES:
            self._device.counters["lookup_retries"] += 1
            self._ask(lookup, now)
        else:
            self._failed(lookup, now)

    def _failed(self, lookup: _Lookup, now: float) -> None:
        self._device.counters["lookups_failed"] += 1
        self.on_lookup(lookup.number, None, 0, now)

    def on_found(self, sender: Contact, message: Found, now: float) -> None:
        lookup = self._lookups.get(message.request)
        if lookup is not None and self._requests.close(("lookup", message.request), 0) is not None:
            del self._lookups[message.request]
            self.on_lookup(lookup.number, sender, message.hops, now)

    def sizes(self) -> dict[str, int]:
        return {
            "seen": len(self._seen) + len(self._seen_before),
            "forwards": len(self._waiting),
            "lookups": len(self._lookups),
        }

    # On the way

    def on_route(self, sender: Contact, message: Route, now: float) -> None:
        device = self._device
        if not device.joined or message.hops >= ID_BITS:
            return
        if message.scope is Scope.ZONE and not device.contact.zone == sender.zone == message.origin.zone:
            device.counters["refused_foreign_zone"] += 1
            return
        name = (message.origin.node_id, message.request)
        if not self._was_seen(message):
            if self._open_of.get(sender.node_id, 0) >= MAX_FORWARDS_PER_PEER:
                device.counters["forwards_refused"] += 1
                return
            device.send(sender, RouteAck(*name))
            self._remember(message, now)
            self._advance(_Forward(message, sender.node_id), now)
        else:
            device.send(sender, RouteAck(*name))

    def on_route_ack(self, sender: Contact, message: RouteAck, now: float) -> None:
        name = (message.origin, message.request)
        opened_at = self._requests.close(("hop", *name), sender.node_id)
        if opened_at is not None:
            self._liveness.measured(sender.node_id, now - opened_at)
            self._end(name)

    def _advance(self, forward: _Forward, now: float) -> None:
        """Send the request one hop on; deliver it here only if nobody nearer is believed to be alive."""
        message = forward.message
        name = (message.origin.node_id, message.request)
        if message.scope is Scope.ZONE and message.origin.zone != self._device.contact.zone:
            self._end(name)  # we have moved to another zone meanwhile
            return
        # With all nearer devices tried in vain, those not yet dropped are asked again: the acknowledgement may be
        # what was lost, and an answer from the second nearest device would be a wrong answer.
        peer = self._next_hop(message.key, message.scope, forward.tried)
        if peer is None and forward.tried:
            peer = self._next_hop(message.key, message.scope, ())
        if peer is None:
            self._end(name)
            self._deliver(message, now)
        else:
            self._forward(forward, peer, now)

    def _forward(self, forward: _Forward, peer: Peer, now: float) -> None:
        message = forward.message
        name = (message.origin.node_id, message.request)
        timeout_s, no_ack = self._liveness.timeout_s(peer.node_id, now), partial(self._no_ack, name)
        if len(forward.tried) >= MAX_TRIES or not self._requests.open(
            ("hop", *name), peer.node_id, now, timeout_s, no_ack
        ):
            self._device.counters["forwards_given_up"] += 1
            self._end(name)
            return
        forward.tried.append(peer.node_id)
        if name not in self._waiting:
            self._waiting[name] = forward
            self._open_of[forward.previous] = self._open_of.get(forward.previous, 0) + 1
        self._device.counters["forwards"] += 1
        self._device.send(peer.contact, message.onward())

    def _no_ack(self, name: tuple[int, int], now: float) -> None:
        forward = self._waiting[name]
        self._liveness.suspect(forward.tried[-1], now)
        if self._device.contact.dialable:
            self._advance(forward, now)
        else:
            self._end(name)  # whoever asked for this repeats it

    def _end(self, name: tuple[int, int]) -> None:
        forward = self._waiting.pop(name, None)
        if forward is not None:
            self._open_of[forward.previous] -= 1
            if not self._open_of[forward.previous]:
                del self._open_of[forward.previous]
            if not self._waiting:  # nor is any open: dictionaries that have been large never get small again
                self._waiting, self._open_of = {}, {}

    def _next_hop(self, key: int, scope: Scope, tried: Collection[int]) -> Peer | None:
        """Of the devices nearer to the key than we are: those of the slot nearest to it, there those of our own zone
        if it has any, of these the nearest by XOR. Not the nearest by RTT: every hop pays both ends' access links, so
        a shorter path beats nearer hops, and tables hold near contacts anyway."""
        own = self._device.contact
        zone, own_id = own.zone, own.node_id
        own_distance = own_id ^ key
        known = self._membership.by_id()
        nearer = [peer for node_id, peer in known.items() if node_id ^ key < own_distance and node_id not in tried]
        if scope is Scope.ZONE:
            nearer = [peer for peer in nearer if peer.contact.zone == zone]
        if len(nearer) < 2:
            return nearer[0] if nearer else None
        bits = self._membership.table.digit_bits
        slot = max(0, ID_BITS - (shared_digits(own_id, key, bits) + 1) * bits)  # bits that may differ within a slot

        def order(peer: Peer) -> tuple[bool, int, bool, int]:
            distance = peer.node_id ^ key
            return (peer.suspect, distance >> slot, peer.contact.zone != zone, distance)

        return min(nearer, key=order)

    def _deliver(self, message: Route, now: float) -> None:
        try:
            body = decode(message.body)
        except WireError:
            self._device.counters["bad_bodies"] += 1
            return
        if isinstance(body, Lookup):
            answer = Found(message.request, message.hops)
            if message.origin.node_id == self._device.node_id:
                self.on_found(self._device.contact, answer, now)
            else:
                self._device.send(message.origin, answer)
        elif body is not None:
            self.deliver(message, body, now)

    def _remember(self, message: Route, now: float) -> None:
        """Two generations: the older one is forgotten when the newer one is old or full."""
        if now - self._seen_since > SEEN_S or len(self._seen) >= MAX_SEEN // 2:
            self._seen, self._seen_before, self._seen_since = {}, self._seen, now
        self._seen[_name(message)] = None

    def _was_seen(self, message: Route) -> bool:
        name = _name(message)
        return name in self._seen or name in self._seen_before


def _name(message: Route) -> int:
    """Origin and request number as one integer, which takes a third of the memory of a pair."""
    return message.origin.node_id << 32 | message.request
