"""A device's share of a round: some epochs on its own data, and the evaluation of a model on data held back.

Both are functions of (weights, data, spec, seed) alone: the optimiser starts afresh, and the same seed shuffles the
same way, so a round can be replayed exactly on the same ONNX Runtime.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgefl.errors import ConfigError, LocalError
from edgefl.trainer.data import Dataset
from edgefl.trainer.session import Session, TrainingCancelledError


class TrainingDivergedError(LocalError):
    """The loss became infinite or NaN."""

    name: ClassVar[str] = "training-diverged"


@dataclass(frozen=True, slots=True)
class LocalSpec:
    """How a device trains in one round. `lr` belongs to the artifacts' optimiser. Raises ConfigError."""

    local_epochs: int = 1
    batch: int = 32
    lr: float = 0.05

    def __post_init__(self) -> None:
        if self.local_epochs < 1 or self.batch < 1 or not (math.isfinite(self.lr) and self.lr > 0):
            raise ConfigError(
                f"local training of {self.local_epochs} epochs, batch {self.batch}, learning rate {self.lr}",
                hint="epochs and batch are at least 1, the learning rate is above 0",
            )


@dataclass(frozen=True, slots=True)
class LocalResult:
    """`delta`: new weights minus start, flat float32 in manifest order. `loss`: mean over all samples seen."""

    delta: npt.NDArray[np.float32]
    samples: int
    loss: float
    steps: int


def train_local(
    session: Session,
    dataset: Dataset,
    spec: LocalSpec,
    *,
    seed: int,
    should_stop: Callable[[], bool] | None = None,
) -> LocalResult:
    """Train the session's current weights on `dataset` (already fitted, see data.check_fit).

    Every epoch uses every sample once in a new order, the last batch being smaller where they do not divide.
    `should_stop` is asked before every step. Raises TrainingCancelledError, TrainingDivergedError.
    """
    session.reset_optimizer()
    start = session.vector()
    rng = np.random.default_rng(seed)
    total, steps = 0.0, 0
    for epoch in range(spec.local_epochs):
        order = rng.permutation(len(dataset))
        for first in range(0, len(dataset), spec.batch):
            if should_stop is not None and should_stop():
                raise TrainingCancelledError(f"training was stopped after {steps} steps")
            part = dataset.take(order[first : first + spec.batch])
            loss = session.step(_batch(session, part), spec.lr)
            if not math.isfinite(loss):
                raise _diverged(epoch, steps, spec)
            total += loss * len(part)
            steps += 1
    delta = session.vector() - start
    if not np.isfinite(delta).all():
        raise _diverged(spec.local_epochs - 1, steps, spec)
    return LocalResult(delta, len(dataset), total / (len(dataset) * spec.local_epochs), steps)


def evaluate_local(session: Session, dataset: Dataset, batch: int = 256) -> dict[str, float]:
    """Sums over the samples, so that devices' results add up: {"loss": Σ, "samples": n} and, for cross-entropy,
    {"accuracy": number right}. Divide by the summed samples."""
    sums = {"loss": 0.0, "samples": 0.0}
    for first in range(0, len(dataset), batch):
        indices = np.arange(first, min(first + batch, len(dataset)))
        result = session.evaluate(_batch(session, dataset.take(indices)))
        for metric, value in result.items():
            weight = 1 if metric == "samples" else len(indices)
            sums[metric] = sums.get(metric, 0.0) + value * weight
    return sums


def _batch(session: Session, part: Dataset) -> dict[str, Any]:
    return {session.manifest.inputs[0].name: part.x, "target": part.y}


def _diverged(epoch: int, steps: int, spec: LocalSpec) -> TrainingDivergedError:
    return TrainingDivergedError(
        f"the loss is no longer finite in local epoch {epoch + 1} after {steps} steps",
        hint=f"lower the learning rate (now {spec.lr}), and check the scale of the data",
    )
