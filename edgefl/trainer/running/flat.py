"""A Session as functions of flat vectors and plain arrays, for whoever trains many devices' models with one session."""

from __future__ import annotations

import math
import os

import numpy as np
import numpy.typing as npt

from edgefl.errors import ConfigError, DataError
from edgefl.trainer.running.correction import Correction
from edgefl.trainer.running.pace import plain_steps
from edgefl.trainer.running.session import Session

Vector = npt.NDArray[np.float32]
Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

EVALUATION_BATCH = 256


class FlatSession:
    """One session for all: every call loads the vector that it is about, and the optimiser starts afresh.

    x: float32 [n, features], reshaped to the model's only input; y: int64 [n]. Raises ModelError as Session,
    ConfigError for a model of several inputs or without labels, DataError for data that is not the model's.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._session = session = Session(directory, threads=1)
        manifest = session.manifest
        if len(manifest.inputs) != 1 or manifest.target.dtype != "int64":
            raise ConfigError(
                "only a classifier with one input can be simulated", hint="build it with --loss cross-entropy"
            )
        self._input = manifest.inputs[0]
        self._start = session.vector()
        self.parameters: int = manifest.vector_size
        self.trained: int = manifest.trained_size

    def initial(self, seed: int) -> Vector:
        """The start in the artifacts, every weight tensor drawn anew with the same mean and deviation; biases and
        everything else of one dimension stay."""
        rng = np.random.default_rng(seed)
        start: Vector = self._start.copy()
        at = 0
        for tensor in self._session.manifest.carried:
            size = int(np.prod(tensor.shape, dtype=np.int64))
            part = start[at : at + size]
            if len(tensor.shape) > 1:
                part[...] = rng.normal(part.mean(), part.std(), size)
            at += size
        return start

    def accuracy(self, model: Vector, x: Images, y: Labels) -> float:
        """Share of right answers."""
        return self._mean("accuracy", model, x, y)

    def loss(self, model: Vector, x: Images, y: Labels) -> float:
        """Mean of the loss that is trained on."""
        return self._mean("loss", model, x, y)

    def gradients(self, steps: int, momentum: float) -> float:
        """How many plain gradients such a training is made of. The artifacts' optimiser decides about momentum."""
        return plain_steps(self._session.manifest.optimizer, steps)

    def _mean(self, metric: str, model: Vector, x: Images, y: Labels) -> float:
        self._session.load_vector(np.ascontiguousarray(model))
        found, total = 0.0, 0.0
        for first in range(0, len(y), EVALUATION_BATCH):
            part = self._batch(x[first : first + EVALUATION_BATCH], y[first : first + EVALUATION_BATCH])
            sums = self._session.evaluate_sums(part)[metric]
            found, total = found + sums[0], total + sums[1]
        return found / total

    def train(
        self,
        model: Vector,
        x: Images,
        y: Labels,
        *,
        steps: int,
        batch: int,
        lr: float,
        momentum: float,
        seed: int,
        proximal: float = 0.0,
        shift: Vector | None = None,
    ) -> Vector:
        """The model after `steps` steps on random batches. The artifacts' optimiser decides about momentum."""
        session = self._session
        session.load_vector(np.ascontiguousarray(model))
        session.reset_optimizer()
        session.reseed(seed)
        anchor = session.vector()[: session.manifest.trained_size] if proximal else None
        given = None if shift is None else np.ascontiguousarray(shift[: self.trained])
        correction = Correction(proximal, anchor, given) if proximal or given is not None else None
        rng = np.random.default_rng(seed)
        for _ in range(steps):
            chosen = rng.integers(len(y), size=min(batch, len(y)))
            session.step(self._batch(x[chosen], y[chosen]), lr, correction=correction)
        return session.vector()

    def _batch(self, x: Images, y: Labels) -> dict[str, npt.NDArray[np.generic]]:
        shape = [size or 0 for size in self._input.shape[1:]]
        if math.prod(shape) != x.shape[1]:
            raise DataError(
                f"{x.shape[1]} features for a model that takes {'x'.join(map(str, shape))}",
                hint="use artifacts of a model for this data set",
            )
        return {self._input.name: x.reshape(len(y), *shape), "target": y}
