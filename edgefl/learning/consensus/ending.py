"""The end of a consensus application, and its beginning: what its devices cannot do by looking at neighbours alone.

The root of the tree lets the devices begin once enough are there. When all have done their rounds (or the target is
reached, the owner stops it, or the last ones are too late), it runs the last rounds of a forest:

    merge      only with `merge=1`: a round whose updates are the devices' own models, so that its result is their mean
               weighted by samples, of which the theory says that a single one suffices
    evaluate   every device its own model, or the merged one
    the end    everybody keeps the merged model, or its own; observers, and who comes late, get that of the root

All that makes a forest's round exact and lets it survive its root holds here as well: it is the same code. The merged
model has the number `rounds` + 1. Source of the merge: Zhu et al., On the Surprising Effectiveness of a Single Global
Merging in Decentralized Learning, 2026 (arXiv 2507.06542).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgefl.learning.consensus.surroundings import Stage
from edgefl.learning.forest.coordinator import Coordinator
from edgefl.learning.metrics import mean
from edgefl.wire.application import AppState

if TYPE_CHECKING:
    from edgefl.learning.consensus.application import ConsensusApplication
    from edgefl.wire.learning import Metric


class Ending(Coordinator):
    """The root's part in a consensus application."""

    app: ConsensusApplication

    def __init__(self, app: ConsensusApplication) -> None:
        super().__init__(app)
        self._done_at: float | None = None

    def may_start(self, now: float) -> bool:
        app, device = self.app, self.app.device
        if app.advert.state is AppState.STOPPED or self._target_reached:
            return self._go(now)
        if device.stage is Stage.WAITING:
            if app.is_prepared:
                device.begin(now)
            return False
        if device.stage is not Stage.DONE:
            return False
        if self._done_at is None:
            self._done_at = now
        done, tree = app.reports.total(app.manifest.rounds + 1), app.tree
        everybody = tree is not None and done.participants >= tree.members
        return (everybody or now >= self._done_at + app.manifest.deadline_s) and self._go(now)

    def _go(self, now: float) -> bool:
        """The last rounds have numbers above all others."""
        self.app.end(now)
        return True

    def is_last(self) -> bool:
        return not self.app.options.merge or self.app.ledger.round > self.app.manifest.rounds

    def on_report(self, evaluation: list[Metric], participants: int) -> None:
        """The mean of the devices' own models, which may have reached the target."""
        target, tree = self.app.manifest.target, self.app.tree
        if target is not None and tree is not None and participants >= self.app.manifest.quorum * tree.members:
            reached = mean(evaluation, target.metric)
            self._target_reached |= reached is not None and reached >= target.value
