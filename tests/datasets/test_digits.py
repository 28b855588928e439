"""The digits, as they are in the source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgefl import datasets


def test_the_digits_are_scaled_to_one_and_labelled() -> None:
    x, y = datasets.digits()
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((1797, 64), np.float32, (1797,), np.int64)
    assert (x.min(), x.max()) == (0.0, 1.0)
    assert np.bincount(y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_the_digits_are_those_of_scikit_learn() -> None:
    source = pytest.importorskip("sklearn.datasets").load_digits()
    x, y = datasets.digits()
    assert np.array_equal(x * 16, source.data)
    assert np.array_equal(y, source.target)


def test_the_attribution_names_source_and_licence() -> None:
    text = (Path(datasets.__file__).parent / "ATTRIBUTION.md").read_text()
    for part in ("Alpaydin", "UCI", "10.24432/C50P49", "CC BY 4.0", "creativecommons.org/licenses/by/4.0"):
        assert part in text
