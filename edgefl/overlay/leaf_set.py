"""The leaf set of one ring: the nearest devices on either side of us on the circle of ids.

Invariant: each side holds the nearest of all peers that were offered and not removed since (up to its size), nearest
first. In a small ring a device stands on both sides. How many a side has is a matter of the profile.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from heapq import nsmallest
from operator import itemgetter

from edgefl.overlay.ids import ID_SPACE, clockwise
from edgefl.overlay.liveness import Peer


class LeafSet:
    """Both sides of one device in one ring. `version` grows with every change of membership."""

    def __init__(self, own_id: int, side: int) -> None:
        self._own_id = own_id
        self._side = side
        self._after: list[tuple[int, Peer]] = []
        self._before: list[tuple[int, Peer]] = []
        self._ids: tuple[int, ...] = ()
        self._peers: list[Peer] | None = None
        self.version = 0

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, node_id: int) -> bool:
        return node_id in self._ids

    def peers(self) -> list[Peer]:
        """Everybody in it, once: those after us, then those before us, nearest first. Not to be changed by the
        caller."""
        if self._peers is None:
            self._peers = list({peer.node_id: peer for _, peer in self._after + self._before}.values())
        return self._peers

    def neighbours(self) -> list[Peer]:
        """The device after us and the one before us; one of them in a ring of two."""
        return list({side[0][1].node_id: side[0][1] for side in (self._after, self._before) if side}.values())

    def ring_size(self) -> int:
        """How many devices the ring has, by how densely those near us stand: exact for a small ring, else off by 40 %
        as often upwards as downwards (the median of a sum of n exponential gaps is n - 1/3; fleet_size.py makes more of
        it)."""
        if not self._after or len(self._ids) < 2 * self._side:
            return len(self._ids) + 1
        span = self._after[-1][0] + self._before[-1][0]
        gaps = len(self._after) + len(self._before)
        return max(len(self._ids) + 1, (3 * gaps - 1) * ID_SPACE // (3 * span))

    def successor(self) -> Peer | None:
        return self._after[0][1] if self._after else None

    def wants(self, node_id: int) -> bool:
        """Would a device with this id be in?"""
        after, before = clockwise(self._own_id, node_id), clockwise(node_id, self._own_id)
        fits = self._fits(self._after, after) or self._fits(self._before, before)
        return fits and node_id not in self._ids and after != 0

    def offer(self, peer: Peer) -> bool:
        """Put the peer where it belongs. True when that changed the set."""
        if not self.wants(peer.node_id):
            return False
        self._insert(self._after, clockwise(self._own_id, peer.node_id), peer)
        self._insert(self._before, clockwise(peer.node_id, self._own_id), peer)
        self._changed()
        return True

    def remove(self, node_id: int, pool: Iterable[Peer]) -> bool:
        """Take a device out and refill from everybody else who belongs to this ring. True when it was in."""
        if node_id not in self:
            return False
        self.rebuild(peer for peer in pool if peer.node_id != node_id)
        return True

    def rebuild(self, pool: Iterable[Peer]) -> None:
        """Start again from these peers."""
        own_id, side = self._own_id, self._side
        others = [peer for peer in pool if peer.node_id != own_id]
        after = ((clockwise(own_id, peer.node_id), peer) for peer in others)
        before = ((clockwise(peer.node_id, own_id), peer) for peer in others)
        self._after = nsmallest(side, after, key=itemgetter(0))
        self._before = nsmallest(side, before, key=itemgetter(0))
        self._changed()

    def _changed(self) -> None:
        self._peers = None
        self._ids = tuple(peer.node_id for peer in self.peers())
        self.version += 1

    def _fits(self, side: list[tuple[int, Peer]], distance: int) -> bool:
        return len(side) < self._side or distance < side[-1][0]

    def _insert(self, side: list[tuple[int, Peer]], distance: int, peer: Peer) -> None:
        if self._fits(side, distance):
            insort(side, (distance, peer), key=itemgetter(0))
            del side[self._side :]
