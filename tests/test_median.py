"""The median, beside the standard library's."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.median import median

numbers = st.integers(-1000, 1000) | st.floats(-1e9, 1e9)


@given(st.lists(numbers, min_size=1, max_size=12))
def test_it_is_the_standard_one(values: list[float]) -> None:
    assert median(iter(values)) == statistics.median(values)


def test_of_nothing_there_is_none() -> None:
    with pytest.raises(IndexError):
        median([])
