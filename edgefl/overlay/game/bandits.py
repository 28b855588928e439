"""Baselines that learn from their own measured costs alone, for one player or for many at once.

Arrays have one row per player and one column per candidate, shape (n, K).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

BISECTIONS = 16
"""Of the KL-UCB index: u to 2^-16."""

SCALE = 3.0
"""Losses of EXP3 are measured against so many times the first cost."""


class KlUcb:
    """Totoro's index: each link has a success rate, delay is unit / success, and the index of a candidate is its
    optimistic delay plus the distance vector J of the rest of the path (KL-UCB: Garivier and Cappé 2011; hop by hop:
    Talebi et al. 2013). A player's unit is what its cheapest candidate would cost it alone."""

    def __init__(self, players: int, candidates: int) -> None:
        self._pulls = np.zeros((players, candidates))
        self._successes = np.zeros((players, candidates))

    def observe(self, choice: Ints, cost_s: Floats, unit_s: Floats) -> None:
        """Costs of the candidates in use, (n,)."""
        at = (np.arange(len(choice)), choice)
        self._pulls[at] += 1
        self._successes[at] += np.minimum(1.0, unit_s / cost_s)

    def index_s(self, unit_s: Floats, time: int) -> Floats:
        """(n, K): the delays that the trials up to `time` do not contradict, at their best."""
        index: Floats = unit_s[:, None] / self._optimistic(time)
        return index

    def _optimistic(self, time: int) -> Floats:
        """The highest success u with pulls KL(mean, u) <= log time."""
        pulls = np.maximum(self._pulls, 1)
        mean = self._successes / pulls
        room = np.log(max(2, time)) / pulls
        low, high = mean.copy(), np.full(mean.shape, 1 - 1e-9)
        for _ in range(BISECTIONS):
            middle = np.clip((low + high) / 2, 1e-9, 1 - 1e-9)
            left = np.where(mean > 0, mean * np.log(np.maximum(mean, 1e-12) / middle), 0.0)
            right = np.where(mean < 1, (1 - mean) * np.log(np.maximum(1 - mean, 1e-12) / (1 - middle)), 0.0)
            inside = left + right <= room
            low, high = np.where(inside, middle, low), np.where(inside, high, middle)
        return np.where(self._pulls > 0, np.maximum(low, 1e-9), 1.0)


class Exp3:
    """EXP3-IX (Neu 2015): exponential weights with implicit exploration."""

    def __init__(self, players: int, candidates: int) -> None:
        self._losses = np.zeros((players, candidates))
        self._scale_s: Floats | None = None

    def observe(self, choice: Ints, cost_s: Floats, time: int) -> None:
        """Costs of the candidates in use, (n,)."""
        if self._scale_s is None:
            self._scale_s = SCALE * cost_s
        at = (np.arange(len(choice)), choice)
        shares = self.shares(time)
        self._losses[at] += np.minimum(1.0, cost_s / self._scale_s) / (shares[at] + self._rate(time) / 2)

    def shares(self, time: int) -> Floats:
        """(n, K) the probability of each candidate."""
        scaled = -self._rate(time) * (self._losses - self._losses.min(axis=1, keepdims=True))
        share = np.exp(scaled)
        shares: Floats = share / share.sum(axis=1, keepdims=True)
        return shares

    def _rate(self, time: int) -> float:
        arms = self._losses.shape[1]
        return float(np.sqrt(2 * np.log(max(2, arms)) / (arms * max(1, time))))
