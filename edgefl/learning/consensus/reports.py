"""How the devices of a consensus application are: each one's newest metrics, summed up on their way to the root.

Every device tells its parent the sum over its subtree when it has changed, at most once in REPORT_S, and again after
REPEAT_S, since a word may be lost. It is the forest's `Update` without a vector, in the epoch 0, which no root has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgefl.learning.metrics import merge
from edgefl.wire.learning import Metric, Update

if TYPE_CHECKING:
    from edgefl.learning.consensus.application import ConsensusApplication
    from edgefl.wire import Contact

REPORT_S, REPEAT_S = 1.0, 15.0

REPORT_EPOCH = 0


@dataclass(frozen=True, slots=True)
class Report:
    """`round`: what every one of `participants` devices has done at least; `metrics`: their sums."""

    round: int
    participants: int
    metrics: tuple[Metric, ...]


class Reports:
    """What this device knows of its subtree."""

    def __init__(self, app: ConsensusApplication) -> None:
        self.app = app
        self.own: Report | None = None
        self._children: dict[int, Report] = {}
        self._due_at = float("inf")

    def tell(self, own: Report, now: float) -> None:
        """This device has done another round."""
        self.own = own
        self.changed(now)

    def on_report(self, sender: Contact, message: Update, now: float) -> None:
        """A child's sum. It may not claim more devices than its subtree has."""
        for child in self.app.children():
            if child.contact.node_id == sender.node_id and not child.observer:
                report = Report(message.round, min(message.participants, child.members), message.metrics)
                if self._children.get(sender.node_id) != report:
                    self._children[sender.node_id] = report
                    self.changed(now)
                return
        self.app.count("report_not_from_child")

    def total(self) -> Report:
        """The sum over the subtree, as far as it has been heard of."""
        children = {child.contact.node_id for child in self.app.children()}
        self._children = {child: report for child, report in self._children.items() if child in children}
        reports = [*self._children.values()] + ([] if self.own is None else [self.own])
        return Report(
            min((report.round for report in reports), default=0),
            sum(report.participants for report in reports),
            merge(*(report.metrics for report in reports)),
        )

    def changed(self, now: float) -> None:
        """The parent has to hear something new, or is a new one."""
        self._send_by(now + REPORT_S)

    def _send_by(self, at: float) -> None:
        if at < self._due_at:
            self._due_at = at
            self.app.set_timer("report", at)

    def on_timer(self, now: float) -> None:
        self._due_at = float("inf")
        parent, total = self.app.parent, self.total()
        if parent is not None and total.participants:
            self.app.effects.send(
                parent,
                Update(
                    self.app.id,
                    REPORT_EPOCH,
                    total.round,
                    0,
                    participants=total.participants,
                    metrics=total.metrics,
                    final=True,
                ),
            )
        self._send_by(now + REPEAT_S)
