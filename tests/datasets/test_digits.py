"""The digits, as they are in the source."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from edgefl import datasets


def test_the_digits_are_scaled_to_one_and_labelled() -> None:
    x, y = datasets.digits()
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((1797, 64), np.float32, (1797,), np.int64)
    assert (x.min(), x.max()) == (0.0, 1.0)
    assert np.bincount(y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_the_digits_are_those_of_scikit_learn() -> None:
    """The hash was taken from sklearn.datasets.load_digits() of scikit-learn 1.9 (data and target as bytes)."""
    x, y = datasets.digits()
    content = (x * 16).astype(np.uint8).tobytes() + y.astype(np.uint8).tobytes()
    assert hashlib.blake2b(content, digest_size=16).hexdigest() == "3add1ae1fa53cc89d7599167a31c4e88"


def test_the_attribution_names_source_and_licence() -> None:
    text = (Path(datasets.__file__).parent / "ATTRIBUTION.md").read_text()
    for part in ("Alpaydin", "UCI", "10.24432/C50P49", "CC BY 4.0", "creativecommons.org/licenses/by/4.0"):
        assert part in text
