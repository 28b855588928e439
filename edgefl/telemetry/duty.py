"""Training takes a share of the processor on average: how long to rest after each step (a token bucket)."""

from __future__ import annotations

import math

BURST_S = 1.0
"""Of its rate that an idle device saves up: a step or two at full speed, then it is the share."""


class Duty:
    """`rate`: processor seconds a second that may be taken; infinite for as many as there are."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._credit = 0.0
        self._then = now

    def charge(self, cpu_s: float, now: float) -> None:
        """So much processor time was taken since the last charge."""
        if math.isfinite(self._rate):
            credit = self._credit + (now - self._then) * self._rate - cpu_s
            self._credit, self._then = min(credit, self._rate * BURST_S), now

    def rest_s(self, now: float) -> float:
        """Seconds until the next step may begin."""
        if math.isinf(self._rate):
            return 0.0
        return max(0.0, -self._credit / self._rate - (now - self._then))
