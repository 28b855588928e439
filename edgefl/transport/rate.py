"""How often somebody may ask for something that costs us time: token buckets, for all and for each asker."""

from __future__ import annotations

from edgefl.declared import dataclass

MAX_BUCKETS = 1024
"""Askers that are remembered, about 200 bytes each. Whoever falls out starts with a full bucket again."""


@dataclass(slots=True)
class _Bucket:
    level: float
    filled_at: float


class RateLimit:
    """At most `burst` at once and `rate_s` a second in the long run for each asker, `overall` times that for all."""

    def __init__(self, rate_s: float, burst: float, overall: float) -> None:
        self._rate_s = rate_s
        self._burst = burst
        self._overall = overall
        self._all = _Bucket(burst * overall, 0.0)
        self._buckets: dict[str, _Bucket] = {}

    def allow(self, asker: str, now: float) -> bool:
        """Whether this asker may go on now; counts if so."""
        bucket = self._buckets.get(asker)
        if bucket is None:
            if len(self._buckets) >= MAX_BUCKETS:
                del self._buckets[next(iter(self._buckets))]
            bucket = self._buckets[asker] = _Bucket(self._burst, now)
        self._fill(bucket, now, 1.0)
        self._fill(self._all, now, self._overall)
        if bucket.level < 1.0 or self._all.level < 1.0:
            return False
        bucket.level -= 1.0
        self._all.level -= 1.0
        return True

    def _fill(self, bucket: _Bucket, now: float, share: float) -> None:
        bucket.level = min(self._burst * share, bucket.level + (now - bucket.filled_at) * self._rate_s * share)
        bucket.filled_at = now
