"""A stand-in for training, whose right answer is known: gradient descent on |x - target|² / 2.

**Not a model.** What the device adds to training and makes of the result is the code that ships
(learning/strategies/local.py); the descent between is exact, without batches and noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgefl.learning.effects import TrainResult
from edgefl.learning.strategies.local import Outcome, local_part
from edgefl.wire.learning import Metric, RoundKind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgefl.learning.effects import TrainJob


def train(
    strategy: str,
    job: TrainJob,
    model: Any,
    target: NDArray[np.float32],
    samples: int,
    *,
    lr: float = 0.5,
    steps: int = 1,
) -> TrainResult:
    """Evaluate `model` (a buffer of float32, as it travels) against `target`, and take `steps` steps from it."""
    part = local_part(strategy)
    given = np.frombuffer(model, "<f4")
    kept = None if job.kept is None else np.frombuffer(job.kept, "<f4")
    plan = part.plan(given, kept)
    with np.errstate(all="ignore"):  # a peer may hand out any bytes as a model
        error = float(np.sum((target - plan.weights) ** 2))
    weight = float(samples)
    loss = Metric("loss", error * weight, weight)
    if job.kind is not RoundKind.TRAIN:
        return TrainResult(None, samples, (loss,))
    x = plan.weights.copy()
    for _ in range(steps):
        gradient = x - target + np.float32(plan.proximal) * (x - plan.weights)
        if plan.shift is not None:
            gradient += plan.shift
        x -= np.float32(lr) * gradient
    report = part.report(given, kept, Outcome(x - plan.weights, samples, float(steps), lr, error), len(target))
    metrics = (loss, Metric("train_loss", error * weight, weight), *report.metrics)
    return TrainResult(report.vector, samples, metrics, report.kept)
