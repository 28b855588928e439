"""Max-norm synchronisation: before training, all agree on the start with the largest norm that any of them drew.

Averages of unlike starts have small norms, and small norms learn slowly. What travels is (norm, seed), 30 bytes; the
seed makes the weights again. A claim is believed only once the seed was found to make a start of that norm, so nobody
can have a start agreed on that does not exist.

Source: Pranav and Moura, Peer-to-Peer Deep Learning (P2PL), arXiv 2310.18861; as a max-consensus on (norm, seed): ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]

MAX_CHECKS = 32
"""Starts that are made for one neighbour's claims. Among n devices in any order, a device hears of about ln(n) larger
norms one after the other: 14 in a million."""


class Start:
    """The best start that this device knows of. `initial` makes a start (float32 [parameters]) from a seed."""

    def __init__(self, initial: Callable[[int], Vector], seed: int) -> None:
        self._initial = initial
        self._norms: dict[int, float] = {}
        self._checks: dict[int, int] = {}
        self.best = (self._norm(seed), seed)

    def vector(self) -> Vector:
        """The start itself."""
        return self._initial(self.best[1])

    def on_claim(self, sender: int, norm: float, seed: int) -> bool:
        """Take in what a neighbour knows. False for a claim that is not true, or one too many."""
        if (norm, seed) <= self.best:
            return True
        if seed not in self._norms:
            checks = self._checks[sender] = self._checks.get(sender, 0) + 1
            if checks > MAX_CHECKS:
                return False
        actual = self._norm(seed)
        if not math.isclose(actual, norm, rel_tol=1e-5):  # sums of other processors differ in the last digits
            return False
        self.best = max(self.best, (actual, seed))
        return True

    def _norm(self, seed: int) -> float:
        if seed not in self._norms:
            self._norms[seed] = float(np.linalg.norm(self._initial(seed)))
        return self._norms[seed]
