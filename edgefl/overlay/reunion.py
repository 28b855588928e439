"""Whom a device remembers without knowing that they live, and how parts of a fleet find each other through them.

Remembered are the addresses that it was given (a token, the state directory), its doors, and whom it has lost
(lost.py). They are where it knocks when it knows nobody. Once it has joined, three of them that it does not know are
pinged every minute, if there are any: partitions, and islands of any other origin, merge through it, since whoever is
found is asked who is near us (self_lookup.py). All of it may be old or hearsay, so it causes pings alone, at a constant
rate.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from edgefl.overlay.device import Device
from edgefl.overlay.doors import Doors
from edgefl.overlay.liveness import Liveness, Peer
from edgefl.overlay.lost import Lost
from edgefl.overlay.self_lookup import SelfLookup
from edgefl.wire.contact import Contact

if TYPE_CHECKING:
    from edgefl.effects import TimerKey

MAX_BOOTSTRAP = 16
"""Addresses from a token or the state directory."""

TRIED = 3
"""Lost contacts pinged at a time: all that are remembered have their turn within a quarter of an hour."""

SEEDS = 3
"""Remembered contacts that are asked at once, of each kind."""

REUNION: TimerKey = ("membership", "reunion")


class Reunion:
    """`bootstrap`: the contacts that we were given, by node id."""

    __slots__ = ("_device", "_doors", "_liveness", "_self_lookup", "bootstrap", "lost")

    def __init__(self, device: Device, liveness: Liveness, doors: Doors, self_lookup: SelfLookup) -> None:
        self._device = device
        self._liveness = liveness
        self._doors = doors
        self._self_lookup = self_lookup
        self.bootstrap: dict[int, Contact] = {}
        self.lost = Lost()

    def start(self, now: float) -> None:
        self._device.set_timer(REUNION, now + self._device.jittered(self._device.profile.reunion_s))

    def give(self, contacts: Iterable[Contact]) -> None:
        """Where to find the fleet."""
        for contact in contacts:
            self.bootstrap[contact.node_id] = contact
            if len(self.bootstrap) > MAX_BOOTSTRAP:
                del self.bootstrap[next(iter(self.bootstrap))]

    def remember(self, contacts: Iterable[Contact]) -> None:
        """Devices that we, or others, knew once: worth looking for, now and then."""
        own_id, known = self._device.node_id, self._liveness.peers
        strangers = [c for c in contacts if c.node_id != own_id and c.node_id not in known and c.dialable]
        self.lost.add(strangers, self._device.random)

    def remembered(self) -> list[Contact]:
        """Everybody worth a knock: devices that we have lost, bootstrap contacts, doors."""
        lost = {contact.node_id: contact for contact in self.lost}
        return list({**lost, **self._given()}.values())

    def _given(self) -> dict[int, Contact]:
        """Bootstrap contacts and doors."""
        given = {**self.bootstrap, **{peer.node_id: peer.contact for peer in self._doors}}
        given.pop(self._device.node_id, None)
        return given

    def seeds(self) -> list[Contact]:
        """Where to knock: at some of those that we were given, and of those that we have lost, which may be dead."""
        random, given = self._device.random, list(self._given().values())
        return random.sample(given, min(SEEDS, len(given))) + self.lost.some(SEEDS, random)

    def on_timer(self, now: float) -> None:
        self.start(now)
        device, known = self._device, self._liveness.peers
        strangers = [contact for contact in self.remembered() if contact.node_id not in known]

        def found(peer: Peer | None, now: float) -> None:
            if peer is not None:
                device.counters["reunions"] += 1
                self.lost.discard(peer.node_id)
                self._self_lookup.ask(peer.contact, now)
                self._self_lookup.start_again(now)

        for contact in device.random.sample(strangers, min(TRIED, len(strangers))):
            self._liveness.ping(contact, now, found)
