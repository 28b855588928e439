"""Softmax and its logarithm."""

from __future__ import annotations

from typing import Any

import pytest
from support.gradient_cases import C, Case, check

CASES = [
    *[C(op, (3, 5), axis=axis) for op in ("Softmax", "LogSoftmax") for axis in (-1, 1, 2)],
    C("Softmax", (5,)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_gradient_matches_finite_differences(case: Case, session: Any) -> None:
    check(case, session)
