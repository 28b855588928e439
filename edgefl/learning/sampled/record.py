"""The history of a sampled application: written by aggregators, carried on with each task and along the tree."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from edgefl.learning.history import History
from edgefl.learning.metrics import TRAIN_PREFIX, mean, merge
from edgefl.wire.application import Target
from edgefl.wire.learning import Metric, RoundRecord

if TYPE_CHECKING:
    from edgefl.learning.sampled.average import Average


def epoch_of(attempt: int) -> int:
    """An attempt in the place of an epoch (learning/forest/epoch.py): the larger one is the newer one."""
    return attempt << 16


def trained_record(
    history: History,
    attempt: int,
    round_: int,
    average: Average,
    seconds: float,
    metrics: Iterable[Metric],
    bytes_: int,
) -> None:
    """Model `round_` was made of so many models, in so many seconds."""
    training = merge(metric for metric in metrics if metric.name.startswith(TRAIN_PREFIX))
    history.merge([RoundRecord(round_, epoch_of(attempt), average.count, average.samples, seconds, training, bytes_)])


def evaluated(history: History, attempt: int, round_: int, metrics: Iterable[Metric]) -> None:
    """The trainers of a task have evaluated the model that they were given, before they trained it."""
    evaluation = [metric for metric in metrics if not metric.name.startswith(TRAIN_PREFIX)]
    if not evaluation:
        return
    known = history.get(round_)
    epoch = epoch_of(attempt) if known is None else known.epoch
    history.merge([RoundRecord(round_, epoch, 0, 0, 0.0, merge(evaluation))])


def reached(records: Iterable[RoundRecord], target: Target | None) -> bool:
    """Whether one of these rounds' models has reached the target."""
    if target is None:
        return False
    values = (mean(record.metrics, target.metric) for record in records)
    return any(value is not None and value >= target.value for value in values)
