"""The mean of models that arrive one by one, each weighted by its samples: one vector of memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgefl.learning.aggregate import is_finite

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Average:
    """A running weighted mean of float32 [parameters]. `max_samples` bounds what one device may weigh."""

    def __init__(self, parameters: int, max_samples: int) -> None:
        self.parameters = parameters
        self.max_samples = max_samples
        self.count = 0
        self.samples = 0
        self._sum: NDArray[np.float64] | None = None

    def add(self, data: Any, samples: int) -> bool:
        """Add a model (a buffer of little-endian float32). False, and nothing added, when it is not one."""
        if memoryview(data).nbytes != 4 * self.parameters or samples < 1:
            return False
        model = np.frombuffer(data, "<f4")
        if not is_finite(model):
            return False
        weight = min(samples, self.max_samples)
        if self._sum is None:
            self._sum = np.zeros(self.parameters)
        self._sum += weight * model.astype(np.float64)
        self.count += 1
        self.samples += weight
        return True

    def mean(self) -> NDArray[np.float32]:
        """float32 [parameters]. Only once something was added."""
        if self._sum is None:
            raise ValueError("the mean of no models")
        return (self._sum / self.samples).astype("<f4")


def trained(data: Any, delta: NDArray[np.float32]) -> NDArray[np.float32]:
    """The model that a device has made: what it was given plus what it learned."""
    return (np.frombuffer(data, "<f4") + delta).astype("<f4")
