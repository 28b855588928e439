"""Which contact to probe next: one that was never measured, else the one not heard for longest.

To find it means to look at every contact, so a look finds several: nobody outside the queue can have been heard earlier
than those in it, because the time when a device was last heard only grows. A change of the tables ends that.
"""

from __future__ import annotations

from collections.abc import Iterable

from edgefl.overlay.liveness import Liveness, Peer

QUEUED = 8
"""A minute of probes. Longer queues are mostly heard of before their turn."""


class ProbeQueue:
    """The contacts that were heard of least, at the last look."""

    __slots__ = ("_liveness", "_looked_at", "_queue")

    def __init__(self, liveness: Liveness) -> None:
        self._liveness = liveness
        self._looked_at = 0.0
        self._queue: list[Peer] = []  # the next one last

    def clear(self) -> None:
        """The contacts have changed."""
        self._queue.clear()

    def next(self, contacts: Iterable[Peer], now: float) -> Peer | None:
        """The contact to probe. None if all are in doubt already: another probe would tell nothing new."""
        return self._first() or self._look(contacts, now)

    def _look(self, contacts: Iterable[Peer], now: float) -> Peer | None:
        sure = self._liveness.without_doubt(contacts)
        sure.sort(key=_quiet_since)
        self._queue, self._looked_at = sure[:QUEUED][::-1], now
        return self._first()

    def _first(self) -> Peer | None:
        while self._queue:
            peer = self._queue[-1]
            unheard = peer.rtt_s is None or peer.heard_at < self._looked_at
            if unheard and not self._liveness.is_in_doubt(peer):
                return peer
            self._queue.pop()
        return None


def _quiet_since(peer: Peer) -> float:
    """When it was last heard; before everybody else if it was never measured."""
    return float("-inf") if peer.rtt_s is None else peer.heard_at
