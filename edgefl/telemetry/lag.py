"""How late the event loop is: a histogram. Whatever a handler takes too long for, everything else waits for.

A timer that is due every PERIOD_S fires late by as long as the loop was busy (and by as long as the system gave the
processor to others). Four wake-ups a second cost 0.1 ms of processor time.
"""

from __future__ import annotations

import asyncio
from typing import Any

PERIOD_S = 0.25

BOUNDS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
"""Upper bounds of the histogram's places, in milliseconds; one more place holds everything above. No handler may take
more than 20 ms."""


class LoopLag:
    """Measures the running loop from `start` to `stop`."""

    def __init__(self, period_s: float = PERIOD_S) -> None:
        self.counts = [0] * (len(BOUNDS_MS) + 1)
        self.worst_ms = 0.0
        self._period_s = period_s
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._arm(asyncio.get_running_loop())

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def note(self, late_s: float) -> None:
        """The timer fired so late."""
        late_ms = late_s * 1000
        self.worst_ms = max(self.worst_ms, late_ms)
        self.counts[sum(late_ms > bound for bound in BOUNDS_MS)] += 1

    def document(self) -> dict[str, Any]:
        """Counts by upper bound in milliseconds ("more" for the last), and the worst."""
        names = [*map(str, BOUNDS_MS), "more"]
        return {"worst_ms": round(self.worst_ms, 3), "counts": dict(zip(names, self.counts, strict=True))}

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + self._period_s
        self._timer = loop.call_at(due, self._fire, loop, due)

    def _fire(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self.note(loop.time() - due)
        self._arm(loop)
