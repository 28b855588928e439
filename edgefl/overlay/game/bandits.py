"""Baselines that learn from their own measured costs alone, for one player or for many at once.

Arrays have one row per player and one column per candidate, shape (n, K).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgefl.overlay.game.rules import Rule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

BISECTIONS = 16
"""Of the KL-UCB index: u to 2^-16."""

LEAST_S = 1e-6
"""No cost is nothing: it would be divided by."""

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


class OnePlayer:
    """A bandit for one device in one tree, in plain numbers; candidates are columns."""

    def __init__(self, rule: Rule, candidates: int) -> None:
        self._bandit = KlUcb(1, candidates) if rule is Rule.KLUCB else Exp3(1, candidates)

    def choose(
        self, choice: int, cost_s: float, unit_s: float, delays_s: Sequence[float], time: int, draw: float
    ) -> tuple[int, float | None]:
        """Learn what the present candidate has cost; the next one, and for KL-UCB the whole way to the root by it.
        `delays_s` are those of the candidates at hand, `draw` is uniform in [0, 1)."""
        count = len(delays_s)
        at, cost = np.array([choice]), np.array([max(LEAST_S, cost_s)])
        if isinstance(self._bandit, KlUcb):
            unit = np.array([max(LEAST_S, unit_s)])
            self._bandit.observe(at, cost, unit)
            index = self._bandit.index_s(unit, time)[0, :count] + np.asarray(delays_s)
            column = int(np.argmin(index))
            return column, float(index[column])
        self._bandit.observe(at, cost, time)
        shares = self._bandit.shares(time)[0, :count]
        return min(count - 1, int((np.cumsum(shares) < draw * shares.sum()).sum())), None
