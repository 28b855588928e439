"""What the root says when a round begins: from which model, with how much time, and who trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgefl.learning.forest.replication import ROUND_RECORDS
from edgefl.learning.forest.zones import STEPS
from edgefl.learning.strategies.spec import parse_strategy
from edgefl.wire.learning import RoundKind, RoundStart

if TYPE_CHECKING:
    from edgefl.learning.forest.application import ForestApplication
    from edgefl.learning.forest.pacing import Pacing
    from edgefl.learning.forest.selection import Selection


def round_start(
    app: ForestApplication, kind: RoundKind, attempt: int, pacing: Pacing, selection: Selection
) -> RoundStart:
    """The next round, or the end. Only training is paced; everything else has the whole deadline."""
    ledger = app.ledger
    if ledger.model is None:
        raise ValueError("a root holds a model")
    training = kind is RoundKind.TRAIN
    pacing.allot(attempt)
    return RoundStart(
        app.id,
        ledger.epoch,
        ledger.round + 1,
        attempt * (STEPS if app.manifest.zone_rounds > 1 else 1),
        kind,
        ledger.model,
        pacing.budget_s if training else app.manifest.deadline_s,
        ledger.history.tail(ROUND_RECORDS),
        selection.draw(kind),
        pacing.own_s if training else 0.0,
        ledger.best if kind is RoundKind.DONE else None,
        app.need.said if training else 0.0,
        app.me if training and parse_strategy(app.manifest.strategy).by_zone else None,
    )
