"""The best model so far at the root, and when to stop for want of a better one.

A model is judged by the mean of one metric over the devices' held-back data, in a round that had its quorum: the
target's metric where the application has a target (more is better), else the loss (less is better). The best one is
kept beside the newest, replicated and saved with it, and told to everybody at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgefl.learning.metrics import mean
from edgefl.wire.learning import Best

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgefl.learning.forest.application import ForestApplication
    from edgefl.wire.learning import Metric


class BestModel:
    """What the manifest's `keep_best` and `patience` ask for; `patience` needs the best model as well."""

    def __init__(self, app: ForestApplication) -> None:
        self.app = app
        manifest = app.manifest
        self.wanted = manifest.keep_best or manifest.patience > 0
        self._metric = "loss" if manifest.target is None else manifest.target.metric

    def on_evaluated(self, metrics: Iterable[Metric]) -> None:
        """The newest model has been evaluated by a quorum."""
        ledger = self.app.ledger
        value = mean(metrics, self._metric)
        if not self.wanted or value is None or ledger.model is None:
            return
        found = Best(ledger.round, value, ledger.model)
        if self.is_better(found, ledger.best):
            self.app.advance(ledger.round, ledger.model, finished=ledger.finished, best=found)

    def is_better(self, found: Best | None, than: Best | None) -> bool:
        """Whether one beats the other. Equals do not: patience counts rounds without a gain."""
        if found is None or than is None:
            return found is not None
        return found.value < than.value if self.app.manifest.target is None else found.value > than.value

    @property
    def exhausted(self) -> bool:
        """Whether the last `patience` models that were evaluated (the newest is not, yet) all were no better."""
        ledger, patience = self.app.ledger, self.app.manifest.patience
        return patience > 0 and ledger.best is not None and ledger.round - 1 - ledger.best.round >= patience
