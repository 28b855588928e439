"""The two rings that a device stands in, that of its zone and that of the fleet: leaf sets and heartbeats.

A device beats to both neighbours of each ring (every 10 and 30 s). A neighbour silent for two and a half beats is
suspect. The leaf set rides along when it changed, and every sixth time anyway, because a list sent only on change is
lost with the packet. Who takes us for its neighbour although we know somebody in between is told so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from edgefl.overlay.device import Device
from edgefl.overlay.leaf_set import LeafSet
from edgefl.overlay.liveness import Liveness, Peer
from edgefl.overlay.requests import Requests
from edgefl.wire.contact import Contact
from edgefl.wire.overlay import MAX_RING_CONTACTS, Beat, Ring

if TYPE_CHECKING:
    from edgefl.effects import TimerKey

CORRECTION_S = 5.0
"""How often one device is told that somebody stands between us."""

MAX_CORRECTED = 32
"""Devices that were told so lately."""

ZONE_BEAT: TimerKey = ("membership", "beat", "zone")
GLOBAL_BEAT: TimerKey = ("membership", "beat", "global")


class _Ring:
    """One ring, and what was last said to its neighbours."""

    __slots__ = ("beats", "leaves", "period_s", "ring", "timer", "told", "told_version")

    def __init__(self, ring: Ring, leaves: LeafSet, period_s: float, timer: TimerKey) -> None:
        self.ring = ring
        self.leaves = leaves
        self.period_s = period_s
        self.timer = timer
        self.beats = 0
        self.told: tuple[int, ...] = ()
        self.told_version = 0


class Rings:
    """Both rings of one device."""

    __slots__ = ("_corrected", "_device", "_fleet", "_liveness", "_requests", "_zone")

    def __init__(self, device: Device, requests: Requests, liveness: Liveness) -> None:
        own_id, profile = device.node_id, device.profile
        self._device = device
        self._requests = requests
        self._liveness = liveness
        self._zone = _Ring(Ring.ZONE, LeafSet(own_id, profile.zone_side), profile.zone_beat_s, ZONE_BEAT)
        self._fleet = _Ring(Ring.GLOBAL, LeafSet(own_id, profile.fleet_side), profile.global_beat_s, GLOBAL_BEAT)
        self._corrected: dict[int, float] = {}

    @property
    def zone(self) -> LeafSet:
        return self._zone.leaves

    @property
    def fleet(self) -> LeafSet:
        return self._fleet.leaves

    def peers(self) -> list[Peer]:
        """Everybody in a leaf set; somebody in both comes twice."""
        return self.zone.peers() + self.fleet.peers()

    def sizes(self) -> dict[str, int]:
        return {"zone_leaves": len(self.zone), "global_leaves": len(self.fleet), "corrected": len(self._corrected)}

    def start(self, now: float) -> None:
        for ring in (self._zone, self._fleet):
            self._device.set_timer(ring.timer, now + ring.period_s * self._device.random.random() / 4)

    def stop(self) -> None:
        for ring in (self._zone, self._fleet):
            self._device.effects.cancel_timer(ring.timer)

    # Comings and goings

    def wants(self, contact: Contact) -> bool:
        """Would a device with this contact be in a leaf set?"""
        node_id = contact.node_id
        return self._fleet.leaves.wants(node_id) or (self._in_zone(contact) and self._zone.leaves.wants(node_id))

    def offer(self, peer: Peer, now: float) -> bool:
        """True when the peer is now in a leaf set in which it was not."""
        placed = self._offer(self._fleet, peer, now)
        if self._in_zone(peer.contact):
            placed = self._offer(self._zone, peer, now) or placed
        return placed

    def _offer(self, ring: _Ring, peer: Peer, now: float) -> bool:
        if not ring.leaves.offer(peer):
            return False
        if peer in ring.leaves.neighbours():
            self._beat_soon(ring, now)
        return True

    def remove(self, node_id: int, pool: Iterable[Peer], now: float) -> bool:
        """Take a device out and refill from everybody else who is known. True when it was in a leaf set."""
        rings = [ring for ring in (self._fleet, self._zone) if node_id in ring.leaves]
        for ring in rings:
            neighbours = ring.leaves.neighbours()
            ring.leaves.remove(node_id, self._fit_for(ring, pool))
            if ring.leaves.neighbours() != neighbours:
                self._beat_soon(ring, now)
        return bool(rings)

    def rebuild(self, pool: Iterable[Peer]) -> None:
        """We have become a leaf, which is in no ring, or are none any more."""
        known = list(pool)
        for ring in (self._fleet, self._zone):
            ring.leaves.rebuild(self._fit_for(ring, known))

    def rebuild_zone(self, pool: Iterable[Peer]) -> None:
        """Our own zone has changed."""
        self.zone.rebuild(self._fit_for(self._zone, pool))

    def _fit_for(self, ring: _Ring, pool: Iterable[Peer]) -> Iterator[Peer]:
        everywhere = ring is self._fleet
        return (peer for peer in pool if peer.contact.dialable and (everywhere or self._in_zone(peer.contact)))

    def _in_zone(self, contact: Contact) -> bool:
        return contact.zone == self._device.contact.zone

    # Heartbeats

    def _beat_soon(self, ring: _Ring, now: float) -> None:
        if self._device.joined:
            self._device.set_timer(ring.timer, now + self._device.profile.beat_soon_s)

    def beat_zone(self, now: float) -> None:
        self._beat(self._zone, now)

    def beat_fleet(self, now: float) -> None:
        self._beat(self._fleet, now)

    def _beat(self, ring: _Ring, now: float) -> None:
        device, leaves = self._device, ring.leaves
        device.set_timer(ring.timer, now + device.jittered(ring.period_s))
        ring.beats += 1
        neighbours, version = leaves.neighbours(), leaves.version
        resend = ring.told_version != version or ring.beats % device.profile.list_every == 0
        patience_s = ring.period_s * device.profile.silent_beats + self._requests.stretch_s(now)
        for peer in neighbours:
            full = resend or peer.node_id not in ring.told
            device.send(peer.contact, self._message(ring) if full else Beat(ring.ring))
            if now - peer.heard_at > patience_s:
                self._liveness.suspect(peer.node_id, now)
        ring.told, ring.told_version = tuple([peer.node_id for peer in neighbours]), version

    def _message(self, ring: _Ring) -> Beat:
        leaves = [peer.contact for peer in ring.leaves.peers() if not peer.suspect]
        return Beat(ring.ring, tuple(leaves[:MAX_RING_CONTACTS]))

    def on_beat(self, sender: Contact, message: Beat, consider: Callable[[Contact], None], now: float) -> None:
        """A neighbour (or one who thinks so) beats; every contact it names is worth considering."""
        ring = self._zone if message.ring is Ring.ZONE else self._fleet
        if ring is self._zone and not self._in_zone(sender):
            return
        for contact in message.leaves:
            if ring is self._fleet or self._in_zone(contact):
                consider(contact)
        if message.leaves and not any(peer.node_id == sender.node_id for peer in ring.leaves.neighbours()):
            self._correct(ring, sender, message, now)

    def _correct(self, ring: _Ring, sender: Contact, message: Beat, now: float) -> None:
        """Tell it whom it does not know; not too often, for it may know better."""
        named = {contact.node_id for contact in message.leaves}
        news = any(peer.node_id not in named for peer in ring.leaves.peers())
        if news and now - self._corrected.get(sender.node_id, float("-inf")) >= CORRECTION_S:
            self._corrected[sender.node_id] = now
            if len(self._corrected) > MAX_CORRECTED:
                del self._corrected[next(iter(self._corrected))]
            self._device.send(sender, self._message(ring))
