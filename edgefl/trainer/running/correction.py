"""What a strategy adds to the gradient of every local step, without building other artifacts.

    g ← g + μ (w − anchor)        FedProx: stay near the model that the round began with (T. Li et al., 2020)
    g ← g + shift                 SCAFFOLD: c − cᵢ, the drift of this device taken out (S. Karimireddy et al., 2020)

All vectors are float32 of the trained part, flat, in manifest order. The work is done in place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgefl.errors import ModelError

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Correction:
    """`proximal` is μ, with the `anchor` that it pulls to; `shift` is added as it is. Raises ModelError for a μ without
    an anchor."""

    proximal: float = 0.0
    anchor: Vector | None = None
    shift: Vector | None = None

    def __post_init__(self) -> None:
        if self.proximal and self.anchor is None:
            raise ModelError("a proximal term needs the weights that it pulls to")

    def apply(self, gradient: Vector, weights: Vector) -> None:
        """Correct `gradient` where the weights are `weights`, both [parameters]. Raises ModelError for other sizes."""
        for vector in (self.anchor, self.shift):
            if vector is not None and vector.shape != gradient.shape:
                raise ModelError(f"a correction of {vector.shape} does not fit a gradient of {gradient.shape}")
        if self.proximal and self.anchor is not None:
            pull = weights - self.anchor
            pull *= np.float32(self.proximal)
            gradient += pull
        if self.shift is not None:
            gradient += self.shift
