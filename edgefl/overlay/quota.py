"""Token buckets per peer: whoever floods this device spends its own allowance and nobody else's."""

from __future__ import annotations

from collections import OrderedDict

MAX_BUCKETS = 1024
"""Peers whose spending is remembered; a forgotten one starts again with a full bucket."""


class Quota:
    """Each peer may spend `burst` at once and `rate` per second in the long run."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: OrderedDict[int, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def spend(self, peer: int, cost: float, now: float) -> bool:
        """Take `cost` from the peer's bucket; False, and nothing taken, when it holds less."""
        left, at = self._buckets.get(peer, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._rate)
        allowed = left >= cost
        self._buckets[peer] = (left - cost if allowed else left, now)
        self._buckets.move_to_end(peer)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return allowed
