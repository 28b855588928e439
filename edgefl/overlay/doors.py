"""The few devices through which a leaf takes part: nobody can dial it, so it is in nobody's table and needs none.

Invariant: at most four, those of its own zone before others, the nearest first. It pings one every 20 s, which keeps
the links open that it has dialled; whatever it wants to know it asks on such links, and its doors pass news on to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from edgefl.overlay.liveness import Peer
from edgefl.overlay.routing_table import BETTER_BY, assumed_rtt_s
from edgefl.wire.contact import Contact

MAX_DOORS = 4
"""All of them die within the 80 s of one round of pings with probability 10^-7 at 1 % churn a minute."""


class Doors:
    """Of one leaf; empty on other devices."""

    __slots__ = ("_doors",)

    def __init__(self) -> None:
        self._doors: list[Peer] = []

    def __len__(self) -> int:
        return len(self._doors)

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._doors)

    def __contains__(self, node_id: int) -> bool:
        return any(peer.node_id == node_id for peer in self._doors)

    def wants(self, contact: Contact, zone: int) -> bool:
        """Would an unmeasured device get a place?"""
        return contact.node_id not in self and (
            len(self) < MAX_DOORS or (contact.zone == zone and any(peer.contact.zone != zone for peer in self))
        )

    def offer(self, peer: Peer, zone: int) -> bool:
        """Give the peer a place if it deserves one. True when it has one now that it had not."""

        def distance(peer: Peer) -> tuple[bool, float]:
            return (peer.contact.zone != zone, assumed_rtt_s(peer))

        if peer.node_id in self:
            return False
        if len(self) >= MAX_DOORS:
            worst = max(self._doors, key=distance)
            mine, its = distance(peer), distance(worst)
            if not (mine[0] < its[0] or (mine[0] == its[0] and mine[1] < its[1] * BETTER_BY)):
                return False
            self._doors.remove(worst)
        self._doors.append(peer)
        return True

    def remove(self, node_id: int) -> bool:
        """True when it was a door."""
        was_in = node_id in self
        self._doors = [peer for peer in self._doors if peer.node_id != node_id]
        return was_in

    def rebuild(self, pool: Iterable[Peer], zone: int) -> None:
        """Start again from these peers."""
        self._doors.clear()
        for peer in pool:
            if peer.contact.dialable:
                self.offer(peer, zone)
