"""Softmax, its logarithm and its limit."""

from __future__ import annotations

from typing import Any

import pytest
from support.gradient_cases import C, Case, check

from edgefl.trainer.gradients import CONSTANT, RULES

CASES = [
    *[C(op, (3, 5), axis=axis) for op in ("Softmax", "LogSoftmax") for axis in (-1, 1, 2)],
    C("Softmax", (5,)),
    *[C(op, (2, 3, 4), axis=-2) for op in ("Softmax", "LogSoftmax")],
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_gradient_matches_finite_differences(case: Case, session: Any) -> None:
    check(case, session)


def test_hardmax_is_piecewise_constant() -> None:
    assert RULES["Hardmax"] is CONSTANT
