"""Agreement on a start: the largest norm wins, and only if it is true."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgefl.learning.consensus.start import MAX_CHECKS, Start


def initial(seed: int) -> NDArray[np.float32]:
    return np.full(4, float(seed), np.float32)  # its norm is twice the seed


def test_the_largest_norm_wins() -> None:
    start = Start(initial, 3)
    assert start.best == (6.0, 3)
    assert start.on_claim(1, 10.0, 5)
    assert start.on_claim(1, 8.0, 4)
    assert start.best == (10.0, 5)
    assert start.vector().tolist() == [5.0] * 4


def test_the_seed_decides_between_equal_norms() -> None:
    start = Start(lambda seed: np.ones(4, np.float32), 3)
    assert start.on_claim(1, 2.0, 2)
    assert start.best == (2.0, 3)
    assert start.on_claim(1, 2.0, 9)
    assert start.best == (2.0, 9)


def test_a_norm_that_the_seed_does_not_make_is_a_lie() -> None:
    start = Start(initial, 3)
    assert not start.on_claim(1, 1e300, 5)
    assert start.best == (6.0, 3)
    assert start.on_claim(2, 10.0, 5)  # the truth about the same seed


def test_one_neighbour_cannot_have_this_device_make_starts_for_ever() -> None:
    made = []

    def counted(seed: int) -> NDArray[np.float32]:
        made.append(seed)
        return initial(3)

    start = Start(counted, 3)
    for seed in range(10, 10 + 3 * MAX_CHECKS):
        start.on_claim(1, 1e6, seed)
    assert len(made) == 1 + MAX_CHECKS
