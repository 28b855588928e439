"""Strategies: how the root turns the devices' mean delta into the next model. Pure functions over flat vectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]


def fedavg(model: Vector, mean_delta: Vector) -> Vector:
    """model + sum(n_i * delta_i) / sum(n_i): the average of the devices' models, weighted by their samples.

    Source: McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, 2017.
    """
    return model + mean_delta


STRATEGIES: dict[str, Callable[[Vector, Vector], Vector]] = {"fedavg": fedavg}
