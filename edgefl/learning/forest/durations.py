"""How long devices take: a histogram that adds up on its way through a tree, and its quantiles.

Buckets are a quarter of an octave wide, so that a quantile is right to 19 %, whatever the number of devices; a report
has at most MAX_DURATIONS counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest

from edgefl.wire.learning import MAX_DURATIONS, PaceReport

SHORTEST_S = 1 / 16
PER_OCTAVE = 4
MAX_COUNT = 2**32 - 1


def one_duration(seconds: float) -> tuple[int, ...]:
    """The histogram of a single device."""
    bucket = math.floor(PER_OCTAVE * math.log2(max(seconds, SHORTEST_S) / SHORTEST_S))
    return (0,) * min(bucket, MAX_DURATIONS - 1) + (1,)


def quantile(counts: Sequence[float], share: float) -> float | None:
    """Seconds within which this share of the devices is done: the upper end of a bucket. None for no devices."""
    wanted = share * sum(counts)
    if wanted <= 0:
        return None
    reached = 0.0
    for bucket, count in enumerate(counts):
        reached += count
        if reached >= wanted - 1e-9:
            return float(SHORTEST_S * 2 ** ((bucket + 1) / PER_OCTAVE))
    return None


def merge_reports(a: PaceReport, b: PaceReport) -> PaceReport:
    """Both together."""
    pairs = zip_longest(a.durations, b.durations, fillvalue=0)
    return PaceReport(
        tuple(min(x + y, MAX_COUNT) for x, y in pairs),
        max(a.stalest, b.stalest),
        min(a.dropped + b.dropped, MAX_COUNT),
    )
