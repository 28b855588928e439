"""The running weighted sum of one open round: exact for any tree shape and any order of arrival.

Every device sends (sum of n_i * delta_i, sum of n_i, who contributed) for its whole subtree; a parent only adds. The
division happens once, at the root, so a chain, a star and anything between give the same average up to the rounding of
float32. Memory is one vector, however many children there are. FedAvg: McMahan et al., 2017.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefl.errors import WireError
from edgefl.learning.metrics import merge
from edgefl.wire.learning import MAX_CONTRIBUTORS, Metric

FLOAT_BYTES = 4


class Accumulator:
    """(sum of n * delta, sum of n, contributors, metrics) of one round at one device.

    `parameters` is the length of the flat vector, `max_samples` the most that one device may claim to have.
    """

    __slots__ = ("contributors", "max_samples", "metrics", "parameters", "participants", "samples", "total")

    def __init__(self, parameters: int, max_samples: int) -> None:
        self.parameters = parameters
        self.max_samples = max_samples
        self.total: NDArray[np.float32] | None = None
        self.samples = 0
        self.participants = 0
        self.contributors: set[int] = set()
        self.metrics: tuple[Metric, ...] = ()

    def add_own(self, node_id: int, delta: NDArray[np.float32] | None, samples: int, metrics: Iterable[Metric]) -> None:
        """Add this device's own delta (float32 [parameters]), weighted by its samples.

        Raises WireError for a delta of the wrong shape or with values that are not finite.
        """
        if delta is None or samples <= 0:
            self.metrics = merge(self.metrics, metrics)
            return
        samples = min(samples, self.max_samples)
        self._check(delta)
        self.metrics = merge(self.metrics, metrics)
        self._add(delta * np.float32(samples))
        self.samples += samples
        self.participants += 1
        self.contributors.add(node_id)

    def add_subtree(
        self,
        data: Any,
        samples: int,
        participants: int,
        contributors: Iterable[int],
        metrics: Iterable[Metric],
    ) -> None:
        """Add a child's sum: `data` is its blob (float32, little-endian, [parameters]).

        Raises WireError when the claim cannot be true or would count a device twice; nothing is added then.
        """
        names = set(contributors)
        self.check_claim(samples, participants, names)
        vector = np.frombuffer(data, dtype="<f4")
        self._check(vector)
        self._add(vector)
        self.samples += samples
        self.participants += participants
        self.contributors |= names
        self.metrics = merge(self.metrics, metrics)

    def check_claim(self, samples: int, participants: int, contributors: set[int]) -> None:
        """Raises WireError when the numbers of an update cannot be true, or a device would be counted twice."""
        if not 0 < samples <= participants * self.max_samples:
            raise WireError(f"{samples} samples from {participants} devices: more than {self.max_samples} each")
        if len(contributors) != participants and (contributors or participants <= MAX_CONTRIBUTORS):
            raise WireError(f"names {len(contributors)} contributors for {participants} devices")
        twice = contributors & self.contributors
        if twice:
            raise WireError(f"{len(twice)} devices are in the sum already")

    def mean_delta(self) -> NDArray[np.float32]:
        """sum(n * delta) / sum(n), float32 [parameters]. Only after something was added."""
        if self.total is None:
            raise ValueError("nothing was added")
        mean: NDArray[np.float32] = self.total / np.float32(self.samples)
        return mean

    def _check(self, vector: NDArray[np.float32]) -> None:
        if vector.shape != (self.parameters,):
            raise WireError(f"a vector of shape {vector.shape} where {self.parameters} parameters belong")
        # One pass and no temporary: a NaN or infinity anywhere makes the dot product so.
        with np.errstate(over="ignore", invalid="ignore"):
            if not np.isfinite(np.dot(vector, vector)):
                raise WireError("a vector with values that are not finite (or far too large)")

    def _add(self, vector: NDArray[np.float32]) -> None:
        if self.total is None:
            self.total = np.array(vector, dtype=np.float32)
        else:
            np.add(self.total, vector, out=self.total)
