"""What a strategy adds to a gradient."""

from __future__ import annotations

import numpy as np
import pytest

from edgefl.errors import ModelError
from edgefl.trainer import Correction

G, W, ANCHOR = (np.array(numbers, np.float32) for numbers in ([1, 2], [3, 5], [1, 1]))


def corrected(correction: Correction) -> list[float]:
    gradient = G.copy()
    correction.apply(gradient, W)
    return [float(number) for number in gradient]


def test_each_term_is_added() -> None:
    assert corrected(Correction()) == [1, 2]
    assert corrected(Correction(0.5, ANCHOR)) == [1 + 0.5 * 2, 2 + 0.5 * 4]
    assert corrected(Correction(shift=ANCHOR)) == [2, 3]
    assert corrected(Correction(0.5, ANCHOR, ANCHOR)) == [3, 5]
    assert corrected(Correction(0.0, ANCHOR)) == [1, 2]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ModelError, match="pulls to"):
        Correction(0.5)
    for wrong in (Correction(0.5, np.zeros(3, np.float32)), Correction(shift=np.zeros((2, 1), np.float32))):
        with pytest.raises(ModelError, match="does not fit"):
            corrected(wrong)
