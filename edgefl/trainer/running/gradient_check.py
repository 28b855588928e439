"""Whether an artifact directory computes the gradients that it claims, seen from outside: on this device's ONNX
Runtime, with the loss that the training graph itself gives as the judge.

For every parameter w with gradient g, the slope of the loss along a direction d is g·d; it is compared with
(loss(w + h d) − loss(w − h d)) / 2h. One direction is g itself, where every error of scale shows; three are random,
which find elements that g misses. The loss is float32: a step h that is too small drowns in rounding, one that is too
large crosses kinks (Relu, MaxPool), so the best of several h counts. A correct gradient is near for some h; a wrong
one for none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefl.trainer.files.manifest import Manifest
from edgefl.trainer.running.session import Session

STEPS = (0.1, 0.03, 0.01, 0.003, 0.001)
"""h, as shares of the parameter's norm."""

SMALLEST = 0.01
"""What an element of a parameter counts for at least: biases of 1e-6 would drown in rounding."""

RANDOM_DIRECTIONS = 3

FLOOR = 1e-3
"""Gradients this small beside the whole gradient are compared with that instead: they are nothing but rounding."""

TOLERANCE = 0.1
"""Correct gradients of small networks with random data stay below 0.04; a wrong sign, a factor of two, or half of the
elements missing gives 0.4 and more."""


@dataclass(frozen=True, slots=True)
class GradientError:
    """`relative` is the largest over the directions: 0 is exact, 1 as good as no gradient."""

    parameter: str
    relative: float

    @property
    def ok(self) -> bool:
        return self.relative <= TOLERANCE


def synthetic_batch(manifest: Manifest, samples: int, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Random inputs and targets of the declared shapes: standard normal floats, 0 or 1 for integers and truths, any
    class."""
    rng = np.random.default_rng(seed)
    batch: dict[str, npt.NDArray[Any]] = {}
    for name, tensor in [*((t.name, t) for t in manifest.inputs), ("target", manifest.target)]:
        shape = [samples, *(n or 1 for n in tensor.shape[1:])]
        highest = manifest.loss.classes if name == "target" and manifest.loss.classes else 2
        real = tensor.dtype == "float32" and not (name == "target" and manifest.loss.name == "bce")
        values = rng.normal(size=shape) if real else rng.integers(0, highest, shape)
        batch[name] = values.astype(tensor.dtype)
    return batch


def check_gradients(session: Session, batch: Mapping[str, Any], seed: int = 0) -> list[GradientError]:
    """One entry per parameter, in manifest order. The session's weights are as before afterwards."""
    rng = np.random.default_rng(seed)
    carried, gradients = session.parameters(), session.gradients(batch)
    weights = {name: carried[name] for name in gradients}

    def slope(name: str, direction: npt.NDArray[np.float32], h: float) -> float:
        losses = []
        for sign in (h, -h):
            session.load({**carried, name: weights[name] + np.float32(sign) * direction})
            losses.append(session.training_loss(batch))
        return (losses[0] - losses[1]) / (2 * h)

    floor = FLOOR * float(np.sqrt(sum(np.vdot(g, g) for g in gradients.values())))
    errors = []
    try:
        for name, g in gradients.items():
            norm = float(np.linalg.norm(g))
            reach = max(float(np.linalg.norm(weights[name])), SMALLEST * g.size**0.5)
            # the slope along a random unit vector is √size times smaller than along g
            tries = [(_unit(rng.normal(size=g.shape)), g.size**0.5) for _ in range(RANDOM_DIRECTIONS)]
            tries += [(_unit(g), 1.0)] if norm > 0 else []
            worst = max(
                scale * min(abs(slope(name, d, h * reach) - float(np.vdot(g, d))) for h in STEPS) for d, scale in tries
            )
            errors.append(GradientError(name, worst / (norm + floor) if worst else 0.0))
    finally:
        session.load(carried)
    return errors


def _unit(direction: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    unit: npt.NDArray[np.float32] = (direction / np.linalg.norm(direction)).astype(np.float32)
    return unit
