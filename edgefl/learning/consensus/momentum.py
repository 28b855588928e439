"""Momentum between rounds: a device goes on, by a share of it, with the way that its model went in the last round.

    x(k+1) = average of the trained models + momentum * (x(k) - x(k-1))

x(k) is the own model at the beginning of round k, so what went on is what training and averaging have done together.
Devices with unlike data pull in unlike directions, and averaging cancels that; the way that is left is common to all,
and becomes 1 / (1 - momentum) times as long, while each device's own pull stays as it is. Momentum inside a local
training has it the other way round. No message is needed for it. The average itself gets quicker too (it is Polyak's
heavy ball; Ghadimi et al., Accelerated gossip), as long as the links stay.

A device that has heard nobody in a round does not go on: it would run away on its own data. Nor does one that has
copied a model, or has leapt to another round.

Source: Lin et al., Quasi-Global Momentum, 2021 (arXiv 2102.04761), which has it in every local step; here once in a
round, so that trainers need not know. Wang et al., SlowMo, 2020 (arXiv 1910.00643), with an exact average.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vector = NDArray[Any]


class Momentum:
    """The beginnings of this round and of the one before. `share`: 0 for none, else below 1."""

    def __init__(self, share: float) -> None:
        self.share = share
        self._start: Vector | None = None
        self._before: Vector | None = None
        self._heard = False

    def on_start(self, model: Vector | None) -> None:
        """A round begins with this model, which is not changed in place any more."""
        if self.share:
            self._before, self._start = self._start, model
            self._heard = False

    def on_heard(self) -> None:
        """A neighbour's model went into an average of this round."""
        self._heard = True

    def forget(self) -> None:
        """The next round does not go on from this one."""
        self._start = self._before = None

    def terms(self) -> list[tuple[float, Vector]]:
        """(factor, model): what is added to the last average of this round."""
        if not self.share or not self._heard or self._start is None or self._before is None:
            return []
        return [(self.share, self._start), (-self.share, self._before)]
