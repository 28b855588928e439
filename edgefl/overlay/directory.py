"""The directory of applications: advertise and discover, without an outside service and without flooding.

Theory of operation. An advert is signed by the application's owner; of two the higher version wins (of equal versions
the one that stops more), and nothing unsigned is ever kept. Whoever holds the application's root publishes it every
minute to the owner of the directory's key, that of the fleet or (zone scope) that of the zone, and it expires after
three minutes without. Every device discovers after joining and then every minute (every four while it knows of none;
sooner when no answer came): it sends a digest of what it has, so that in the usual case, nothing new, the answer is a
few bytes, whatever the number of applications.

News does not wait for that: whoever hears a new advert passes it on once, to four random contacts and to its successor
in the ring (four alone would leave out e^-4 = 2 % of the devices), and to the leaves that it is a door of. So a fleet
knows within about a second.

That an application has stopped is remembered for an hour: a device that comes back and still publishes the old advert
is answered with the newer one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from edgefl.declared import dataclass
from edgefl.errors import WireError
from edgefl.overlay.device import Device
from edgefl.overlay.ids import directory_key
from edgefl.overlay.liveness import Peer
from edgefl.overlay.membership import Membership
from edgefl.overlay.requests import Requests
from edgefl.overlay.routing import Router
from edgefl.wire.application import Advert, AppState, pack_advert, unpack_advert
from edgefl.wire.contact import Contact
from edgefl.wire.overlay import MAX_PAGE_ADVERTS, Adverts, Discover, Publish, Route, Rumour, Scope

if TYPE_CHECKING:
    from edgefl.effects import TimerKey

MAX_ADVERTS = 1024
"""Applications known at once."""

MAX_DIRECTORY_BYTES = 2 * 1024 * 1024
"""Packed adverts kept, each of at most MAX_ADVERT_BYTES: 1,024 of 2 KiB (they are of 1 KiB today), or 341 of the
largest."""

MAX_ADVERTS_PER_OWNER = 64
MAX_BYTES_PER_OWNER = MAX_DIRECTORY_BYTES // (MAX_ADVERTS // MAX_ADVERTS_PER_OWNER)
"""One owner's share of the places and of the bytes (a sixteenth of each, 128 KiB): what is beyond it takes nobody
else's place."""

MAX_PAGES = MAX_ADVERTS // MAX_PAGE_ADVERTS + 1
"""Pages of one discovery: an owner of the key that never ends is cut off."""

HANDOVER_ADVERTS = 256
"""Adverts that a new owner of the key is sent at once: more is not heard (MESSAGE_SHARE). The rest reaches it when it
is next published, within a minute, long before it expires."""

RUMOUR_FANOUT = 4
COPIES = 2
"""Ring neighbours of the key that get a new advert at once, because one of them answers if the owner dies."""

DISCOVER: TimerKey = ("directory", "discover")
_ANSWER = ("directory", "answer")


@dataclass(slots=True)
class _Entry:
    app: int
    advert: Advert
    data: bytes
    scope: Scope
    owner: bytes
    digest: int
    expires_at: float

    @property
    def stopped(self) -> bool:
        return self.advert.state is AppState.STOPPED


@dataclass(slots=True)
class _Asking:
    """A discovery under way: the scope it is about, and the pages so far."""

    scope: Scope
    after: int = 0
    pages: int = 0


class Directory:
    """The applications that this device knows, its share in telling others, and the directory itself where it owns the
    key."""

    __slots__ = (
        "_asking",
        "_device",
        "_entries",
        "_membership",
        "_on_advert",
        "_requests",
        "_router",
        "_unpublished",
        "_verify",
    )

    def __init__(
        self,
        device: Device,
        requests: Requests,
        membership: Membership,
        router: Router,
        verify: Callable[[Advert], bool],
        on_advert: Callable[[Advert, float], None],
    ) -> None:
        self._device = device
        self._requests = requests
        self._membership = membership
        self._router = router
        self._verify = verify
        self._on_advert = on_advert
        self._entries: dict[int, _Entry] = {}
        self._unpublished: dict[int, None] = {}
        self._asking: _Asking | None = None

    def adverts(self) -> tuple[Advert, ...]:
        """All applications known, also those that have stopped lately; by id."""
        return tuple(self._entries[app].advert for app in sorted(self._entries))

    def sizes(self) -> dict[str, int]:
        return {"adverts": len(self._entries), "unpublished": len(self._unpublished)}

    # Life cycle

    def on_overlay_joined(self, now: float) -> None:
        for app in sorted(self._unpublished):
            self._spread(self._entries[app], now)
            self._send_to_owner(self._entries[app], now)
        self._unpublished.clear()
        self.discover(now)

    def stop(self) -> None:
        self._device.effects.cancel_timer(DISCOVER)

    def on_timer(self, key: TimerKey, now: float) -> bool:
        if key != DISCOVER:
            return False
        for app in [app for app, entry in self._entries.items() if entry.expires_at <= now]:
            del self._entries[app]
            self._unpublished.pop(app, None)
        self.discover(now)
        return True

    # Advertise

    def publish(self, advert: Advert, now: float) -> None:
        """Make an advert known, or keep it known. One whose signature is wrong is dropped and counted."""
        entry, new = self._accept(pack_advert(advert), now, refresh=True)
        if entry is None:
            return
        if not self._device.joined:
            self._unpublished[entry.app] = None
            return
        if new:
            self._spread(entry, now)
        self._send_to_owner(entry, now)

    def _send_to_owner(self, entry: _Entry, now: float) -> None:
        self._router.route(self._key(entry.scope), Publish(entry.data), now, scope=entry.scope)

    def on_routed_publish(self, route: Route, message: Publish, now: float) -> None:
        """We own the key: keep it, and see to it that the next owner has it."""
        entry, new = self._accept(message.advert, now, refresh=True)
        if entry is None:
            return
        if self._is_older(message.advert, entry):
            self._device.send(route.origin, Rumour(entry.data))
        elif new:
            near = sorted(self._contacts(entry.scope), key=lambda contact: contact.node_id ^ route.key)
            for contact in near[:COPIES]:
                self._device.send(contact, Publish(entry.data))
            self._spread(entry, now)

    def on_publish(self, sender: Contact, message: Publish, now: float) -> None:
        entry, new = self._accept(message.advert, now, refresh=True)
        if entry is not None and new:
            self._spread(entry, now, heard_from=sender.node_id)  # or our successor might hear of it from nobody

    def on_rumour(self, sender: Contact, message: Rumour, now: float) -> None:
        entry, new = self._accept(message.advert, now, refresh=False)
        if entry is None:
            return
        if new:
            self._spread(entry, now, heard_from=sender.node_id)
        elif self._is_older(message.advert, entry):
            self._device.send(sender, Rumour(entry.data))

    def _spread(self, entry: _Entry, now: float, heard_from: int | None = None) -> None:
        rings = self._membership.rings
        others = [contact for contact in self._contacts(entry.scope) if contact.node_id != heard_from]
        chosen = self._device.random.sample(others, min(RUMOUR_FANOUT, len(others)))
        successor = (rings.fleet if entry.scope is Scope.GLOBAL else rings.zone).successor()
        if successor is not None and successor.node_id != heard_from:
            chosen.append(successor.contact)
        zone = self._device.contact.zone
        leaves = (leaf for leaf in self._membership.leaves(now) if leaf.node_id != heard_from)
        chosen += [leaf for leaf in leaves if entry.scope is Scope.GLOBAL or leaf.zone == zone]
        for contact in {contact.node_id: contact for contact in chosen}.values():
            self._device.send(contact, Rumour(entry.data))

    def on_nearer(self, peer: Peer, now: float) -> None:
        """A device has appeared that owns a key which was ours: it must know what we know, for it would ask itself."""
        if not self._entries:
            return
        own = self._device.contact
        for scope in Scope:
            entries = [entry for entry in self._entries.values() if entry.scope is scope]
            key = self._key(scope)
            if (
                not entries
                or peer.node_id ^ key >= own.node_id ^ key
                or (scope is Scope.ZONE and peer.contact.zone != own.zone)
            ):
                continue
            others = [c for c in self._contacts(scope) if c.node_id != peer.node_id]
            if not any(contact.node_id ^ key < own.node_id ^ key for contact in others):
                for entry in entries[:HANDOVER_ADVERTS]:
                    self._device.send(peer.contact, Publish(entry.data))

    # Discover

    def discover(self, now: float) -> None:
        """Ask the directories of the fleet and of our zone, now and then every minute (four while none is known)."""
        profile = self._device.profile
        wait_s = profile.discover_s if self._entries else profile.discover_nothing_s
        self._device.set_timer(DISCOVER, now + self._device.jittered(wait_s))
        if self._device.joined and self._asking is None:
            self._ask(_Asking(Scope.GLOBAL), now)

    def _ask(self, asking: _Asking, now: float) -> None:
        self._asking = asking
        asking.pages += 1
        patience_s = self._device.profile.lookup_timeout_s
        unanswered = partial(self._unanswered, asking)
        if asking.pages > MAX_PAGES or not self._requests.open(_ANSWER, 0, now, patience_s, unanswered):
            self._end(asking, now)
            return
        digest = self._digest(self._listed(asking.scope, asking.after))
        self._router.route(self._key(asking.scope), Discover(asking.after, digest), now, scope=asking.scope)

    def _unanswered(self, asking: _Asking, now: float) -> None:
        self._device.set_timer(DISCOVER, now + self._device.jittered(self._device.profile.rediscover_s))
        self._end(asking, now)

    def _end(self, asking: _Asking, now: float) -> None:
        """This directory has answered, or will not: go on with the next."""
        self._asking = None
        if asking.scope is Scope.GLOBAL:
            self._ask(_Asking(Scope.ZONE), now)

    def on_discover(self, route: Route, message: Discover, now: float) -> None:
        if route.key != self._key(route.scope):
            return
        listed = self._listed(route.scope, message.after)
        if self._digest(listed) == message.digest:
            answer = Adverts(same=True)
        else:
            page = listed[:MAX_PAGE_ADVERTS]
            answer = Adverts(tuple(entry.data for entry in page), more=len(listed) > len(page))
        self._device.send(route.origin, answer)

    def on_adverts(self, sender: Contact, message: Adverts, now: float) -> None:
        asking = self._asking
        if asking is None or self._requests.close(_ANSWER, 0) is None:
            return
        if sender.node_id == self._device.node_id:
            self._end(asking, now)  # we own the key: only publications keep adverts alive here
            return
        if message.same:
            for entry in self._listed(asking.scope, asking.after):
                entry.expires_at = now + self._device.profile.advert_lifetime_s
        last = asking.after
        for data in message.adverts:
            held, _ = self._accept(data, now, refresh=True)  # no rumour: others can discover it, too
            if held is not None:
                last = max(last, held.app)
        if message.more and last > asking.after:
            self._ask(_Asking(asking.scope, last, asking.pages), now)
        else:
            self._end(asking, now)

    # Entries

    def _accept(self, data: bytes, now: float, *, refresh: bool) -> tuple[_Entry | None, bool]:
        """What we hold about this application after hearing `data`, and whether that was news. `refresh`: the word
        comes from its publisher or the directory's owner, so the advert lives on.

        None for adverts that are invalid, of another zone, or beyond somebody's share.
        """
        try:
            advert = unpack_advert(data)
            manifest = advert.decode_manifest()
        except WireError:
            self._device.counters["bad_adverts"] += 1
            return None, False
        if manifest.scope is Scope.ZONE and manifest.zone != self._device.contact.zone:
            return None, False
        profile, app = self._device.profile, manifest.app_id
        held = self._entries.get(app)
        if held is not None and (advert.version, advert.state) <= (held.advert.version, held.advert.state):
            if refresh and _same(advert, held.advert) and not held.stopped:
                held.expires_at = now + profile.advert_lifetime_s
                if len(data) <= len(held.data) or self._make_room(app, manifest.owner, len(data)):
                    held.advert, held.data = advert, data  # the hint who holds the artifacts may be new
            return held, False
        if not self._verify(advert):
            self._device.counters["bad_adverts"] += 1
            return None, False
        if (held is None or len(data) > len(held.data)) and not self._make_room(app, manifest.owner, len(data)):
            self._device.counters["adverts_refused"] += 1
            return None, False
        stopped = advert.state is AppState.STOPPED
        expires_at = now + (profile.stopped_lifetime_s if stopped else profile.advert_lifetime_s)
        entry = _Entry(app, advert, data, manifest.scope, manifest.owner, _digest(advert), expires_at)
        if not self._entries:  # from now on there is something to keep alive
            self._device.set_timer(DISCOVER, now + self._device.jittered(profile.discover_s))
        self._entries[app] = entry
        self._on_advert(advert, now)
        return entry, True

    def _make_room(self, app: int, owner: bytes, size: int) -> bool:
        """Whether the owner's share and the table can take `size` bytes about this application (instead of those held
        about it); what has stopped makes way, the oldest first, and nothing else does."""
        others = [entry for entry in self._entries.values() if entry.app != app]
        owned = [len(entry.data) for entry in others if entry.owner == owner]
        if len(owned) >= MAX_ADVERTS_PER_OWNER or sum(owned) + size > MAX_BYTES_PER_OWNER:
            return False
        places, room = MAX_ADVERTS - len(others), MAX_DIRECTORY_BYTES - sum(len(entry.data) for entry in others)
        going: list[int] = []
        for entry in others:
            if places > 0 and size <= room:
                break
            if entry.stopped:
                going.append(entry.app)
                places, room = places + 1, room + len(entry.data)
        if places <= 0 or size > room:
            return False
        for other in going:
            del self._entries[other]
        return True

    def _is_older(self, data: bytes, held: _Entry) -> bool:
        theirs = unpack_advert(data)
        return (theirs.version, theirs.state) < (held.advert.version, held.advert.state)

    def _listed(self, scope: Scope, after: int) -> list[_Entry]:
        """What the directory of this scope lists beyond an id: everything that has not stopped."""
        entries = [e for e in self._entries.values() if e.scope is scope and e.app > after and not e.stopped]
        return sorted(entries, key=lambda entry: entry.app)

    def _digest(self, entries: list[_Entry]) -> int:
        total = 0
        for entry in entries:
            total ^= entry.digest
        return total

    def _key(self, scope: Scope) -> int:
        return directory_key(None if scope is Scope.GLOBAL else self._device.contact.zone)

    def _contacts(self, scope: Scope) -> list[Contact]:
        zone = self._device.contact.zone
        return [
            peer.contact
            for peer in self._membership.members()
            if not peer.suspect and (scope is Scope.GLOBAL or peer.contact.zone == zone)
        ]


def _same(one: Advert, other: Advert) -> bool:
    """Word for word what the owner has signed; only the hint may differ."""
    return one.signature == other.signature and one.signed_bytes() == other.signed_bytes()


def _digest(advert: Advert) -> int:
    digest = hashlib.blake2b(advert.signed_bytes(), digest_size=8, person=b"edgefl advert").digest()
    return int.from_bytes(digest, "big")
