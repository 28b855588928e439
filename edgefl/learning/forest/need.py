"""How many devices a model needs in each round, seen from its root: how far the devices' deltas are apart.

The mean of R deltas is wrong by their variance over R. Of models that share a fleet, the sum of these errors (each
relative to the length of its own mean delta) is least when each has devices in proportion to the root of its variance:
the dynamic allocation of FedAST (Askin et al., UAI 2024). A model that is hard to learn, or nearly learned, needs many
devices to see where to go; one that all devices pull the same way needs few.

The variance comes at no cost: the sum of |delta|² goes up as a metric, weighted like the deltas, and the mean of the
squares less the square of the mean is exact in any tree.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from edgefl.learning.metrics import means
from edgefl.learning.together import MAX_NEED, MIN_NEED, parse_together

if TYPE_CHECKING:
    from edgefl.learning.forest.application import ForestApplication
    from edgefl.learning.forest.round import OpenRound

SQUARES_METRIC = "train_delta_squares"
"""Mean of the squared lengths of the devices' deltas."""

KEPT = 0.7
"""What the need so far counts for when a round is over: three rounds of memory."""


def need_of(squares: float, square: float, participants: int) -> float:
    """From the mean of the squared lengths, and the squared length of the mean of so many deltas. At least two."""
    variance = max(0.0, squares - square) * participants / (participants - 1)
    signal = square - variance / participants
    if variance == 0.0:
        return MIN_NEED
    if signal <= variance / MAX_NEED**2:
        return MAX_NEED
    return max(MIN_NEED, math.sqrt(variance / signal))


class Need:
    """Of one application, as far as this device knows: as the root has said it, or, at the root, as it finds it."""

    def __init__(self, app: ForestApplication) -> None:
        group = parse_together(app.manifest.together)
        self._found = group is not None and not group[1]
        self.value = group[1] if group is not None and group[1] else 1.0

    @property
    def said(self) -> float:
        """What travels with a round; 0 where there is nothing to say."""
        return self.value if self._found else 0.0

    def heard(self, value: float) -> None:
        """The root has said it."""
        if self._found and value > 0:
            self.value = min(max(value, MIN_NEED), MAX_NEED)

    def observe(self, round_: OpenRound) -> None:
        """A round has closed at the root."""
        squares, total, participants = (
            means(round_.sum.metrics).get(SQUARES_METRIC),
            round_.sum.total,
            round_.participants,
        )
        if not self._found or squares is None or total is None or participants < 2:
            return
        found = need_of(squares, float(np.dot(total, total)), participants)
        self.value = math.exp(KEPT * math.log(self.value) + (1 - KEPT) * math.log(found))
