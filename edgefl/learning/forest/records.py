"""What the root writes down of each round: one RoundRecord, made when the round is aggregated and completed one round
later, when the devices have evaluated its model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgefl.learning.forest.worker import BYTES_METRIC
from edgefl.learning.metrics import TRAIN_PREFIX, mean, merge
from edgefl.wire.learning import Metric, RoundRecord

if TYPE_CHECKING:
    from edgefl.learning.forest.application import ForestApplication
    from edgefl.learning.forest.round import OpenRound

EPSILON_METRIC = "train_epsilon"
"""What devices could still gain by other parents, as a share of what their uplinks cost (edgefl/overlay/game)."""

NEED_METRIC = "train_need"
"""What the application needs of the fleet that it shares (edgefl/learning/together.py)."""


def record_evaluation(app: ForestApplication, metrics: tuple[Metric, ...]) -> bool:
    """Complete the record of the model that the round began with. True when the target is reached."""
    evaluation = [m for m in metrics if not m.name.startswith(TRAIN_PREFIX) and m.name != BYTES_METRIC]
    if not evaluation:
        return False
    ledger = app.ledger
    record = ledger.history.get(ledger.round) or RoundRecord(ledger.round, ledger.epoch, 0, 0, 0.0)
    training = [m for m in record.metrics if m.name.startswith(TRAIN_PREFIX)]
    ledger.history.merge([replace(record, epoch=ledger.epoch, metrics=merge(training, evaluation))])
    target = app.manifest.target
    reached = mean(evaluation, target.metric) if target is not None else None
    return target is not None and reached is not None and reached >= target.value


def record_training(
    app: ForestApplication, round_: OpenRound, attempt: int, members: int, budget_s: float, now: float
) -> None:
    """The record of the round that this root has just aggregated: which attempt it was, how many devices there were
    when it began, and the time that it was given."""
    training = [m for m in round_.sum.metrics if m.name.startswith(TRAIN_PREFIX)]
    training.append(Metric(EPSILON_METRIC, *app.forest.epsilon_sums(app.id)))
    if app.manifest.together:
        training.append(Metric(NEED_METRIC, app.need.value, 1.0))
    received = sum(m.total for m in round_.sum.metrics if m.name == BYTES_METRIC)
    record = RoundRecord(
        app.ledger.round + 1,
        app.ledger.epoch,
        round_.sum.participants,
        round_.sum.samples // app.worker.local.unit,
        now - round_.started,
        merge(training),
        int(received),
        attempt,
        members,
        round_.report.stalest,
        round_.report.dropped,
        budget_s,
    )
    app.ledger.history.merge([record])
