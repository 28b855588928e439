"""Splits between devices: every sample once, nobody below the minimum, as uneven as asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.datasets import digits
from edgefl.datasets.partition import dirichlet, few_classes


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=120),
    parts=st.integers(1, 12),
    alpha=st.sampled_from([0.01, 0.3, 1.0, 100.0]),
    minimum=st.integers(0, 10),
    seed=st.integers(0, 3),
)
def test_every_sample_is_in_exactly_one_part_of_at_least_the_minimum(
    labels: list[int], parts: int, alpha: float, minimum: int, seed: int
) -> None:
    array = np.array(labels)
    if len(labels) < parts * minimum:
        with pytest.raises(ValueError, match="cannot split"):
            dirichlet(array, parts, alpha, np.random.default_rng(seed), minimum)
        return
    split = dirichlet(array, parts, alpha, np.random.default_rng(seed), minimum)
    assert len(split) == parts
    assert sorted(np.concatenate(split)) == list(range(len(labels)))
    assert min(map(len, split)) >= minimum
    assert all((np.diff(part) > 0).all() for part in split)
    again = dirichlet(array, parts, alpha, np.random.default_rng(seed), minimum)
    assert all(np.array_equal(a, b) for a, b in zip(split, again, strict=True))


def test_small_alpha_is_uneven_and_large_alpha_is_even() -> None:
    _, y = digits()

    def classes_of_the_largest_share(alpha: float) -> float:
        split = dirichlet(y, 8, alpha, np.random.default_rng(0), minimum=10)
        return float(np.mean([np.bincount(y[part], minlength=10).max() / len(part) for part in split]))

    assert classes_of_the_largest_share(0.1) > 0.4
    assert classes_of_the_largest_share(1000.0) < 0.13


@pytest.mark.parametrize("bad", [{"parts": 0}, {"alpha": 0.0}, {"minimum": -1}, {"minimum": 100}])
def test_a_split_that_makes_no_sense_is_refused(bad: dict[str, float]) -> None:
    options = {"parts": 4, "alpha": 0.3, "minimum": 1, **bad}
    with pytest.raises(ValueError, match="cannot split"):
        dirichlet(np.zeros(50), rng=np.random.default_rng(0), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("parts", "classes"), [(100, 2), (5, 2), (7, 3), (10, 1)])
def test_few_classes_are_few_and_every_sample_is_used_once(parts: int, classes: int) -> None:
    _, y = digits()
    split = few_classes(y, parts, classes, np.random.default_rng(1))
    assert sorted(np.concatenate(split)) == list(range(len(y)))
    assert {len(np.unique(y[part])) for part in split} == {classes}


@pytest.mark.parametrize(("parts", "classes"), [(4, 2), (10, 0), (10, 11), (5000, 2)])
def test_few_classes_that_cannot_be_are_refused(parts: int, classes: int) -> None:
    _, y = digits()
    with pytest.raises(ValueError, match="class"):
        few_classes(y, parts, classes, np.random.default_rng(1))
