"""A device's share of a round: some epochs on its own data, and the evaluation of a model on data held back.

Both are functions of (weights, data, spec, seed) alone: the optimiser starts afresh, and the same seed shuffles the
same way, so a round can be replayed exactly on the same ONNX Runtime.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgefl.errors import ConfigError, LocalError
from edgefl.trainer.running.cancelled import TrainingCancelledError
from edgefl.trainer.running.correction import Correction
from edgefl.trainer.running.data import Dataset
from edgefl.trainer.running.session import Session

if TYPE_CHECKING:
    from edgefl.trainer.running.schedule import Schedule


class TrainingDivergedError(LocalError):
    """The loss became infinite or NaN."""

    name: ClassVar[str] = "training-diverged"


@dataclass(frozen=True, slots=True)
class LocalSpec:
    """How a device trains in one round. `lr` belongs to the artifacts' optimiser. `micro_batch`: at most so many
    samples in memory at once, where the batch that is wanted does not fit. `proximal`: FedProx's μ, towards the model
    that the round begins with. `schedule` multiplies lr at every step of the round. Raises ConfigError."""

    local_epochs: int = 1
    batch: int = 32
    lr: float = 0.05
    micro_batch: int | None = None
    proximal: float = 0.0
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        sizes = (self.local_epochs, self.batch, 1 if self.micro_batch is None else self.micro_batch)
        if min(sizes) < 1 or not (math.isfinite(self.lr) and self.lr > 0) or not 0 <= self.proximal < math.inf:
            raise ConfigError(
                f"local training of {self.local_epochs} epochs, batch {self.batch} in parts of {self.micro_batch}, "
                f"learning rate {self.lr}, proximal term {self.proximal}",
                hint="epochs and batches are at least 1, the learning rate is above 0, the proximal term at least 0",
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
    shift: npt.NDArray[np.float32] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> LocalResult:
    """Train the session's current weights on `dataset` (already fitted, see data.check_fit).

    Every epoch uses every sample once in a new order, the last batch being smaller where they do not divide. `shift` is
    added to every gradient (SCAFFOLD). `should_stop` is asked before every step. Raises TrainingCancelledError,
    TrainingDivergedError.
    """
    session.reset_optimizer()
    session.reseed(seed)
    start = session.vector()
    correction = None
    if spec.proximal or shift is not None:
        correction = Correction(spec.proximal, start[: session.manifest.trained_size], shift)
    rng = np.random.default_rng(seed)
    total, steps = 0.0, 0
    for epoch in range(spec.local_epochs):
        order = rng.permutation(len(dataset))
        for first in range(0, len(dataset), spec.batch):
            if should_stop is not None and should_stop():
                raise TrainingCancelledError(f"training was stopped after {steps} steps")
            part = dataset.take(order[first : first + spec.batch])
            lr = spec.lr if spec.schedule is None else spec.lr * spec.schedule.factor(steps)
            loss = session.step(_batch(session, part), lr, micro_batch=spec.micro_batch, correction=correction)
            if not math.isfinite(loss):
                raise _diverged(epoch, steps, spec)
            total += loss * len(part)
            steps += 1
    delta = session.view() - start
    if not np.isfinite(delta).all():
        raise _diverged(spec.local_epochs - 1, steps, spec)
    return LocalResult(delta, len(dataset), total / (len(dataset) * spec.local_epochs), steps)


def evaluate_local(
    session: Session, dataset: Dataset, batch: int = 256, *, should_stop: Callable[[], bool] | None = None
) -> dict[str, tuple[float, float]]:
    """(sum, weight) of "loss" and, for labels, "accuracy" over all samples, so that devices' results add up.
    `should_stop` is asked before every batch. Raises TrainingCancelledError."""
    sums: dict[str, tuple[float, float]] = {}
    for first in range(0, len(dataset), batch):
        if should_stop is not None and should_stop():
            raise TrainingCancelledError(f"evaluation was stopped after {first} samples")
        indices = np.arange(first, min(first + batch, len(dataset)))
        for name, (total, weight) in session.evaluate_sums(_batch(session, dataset.take(indices))).items():
            before = sums.get(name, (0.0, 0.0))
            sums[name] = (before[0] + total, before[1] + weight)
    return sums


def _batch(session: Session, part: Dataset) -> dict[str, Any]:
    return {session.manifest.inputs[0].name: part.x, "target": part.y}


def _diverged(epoch: int, steps: int, spec: LocalSpec) -> TrainingDivergedError:
    return TrainingDivergedError(
        f"the loss is no longer finite in local epoch {epoch + 1} after {steps} steps",
        hint=f"lower the learning rate (now {spec.lr}), and check the scale of the data",
    )
