"""The history of an application: one record per round, merged from whoever knows more.

The root writes a record when a round is aggregated, and completes it one round later, when the devices have evaluated
its model. Every RoundStart carries the newest two, so each member has the history of the rounds it took part in; the
root and its runners-up have it all (forest/gaps.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from edgefl.wire.learning import MAX_METRICS, Metric, RoundRecord

MAX_ROUNDS_KEPT = 10_000
"""Records held per application, about 200 bytes each; the oldest go first."""


class History:
    """Records by round number. One of a higher epoch replaces what was there; two of one epoch complete each other."""

    __slots__ = ("_records",)

    def __init__(self, records: Iterable[RoundRecord] = ()) -> None:
        self._records: dict[int, RoundRecord] = {}
        self.merge(records)

    def __len__(self) -> int:
        return len(self._records)

    def merge(self, records: Iterable[RoundRecord]) -> None:
        for record in records:
            known = self._records.get(record.round)
            if known is None or record.epoch > known.epoch:
                self._records[record.round] = record
            elif record.epoch == known.epoch:
                self._records[record.round] = _completed(known, record)
        for oldest in sorted(self._records)[: max(0, len(self._records) - MAX_ROUNDS_KEPT)]:
            del self._records[oldest]

    def get(self, round_: int) -> RoundRecord | None:
        return self._records.get(round_)

    def tail(self, count: int) -> tuple[RoundRecord, ...]:
        """The newest `count` records, oldest first."""
        return tuple(self._records[round_] for round_ in sorted(self._records)[-count:])

    def all(self) -> tuple[RoundRecord, ...]:
        return self.tail(len(self._records))

    def is_missing(self, round_: int) -> bool:
        """Whether there is no record of this round although there is of a later one (and not one too old to keep)."""
        newest = max(self._records, default=0)
        return max(-1, newest - MAX_ROUNDS_KEPT) < round_ < newest and round_ not in self._records

    def lacks(self) -> int:
        """One more than the newest round that is missing; 0 when none is."""
        newest = max(self._records, default=0)
        if len(self._records) > min(newest, MAX_ROUNDS_KEPT - 1):
            return 0
        return next((round_ + 1 for round_ in range(newest - 1, -1, -1) if self.is_missing(round_)), 0)

    def below(self, bound: int, count: int) -> tuple[RoundRecord, ...]:
        """The newest `count` records of rounds below this one, oldest first."""
        return tuple(self._records[round_] for round_ in sorted(r for r in self._records if r < bound)[-count:])


def _completed(known: RoundRecord, news: RoundRecord) -> RoundRecord:
    """What both say: who made the model knows how, who evaluated it how good it is. Of two values of one metric the
    one with more weight counts, so that merging ends at the same record in any order."""

    def key(record: RoundRecord) -> tuple[float, ...]:
        return record.participants, record.samples, record.seconds, record.bytes, record.attempts

    best = max(known, news, key=key)
    metrics: dict[str, Metric] = {}
    for metric in (*known.metrics, *news.metrics):
        other = metrics.get(metric.name)
        if other is None or (metric.weight, metric.total) > (other.weight, other.total):
            metrics[metric.name] = metric
    return replace(best, metrics=tuple(metrics[name] for name in sorted(metrics)[:MAX_METRICS]))
