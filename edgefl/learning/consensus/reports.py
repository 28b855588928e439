"""How the devices of a consensus application are: their metrics of each round, summed up on their way to the root.

Every device tells its parent the sum over its subtree for a round as soon as all of it has done the round, or after
PATIENCE_S at most, and again whenever it changes: a later word about a round replaces an earlier one. What is newest is
repeated every REPEAT_S, since a word may be lost. It is the forest's `Update` without a vector, in the epoch
0, which no root has. Round `rounds` + 1 says that a device has done all its rounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgefl.declared import dataclass
from edgefl.learning.metrics import merge
from edgefl.wire.learning import Metric, Update

if TYPE_CHECKING:
    from edgefl.learning.consensus.application import ConsensusApplication
    from edgefl.wire import Contact

PATIENCE_S, REPEAT_S = 5.0, 15.0

MAX_OPEN = 8
"""Rounds for which words are still taken: neighbours are at most a few apart."""

REPORT_EPOCH = 0


@dataclass(frozen=True, slots=True)
class Report:
    """The sums of `metrics` over so many devices, for one round."""

    participants: int
    metrics: tuple[Metric, ...] = ()


class Reports:
    """What this device knows of its subtree, for the newest rounds."""

    def __init__(self, app: ConsensusApplication) -> None:
        self.app = app
        self._own: dict[int, Report] = {}
        self._children: dict[int, dict[int, Report]] = {}
        self._told: dict[int, Report] = {}
        self._look_at = float("inf")

    def tell(self, round_: int, own: Report, now: float) -> None:
        """This device has done a round."""
        self._own[round_] = own
        self._heard(round_, now)

    def on_report(self, sender: Contact, message: Update, now: float) -> None:
        """A child's sum. It may not claim more devices than its subtree has, or rounds that there are not."""
        for child in self.app.children():
            if child.contact.node_id == sender.node_id and not child.observer:
                if not self._plausible(message.round):
                    break
                report = Report(min(message.participants, child.members), message.metrics)
                self._children.setdefault(message.round, {})[sender.node_id] = report
                self._heard(message.round, now)
                return
        self.app.count("report_refused")

    def _plausible(self, round_: int) -> bool:
        """Near the own round, so that nobody can push out the words about it; or the last word."""
        last = self.app.manifest.rounds + 1
        return round_ == last or (1 <= round_ < last and abs(round_ - self.app.device.round) < MAX_OPEN)

    def total(self, round_: int) -> Report:
        """The sum over the subtree, as far as it has been heard of."""
        present = {child.contact.node_id for child in self.app.children()}
        reports = [report for child, report in self._children.get(round_, {}).items() if child in present]
        if round_ in self._own:
            reports.append(self._own[round_])
        return Report(sum(report.participants for report in reports), merge(*(report.metrics for report in reports)))

    def _complete(self, round_: int) -> bool:
        heard = self._children.get(round_, {})
        wanted = {child.contact.node_id for child in self.app.children() if child.members}
        return wanted <= set(heard) and (round_ in self._own or not self.app.trains)

    def _heard(self, round_: int, now: float) -> None:
        rounds = sorted({*self._own, *self._children})
        for old in rounds[:-MAX_OPEN]:
            for table in (self._own, self._children, self._told):
                table.pop(old, None)
        if round_ in rounds[-MAX_OPEN:]:
            if self._complete(round_) or round_ in self._told:
                self._tell(round_, now)
            else:
                self._look_by(now + PATIENCE_S)

    def _look_by(self, at: float) -> None:
        if at < self._look_at:
            self._look_at = at
            self.app.set_timer("report", at)

    def _tell(self, round_: int, now: float, *, again: bool = False) -> None:
        """What the sum is now: the parent shall know, or at the root everybody."""
        total, parent = self.total(round_), self.app.parent
        if not again and self._told.get(round_) == total:
            return
        self._told[round_] = total
        if parent is None:
            self.app.on_total(round_, total, now)
        else:
            message = Update(
                self.app.id,
                REPORT_EPOCH,
                round_,
                0,
                participants=total.participants,
                metrics=total.metrics,
                final=True,
            )
            self.app.effects.send(parent, message)

    def on_timer(self, now: float) -> None:
        self._look_at = float("inf")
        rounds = sorted({*self._own, *self._children})
        for round_ in rounds:
            self._tell(round_, now, again=round_ == rounds[-1])
        self._look_by(now + REPEAT_S)

    def on_parent(self, now: float) -> None:
        """A new parent knows nothing yet."""
        self._told.clear()
        self._look_by(now)
