"""Peers that send nonsense: counted, and kept out for a while when they overdo it. A peer wastes its own quota only."""

from __future__ import annotations

from collections.abc import Callable

MAX_GARBAGE = 64
"""Undecodable or misplaced messages of one peer before it is kept out: far more than a version skew produces (unknown
message types are not garbage), few enough to cost nothing."""

MAX_TRACKED = 1024
"""Peers with a record. Only admitted ones get one; the oldest goes first."""


class Penalties:
    """Counts garbage per peer; `on_excess(node_id)` is called when one has sent too much."""

    def __init__(self, clock: Callable[[], float], duration_s: float) -> None:
        self._clock = clock
        self._duration_s = duration_s
        self._counts: dict[int, int] = {}
        self._until: dict[int, float] = {}
        self.on_excess: Callable[[int], None] | None = None

    def garbage(self, node_id: int) -> None:
        """This peer has sent something that makes no sense."""
        count = self._counts.pop(node_id, 0) + 1
        self._counts[node_id] = count
        while len(self._counts) > MAX_TRACKED:
            del self._counts[next(iter(self._counts))]
        if count >= MAX_GARBAGE:
            self.exclude(node_id)

    def exclude(self, node_id: int) -> None:
        """Keep this peer out from now on, for the duration of a penalty."""
        self._counts.pop(node_id, None)
        self._until.pop(node_id, None)
        self._until[node_id] = self._clock() + self._duration_s
        while len(self._until) > MAX_TRACKED:
            del self._until[next(iter(self._until))]
        if self.on_excess is not None:
            self.on_excess(node_id)

    def excluded(self, node_id: int) -> bool:
        """Whether this peer is being kept out now."""
        until = self._until.get(node_id)
        if until is None:
            return False
        if self._clock() >= until:
            del self._until[node_id]
            return False
        return True
