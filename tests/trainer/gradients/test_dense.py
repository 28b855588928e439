"""Matrix products."""

from __future__ import annotations

from typing import Any

import pytest
from support.gradient_cases import C, Case, check

CASES = [
    C("MatMul", (4,), (4, 3)),
    C("MatMul", (2, 4), (4, 3)),
    C("MatMul", (2, 3, 4), (4, 3)),
    C("MatMul", (2, 3, 4), (2, 4, 3)),
    C("MatMul", (2, 3, 4), (1, 4, 5)),
    Case("MatMul", (4, 2), {"w": (3, 4)}, inputs=("w", "s")),
    Case("MatMul", (1, 4, 2), {"w": (5, 3, 4)}, inputs=("w", "s")),
    C("Gemm", (4,), (4, 3)),
    C("Gemm", (4,), (4, 3), (3,)),
    C("Gemm", (4,), (4, 3), (1, 3), alpha=0.5, beta=2.0),
    C("Gemm", (4,), (3, 4), (1,), transB=1, alpha=-1.5),
    C("Gemm", (4,), (3, 4), (1, 1), transB=1),
]


@pytest.mark.parametrize("portable", [False, True], ids=["", "portable"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_gradient_matches_finite_differences(case: Case, portable: bool, session: Any) -> None:
    check(case, session, portable=portable)
