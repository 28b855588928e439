"""The history of an application: one record per round, merged from whoever knows more.

The root writes a record when a round is aggregated, and completes it one round later, when the devices have evaluated
its model. Every RoundStart carries the newest two, so each member has the history of the rounds it took part in.
"""

from __future__ import annotations

from collections.abc import Iterable

from edgefl.wire.learning import RoundRecord

MAX_ROUNDS_KEPT = 10_000
"""Records held per application, about 200 bytes each; the oldest go first."""


class History:
    """Records by round number. A record of a higher epoch, or with more metrics, replaces what was there."""

    __slots__ = ("_records",)

    def __init__(self, records: Iterable[RoundRecord] = ()) -> None:
        self._records: dict[int, RoundRecord] = {}
        self.merge(records)

    def __len__(self) -> int:
        return len(self._records)

    def merge(self, records: Iterable[RoundRecord]) -> None:
        for record in records:
            known = self._records.get(record.round)
            if known is None or (record.epoch, len(record.metrics)) >= (known.epoch, len(known.metrics)):
                self._records[record.round] = record
        for oldest in sorted(self._records)[: max(0, len(self._records) - MAX_ROUNDS_KEPT)]:
            del self._records[oldest]

    def get(self, round_: int) -> RoundRecord | None:
        return self._records.get(round_)

    def tail(self, count: int) -> tuple[RoundRecord, ...]:
        """The newest `count` records, oldest first."""
        return tuple(self._records[round_] for round_ in sorted(self._records)[-count:])

    def all(self) -> tuple[RoundRecord, ...]:
        return self.tail(len(self._records))
