"""Metrics on their way up a tree: weighted sums by name, so that the mean at the root is exact for any tree shape."""

from __future__ import annotations

import math
from collections.abc import Iterable

from edgefl.wire.learning import MAX_METRICS, Metric

TRAIN_PREFIX = "train_"
"""Metrics of the training itself; all others describe the model that the round began with."""


def merge(*groups: Iterable[Metric]) -> tuple[Metric, ...]:
    """The sums of all groups, by name, in order of name; at most MAX_METRICS names survive.

    A value that would make a sum infinite or NaN is left out: one diverged device must not blind the others.
    """
    totals: dict[str, tuple[float, float]] = {}
    for metric in (metric for group in groups for metric in group):
        total, weight = totals.get(metric.name, (0.0, 0.0))
        total, weight = total + metric.total, weight + metric.weight
        if math.isfinite(total) and math.isfinite(weight):
            totals[metric.name] = (total, weight)
    return tuple(Metric(name, *totals[name]) for name in sorted(totals)[:MAX_METRICS])


def mean(metrics: Iterable[Metric], name: str) -> float | None:
    """The weighted mean of a metric; None when it is absent or has no weight."""
    for metric in metrics:
        if metric.name == name and metric.weight > 0:
            return metric.total / metric.weight
    return None


def means(metrics: Iterable[Metric]) -> dict[str, float]:
    """All weighted means by name."""
    return {metric.name: metric.total / metric.weight for metric in metrics if metric.weight > 0}
