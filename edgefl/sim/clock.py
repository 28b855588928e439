"""Virtual time: a heap of calls. Time jumps from one call to the next; equal times keep the order of scheduling."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Clock:
    """Calls to be made at virtual times, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._serial = 0

    def at(self, when: float, call: Callable[..., None], *arguments: Any) -> None:
        """Make this call at that time; a time that has passed means now."""
        self._serial += 1
        heapq.heappush(self._heap, (when if when > self.now else self.now, self._serial, call, arguments))

    def run(self, until: float) -> None:
        """Let time pass until `until`, making all calls that are due."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= until:
            self.now, _, call, arguments = pop(heap)
            self.events += 1
            call(*arguments)
        self.now = max(self.now, until)
