"""What a recovering root has heard from its children: how far each device is whose report has come up."""

from __future__ import annotations

from collections.abc import Iterator

from edgefl.learning.ledger import position
from edgefl.wire.learning import Standing

MAX_STANDINGS = 64
"""How many reports a recovering root remembers; the furthest are kept."""


class Standings:
    """Reports by the device that holds the model."""

    __slots__ = ("_reports", "epoch")

    def __init__(self) -> None:
        self.epoch = 0
        """The highest in any report, also of one whose model could not be had."""
        self._reports: dict[int, Standing] = {}

    def __len__(self) -> int:
        return len(self._reports)

    def __iter__(self) -> Iterator[Standing]:
        return iter(self._reports.values())

    def add(self, report: Standing) -> Standing | None:
        """Take in a report; the one that it replaces, if any."""
        self.epoch = max(self.epoch, report.epoch)
        before = self._reports.get(report.holder.node_id)
        self._reports[report.holder.node_id] = report
        if len(self._reports) > MAX_STANDINGS:
            self.drop(min(self._reports.values(), key=position).holder.node_id)
        return before

    def of(self, node_id: int) -> Standing | None:
        return self._reports.get(node_id)

    def drop(self, node_id: int) -> None:
        self._reports.pop(node_id, None)

    def clear(self) -> None:
        self._reports.clear()

    def furthest(self) -> Standing | None:
        return max(self._reports.values(), key=position, default=None)

    def any_busy(self) -> bool:
        return any(report.busy for report in self._reports.values())
