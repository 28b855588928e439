"""Token buckets per peer: whoever floods this device spends its own allowance and nobody else's."""

from __future__ import annotations

MAX_BUCKETS = 1024
"""Peers whose spending is remembered; a forgotten one starts again with a full bucket."""


class Quota:
    """Each peer may spend `burst` at once and `rate` per second in the long run."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: dict[int, list[float]] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def spend(self, peer: int, cost: float, now: float) -> bool:
        """Take `cost` from the peer's bucket; False, and nothing taken, when it holds less."""
        bucket = self._buckets.get(peer)
        if bucket is None:
            bucket = self._buckets[peer] = [self._burst, now]
            if len(self._buckets) > MAX_BUCKETS:
                del self._buckets[next(iter(self._buckets))]
        left = bucket[0] + (now - bucket[1]) * self._rate
        if left > self._burst:
            left = self._burst
        allowed = left >= cost
        bucket[0] = left - cost if allowed else left
        bucket[1] = now
        return allowed
