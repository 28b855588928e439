"""A weighted average of models, slice by slice: a large one would keep the event loop from everything else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SLICE = 256 * 1024
"""Parameters of one slice: with eight models about 5 ms on a PC, and 20 ms on a small board."""


class Averaging:
    """The sum of shares times models (float32 or float64 [parameters]), computed in float64, as float32."""

    def __init__(self, models: Sequence[tuple[float, NDArray[Any]]]) -> None:
        self._models = models
        self._at = 0
        self.result: NDArray[np.float32] = np.empty(models[0][1].shape, "<f4")

    def go_on(self) -> bool:
        """Do one slice. Whether that was the last one."""
        part = slice(self._at, self._at + SLICE)
        total = np.zeros(self.result[part].shape, np.float64)
        for share, model in self._models:
            total += share * model[part]
        self.result[part] = total
        self._at += SLICE
        return self._at >= len(self.result)
