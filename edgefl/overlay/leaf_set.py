"""The leaf set of one ring: the nearest devices on either side of us on the circle of ids.

Invariant: each side holds the nearest of all peers that were offered and not removed since (up to its size), nearest
first. In a small ring a device stands on both sides. How many a side has is a matter of the profile.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from heapq import nsmallest

from edgefl.overlay.ids import ID_SPACE
from edgefl.overlay.liveness import Peer


class LeafSet:
    """Both sides of one device in one ring. `version` grows with every change of membership."""

    __slots__ = (
        "_after",
        "_before",
        "_ids",
        "_own_id",
        "_peers",
        "_reach_after",
        "_reach_before",
        "_side",
        "_size",
        "version",
    )

    def __init__(self, own_id: int, side: int) -> None:
        self._own_id = own_id
        self._side = side
        self._after: list[Peer] = []
        self._before: list[Peer] = []
        self._ids: tuple[int, ...] = ()
        self._peers: list[Peer] | None = None
        self._reach_after = self._reach_before = ID_SPACE
        """A device must be nearer than this to be in: as near as the last one of a full side."""
        self._size: int | None = None
        self.version = 0

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, node_id: int) -> bool:
        return node_id in self._ids

    def peers(self) -> list[Peer]:
        """Everybody in it, once: those after us, then those before us, nearest first. Not to be changed by the
        caller."""
        if self._peers is None:
            self._peers = list({peer.node_id: peer for peer in self._after + self._before}.values())
        return self._peers

    def neighbours(self) -> list[Peer]:
        """The device after us and the one before us; one of them in a ring of two."""
        if not self._after:
            return []
        after, before = self._after[0], self._before[0]
        return [after] if after is before else [after, before]

    def ring_size(self) -> int:
        """How many devices the ring has, by how densely those near us stand: exact for a small ring, else off by 40 %
        as often upwards as downwards (the median of a sum of n exponential gaps is n - 1/3; fleet_size.py makes more of
        it)."""
        if self._size is None:
            self._size = len(self._ids) + 1
            if self._after and len(self._ids) == 2 * self._side:
                span = self._reach_after + self._reach_before
                gaps = len(self._after) + len(self._before)
                self._size = max(self._size, (3 * gaps - 1) * ID_SPACE // (3 * span))
        return self._size

    def successor(self) -> Peer | None:
        return self._after[0] if self._after else None

    def wants(self, node_id: int) -> bool:
        """Would a device with this id be in?"""
        after = (node_id - self._own_id) % ID_SPACE
        fits = after < self._reach_after or ID_SPACE - after < self._reach_before
        return fits and node_id not in self._ids and after != 0

    def offer(self, peer: Peer) -> bool:
        """Put the peer where it belongs. True when that changed the set."""
        if not self.wants(peer.node_id):
            return False
        if self._from_us(peer) < self._reach_after:
            insort(self._after, peer, key=self._from_us)
            del self._after[self._side :]
        if self._to_us(peer) < self._reach_before:
            insort(self._before, peer, key=self._to_us)
            del self._before[self._side :]
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
        others = [peer for peer in pool if peer.node_id != self._own_id]
        self._after = nsmallest(self._side, others, key=self._from_us)
        self._before = nsmallest(self._side, others, key=self._to_us)
        self._changed()

    def _changed(self) -> None:
        self._peers = self._size = None
        self._ids = tuple([peer.node_id for peer in self.peers()])
        full = len(self._after) >= self._side  # the sides are equally long: each holds the nearest of all
        self._reach_after = self._from_us(self._after[-1]) if full else ID_SPACE
        self._reach_before = self._to_us(self._before[-1]) if full else ID_SPACE
        self.version += 1

    def _from_us(self, peer: Peer) -> int:
        return (peer.node_id - self._own_id) % ID_SPACE

    def _to_us(self, peer: Peer) -> int:
        return (self._own_id - peer.node_id) % ID_SPACE
