"""Who is alive: first-hand knowledge of peers, suspicion, verification, tombstones.

Two laws.
*First hand only*: a `Peer` exists here only after the device itself has spoken to us as a joined member. What others
say about a device (hearsay) can at most cause a ping to it; so dead devices cannot live on in gossip, and nobody can
overwrite what a device said about itself.
*Suspect, verify, then drop*: one lost packet drops nobody.

    unknown --ping answered / speaks to us--> ALIVE --probe, hop or beat missing, link lost--> SUSPECT
    SUSPECT --anything that it sent later, a newer incarnation--> ALIVE
    SUSPECT --two pings unanswered--> dropped, with a tombstone
    ALIVE --says Leaving, or answers as not joined--> dropped

A tombstone (tombstones.py) makes us deaf to hearsay about that device for a minute; the device itself is always heard,
unless it has left on purpose. (SWIM's suspicion, simplified: there is no need that everybody agrees.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import field
from functools import partial

from edgefl.declared import dataclass
from edgefl.overlay.coordinates import COORDINATE_BYTES, moved, unpack_coordinate
from edgefl.overlay.device import Device
from edgefl.overlay.fleet_size import FleetSize, pack_size
from edgefl.overlay.quota import Quota
from edgefl.overlay.requests import Requests
from edgefl.overlay.tombstones import Tombstones
from edgefl.wire.contact import Contact
from edgefl.wire.overlay import Ping, Pong

MAX_PEERS = 768
"""Known devices: at most 528 in slots (22 rows of 8 with 3 each), in practice 150 at 10^6 nodes; then leaf sets and
neighbours in trees. Beyond it, peers that no table refers to go first. About 300 bytes each."""

MAX_LOOSE = 16
"""Devices that no table refers to and that are remembered for long, those heard last: they fill the gaps when contacts
die, and are the leaves that have us for a door."""

MAX_FORGOTTEN = 256
"""Contacts of those that were forgotten: they may still have us in their tables, and hear when we move or leave."""

MAX_CHECKING = 96
"""Devices known by hearsay that are being pinged at the same time: the size of a join's measurement."""

HEARSAY_SHARE, HEARSAY_WINDOW_S = 48.0, 24.0
"""Pings to strangers that one informant may cause: the news in a full answer to FindRows, 2 per second in the long
run."""

VERIFYING_PINGS = 2
TIMEOUT_RTTS = 4
RTT_GAIN_DOWN, RTT_GAIN_UP = 0.5, 0.25
"""Weights of a new sample below and above the smoothed value."""

NEGLIGIBLE_S = 0.05
"""Below this a multiple of the RTT says nothing: it is scheduling."""


@dataclass(slots=True, eq=False)
class Peer:
    """A device that has spoken to us. `rtt_s` is smoothed, None before the first measurement; `coordinate` is what it
    claims, packed: 8 bytes, of which a process keeps hundreds."""

    contact: Contact
    heard_at: float
    rtt_s: float | None = None
    suspect: bool = False
    suspected_at: float = 0.0
    coordinate: bytes | None = None
    node_id: int = field(init=False)

    def __post_init__(self) -> None:
        self.node_id = self.contact.node_id


Then = Callable[["Peer | None", float], None]
"""What to do when a ping ends: the peer if it answered as a joined member, else None; and the time."""


def _nothing(*_: object) -> None:
    """The default hook."""


@dataclass(slots=True)
class Hooks:
    """What the other components do about news of peers."""

    appeared: Callable[[Peer, bool, float], None] = _nothing  # a new one; True when it has spoken to us by itself
    changed: Callable[[Peer, Contact, float], None] = _nothing  # new contact of a known device; the old one given
    gone: Callable[[Peer, bool, float], None] = _nothing  # dropped; True when it said so itself
    pinned: Callable[[], set[int]] = field(default=set)  # some table refers to them


class Liveness:
    """All peers of one device."""

    __slots__ = (
        "_checking",
        "_device",
        "_forgotten",
        "_hearsay",
        "_probing",
        "_requests",
        "_tombstones",
        "_zone_places",
        "_zones_heard",
        "fleet_guess",
        "fleet_size",
        "hooks",
        "peers",
    )

    def __init__(self, device: Device, requests: Requests) -> None:
        self._device = device
        self._requests = requests
        self._tombstones = Tombstones(device.profile.tombstone_s)
        # Sets by their keys: an empty set takes three times the memory of an empty dictionary, and these mostly are.
        self._checking: dict[int, None] = {}
        self._probing: dict[int, None] = {}
        self._hearsay = Quota(HEARSAY_SHARE, HEARSAY_WINDOW_S)
        self._zones_heard: dict[int, float] = {}
        self._zone_places: dict[int, bytes] = {}
        self.peers: dict[int, Peer] = {}
        self.hooks = Hooks()
        self._forgotten: list[Contact] = []
        self.fleet_size = FleetSize()
        self.fleet_guess: Callable[[], int] = lambda: 0

    # What is known

    def rtt_s(self, node_id: int) -> float | None:
        peer = self.peers.get(node_id)
        return None if peer is None else peer.rtt_s

    def newest(self, contact: Contact) -> Contact:
        """What the device has told us itself, if this (which may be hearsay) is not newer."""
        peer = self.peers.get(contact.node_id)
        return contact if peer is None or peer.contact.incarnation < contact.incarnation else peer.contact

    def is_suspect(self, node_id: int) -> bool:
        peer = self.peers.get(node_id)
        return peer is not None and peer.suspect

    def has_spoken_since(self, node_id: int, at: float) -> bool:
        """Heard first-hand after that time, and not silent again."""
        peer = self.peers.get(node_id)
        return peer is not None and peer.heard_at > at and not peer.suspect

    def timeout_s(self, node_id: int, now: float) -> float:
        """How long to wait for this device to answer; longer if the link to it may have to be dialled first."""
        peer, profile = self.peers.get(node_id), self._device.profile
        if peer is None or peer.rtt_s is None:
            return profile.cold_timeout_s
        timeout_s = max(profile.rpc_timeout_s, TIMEOUT_RTTS * peer.rtt_s)
        if now - peer.heard_at > profile.cold_link_s:
            return max(timeout_s, profile.cold_timeout_s)
        return timeout_s

    def is_in_doubt(self, peer: Peer) -> bool:
        """Being asked, or found silent: another probe would tell nothing new."""
        return peer.suspect or peer.node_id in self._probing

    def without_doubt(self, peers: Iterable[Peer]) -> list[Peer]:
        """Those of them that are neither suspect nor being asked."""
        probing = self._probing
        return [peer for peer in peers if not peer.suspect and peer.node_id not in probing]

    def is_buried(self, contact: Contact, now: float) -> bool:
        """Known to be dead at this incarnation or a later one."""
        return self._tombstones.covers(contact, now)

    def has_buried(self, node_id: int) -> bool:
        """Found dead, and not heard of since."""
        return node_id in self._tombstones

    def everybody(self) -> list[Contact]:
        """All who may have us in their tables: whoever takes us in announces itself."""
        known = [peer.contact for peer in self.peers.values()]
        return known + [contact for contact in self._forgotten if contact.node_id not in self.peers]

    def sizes(self) -> dict[str, int]:
        return {
            "forgotten": len(self._forgotten),
            "tombstones": len(self._tombstones),
            "checking": len(self._checking),
            "probing": len(self._probing),
        }

    def take_zone_news(self) -> tuple[dict[int, float], dict[int, bytes]]:
        """When each zone was last heard, and where one of its devices says it is (8 bytes); as far as it is news."""
        news = self._zones_heard, self._zone_places
        self._zones_heard, self._zone_places = {}, {}
        return news

    def _hear_zone(self, zone: int, now: float) -> None:
        if len(self._zones_heard) >= MAX_PEERS:  # nobody takes the news, or somebody invents labels
            self.take_zone_news()
        self._zones_heard[zone] = now

    # First-hand news

    def heard(self, sender: Contact, now: float) -> Peer | None:
        """A known device speaks: it is alive. None when it is unknown, or the message is of an earlier incarnation."""
        peer = self.peers.get(sender.node_id)
        return peer if peer is not None and self._hear(peer, sender, now) else None

    def _hear(self, peer: Peer, sender: Contact, now: float) -> bool:
        known = peer.contact
        if sender is not known and sender.incarnation < known.incarnation:
            return False
        peer.heard_at = now
        self._zones_heard[known.zone] = now
        if peer.suspect and now - peer.suspected_at > self._flight_s(peer):
            self._clear(peer)
        return True

    def _flight_s(self, peer: Peer) -> float:
        """How long messages may have been under way: one that was sent before the suspicion arose proves nothing."""
        return self._device.profile.rpc_timeout_s if peer.rtt_s is None else peer.rtt_s

    def _clear(self, peer: Peer) -> None:
        peer.suspect = False
        self._device.counters["false_alarms"] += 1

    def learn(self, sender: Contact, now: float) -> Peer | None:
        """A device speaks to us as a joined member: know it from now on. None if the message is of an earlier
        incarnation, or of a device that has left."""
        peer = self.peers.get(sender.node_id)
        if peer is None:
            if self._tombstones.has_left(sender, now):
                return None  # it has left: this was sent before that and overtaken on the way
            peer = self._new(sender, now)
            self.hooks.appeared(peer, True, now)
            return peer
        if not self._hear(peer, sender, now):
            return None
        before = peer.contact
        if sender.incarnation > before.incarnation:
            peer.contact = sender
            self._hear_zone(sender.zone, now)
            if peer.suspect:
                self._clear(peer)  # it was what it was before that fell silent: it has moved, or restarted
            self.hooks.changed(peer, before, now)
        return peer

    def meet(self, sender: Contact, rtt_s: float, now: float) -> Peer | None:
        """A joined member answers our question: learn and measure it. It may not know us."""
        if sender.node_id in self.peers:
            peer = self.learn(sender, now)
            self.measured(sender.node_id, rtt_s)
        else:
            peer = self._new(sender, now)
            peer.rtt_s = rtt_s
            self.hooks.appeared(peer, False, now)
        return peer

    def _new(self, sender: Contact, now: float) -> Peer:
        peer = Peer(sender, now)
        self.peers[sender.node_id] = peer
        self._hear_zone(sender.zone, now)
        self._tombstones.lift(sender.node_id)
        if len(self.peers) > MAX_PEERS:
            self._make_room(peer)
        return peer

    def measured(self, node_id: int, rtt_s: float) -> None:
        """Smooth the round-trip time. The first sample, which often includes dialling, is corrected quickly by lower
        ones; one that is far above what is known includes dialling or a repetition, and does not count."""
        peer = self.peers.get(node_id)
        if peer is None:
            return
        if peer.rtt_s is None:
            peer.rtt_s = rtt_s
        elif rtt_s <= peer.rtt_s:
            peer.rtt_s += RTT_GAIN_DOWN * (rtt_s - peer.rtt_s)
        elif rtt_s <= max(TIMEOUT_RTTS * peer.rtt_s, NEGLIGIBLE_S):
            peer.rtt_s += RTT_GAIN_UP * (rtt_s - peer.rtt_s)

    def says_it_is_gone(self, sender: Contact, now: float, *, on_purpose: bool) -> None:
        """It leaves, or has restarted and is not joined. A word from before its last start does not count."""
        peer = self.peers.get(sender.node_id)
        if peer is not None and sender.incarnation >= peer.contact.incarnation:
            self._drop(peer, now, on_purpose=on_purpose)

    def _drop(self, peer: Peer, now: float, *, on_purpose: bool) -> None:
        del self.peers[peer.node_id]
        self._tombstones.bury(peer.contact, now, left=on_purpose)
        self.hooks.gone(peer, on_purpose, now)

    # Questions

    def ping(self, contact: Contact, now: float, then: Then, *, timeout_s: float | None = None) -> None:
        """Ask a device whether it is there and joined; measures the RTT on the way."""
        number = self._requests.number()
        if timeout_s is None:
            timeout_s = self.timeout_s(contact.node_id, now)
        if self._requests.open(("ping", number), contact.node_id, now, timeout_s, partial(then, None), then):
            self._device.send(contact, Ping(number))
        else:
            then(None, now)

    def on_ping(self, sender: Contact, message: Ping, now: float) -> None:
        device = self._device
        coordinate = device.coordinate.pack() if device.joined else b""
        fleet = pack_size(self.fleet_guess()) if device.joined else 0
        device.send(sender, Pong(message.request, device.joined, coordinate, fleet))
        peer = self.peers.get(sender.node_id)
        if peer is not None and sender.incarnation > peer.contact.incarnation:
            self.check(sender, sender.node_id, now)  # restarted, or moved: its Pong will tell which

    def on_pong(self, sender: Contact, message: Pong, now: float) -> None:
        question = self._requests.take(("ping", message.request), sender.node_id)
        if question is None:
            return
        opened_at, then = question.opened_at, question.then
        if not message.joined:
            self._checking.pop(sender.node_id, None)  # it lives, and will join: no tombstone
            self.says_it_is_gone(sender, now, on_purpose=False)
            then(None, now)
            return
        peer = self.meet(sender, now - opened_at, now)
        if peer is not None and len(message.coordinate) == COORDINATE_BYTES:
            self._place(peer, message.coordinate, now - opened_at)
        self.fleet_size.hear(message.fleet)
        if peer is not None and peer.suspect and opened_at >= peer.suspected_at:
            self._clear(peer)
        then(peer, now)

    def _place(self, peer: Peer, coordinate: bytes, rtt_s: float) -> None:
        """Where the peer says it is, and what this measurement says about where we are. (A first one may include
        dialling: far above the smoothed value later, it does not count.)"""
        first = peer.coordinate is None
        peer.coordinate = self._zone_places[peer.contact.zone] = coordinate
        if not first and peer.rtt_s is not None and rtt_s <= TIMEOUT_RTTS * peer.rtt_s:
            self._device.coordinate = moved(
                self._device.coordinate, unpack_coordinate(coordinate), rtt_s, self._device.random
            )

    def check(self, contact: Contact, informant: int, now: float) -> None:
        """Hearsay about a device that we do not know (at this incarnation): ping it, learn it if it answers."""
        node_id = contact.node_id
        if (
            node_id in self._checking
            or len(self._checking) >= MAX_CHECKING
            or self.is_buried(contact, now)
            or not contact.dialable
            or not self._hearsay.spend(informant, 1.0, now)
        ):
            return

        def checked(peer: Peer | None, now: float) -> None:
            silent = node_id in self._checking
            self._checking.pop(node_id, None)
            if peer is None and silent and node_id not in self.peers:
                self._tombstones.bury(contact, now)

        self._checking[node_id] = None
        self.ping(contact, now, checked)

    def probe(self, peer: Peer, now: float, *, timeout_s: float | None = None) -> None:
        """A routine question; silence makes the peer suspect."""

        def probed(answer: Peer | None, now: float) -> None:
            self._probing.pop(peer.node_id, None)
            if answer is None:
                self.suspect(peer.node_id, now)

        self._probing[peer.node_id] = None
        self.ping(peer.contact, now, probed, timeout_s=timeout_s)

    def suspect(self, node_id: int, now: float) -> None:
        """Something did not come from this device: route around it and find out."""
        peer = self.peers.get(node_id)
        if peer is None or peer.suspect:
            return
        peer.suspect, peer.suspected_at = True, now
        self._device.counters["suspicions"] += 1
        self._verify(peer, VERIFYING_PINGS, now)

    def _verify(self, peer: Peer, pings: int, now: float) -> None:
        if self.peers.get(peer.node_id) is not peer or not peer.suspect:
            return
        if pings == 0:
            self._device.counters["deaths"] += 1
            self._drop(peer, now, on_purpose=False)
        elif self._requests.is_full():
            peer.suspect = False  # too busy to find out now; the next silence asks again
        else:
            # The second ping follows halfway: an answer to the first one still counts then, as a sign of life.
            wait_s = self.timeout_s(peer.node_id, now) / VERIFYING_PINGS
            self.ping(peer.contact, now, partial(self._verified, peer, pings - 1), timeout_s=wait_s)

    def _verified(self, peer: Peer, pings_left: int, answer: Peer | None, now: float) -> None:
        if answer is None:
            self._verify(peer, pings_left, now)

    # Bounds

    def _make_room(self, newest: Peer) -> None:
        """Forget the least recently heard peers that no table refers to: a tenth at once, so that this is rare."""
        for peer in self._loose(newest)[: MAX_PEERS // 10]:
            del self.peers[peer.node_id]

    def forget_loose(self, members: int) -> None:
        """Keep only those peers without a place in a table that were heard last; so many have one there at least."""
        if len(self.peers) > MAX_LOOSE + members:
            going = {peer.node_id: peer.contact for peer in self._loose(None)[:-MAX_LOOSE]}
            if going:  # a new dictionary: one that has been large never gets small again
                self.peers = {node_id: peer for node_id, peer in self.peers.items() if node_id not in going}
                before = [c for c in self._forgotten if c.node_id not in self.peers and c.node_id not in going]
                self._forgotten = [*before, *going.values()][-MAX_FORGOTTEN:]

    def _loose(self, newest: Peer | None) -> list[Peer]:
        """Peers that no table refers to, the least recently heard first."""
        pinned = self.hooks.pinned()
        loose = [p for node_id, p in self.peers.items() if node_id not in pinned and p is not newest]
        return sorted(loose, key=lambda p: p.heard_at)
