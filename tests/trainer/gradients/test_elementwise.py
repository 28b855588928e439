"""Element by element, with broadcasting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gradient_cases import C, Case, check, run

from edgefl.trainer.gradients.rule import sum_to
from edgefl.trainer.graph import Graph, Value

CASES = [
    *[C(op, (2, 3), shape) for op in ("Add", "Sub", "Mul") for shape in [(2, 3), (3,), (2, 1), (1, 1, 3), (1,), ()]],
    *[Case(op, (3,), {"w": (2, 1, 3)}, inputs=("w", "s"), back={"Transpose": [1, 0, 2]}) for op in ("Sub", "Mul")],
    Case("Mul", (3,), inputs=("s", "s")),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_gradient_matches_finite_differences(case: Case, session: Any) -> None:
    check(case, session)


shapes = st.lists(st.integers(1, 3), min_size=0, max_size=4)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), full=shapes)
def test_undoing_a_broadcast_sums_over_every_copy(data: st.DataObject, full: list[int]) -> None:
    kept = data.draw(st.integers(0, len(full)))
    small = [n if data.draw(st.booleans()) else 1 for n in full[len(full) - kept :]]
    dy = np.random.default_rng(0).normal(size=full).astype(np.float32)
    graph = Graph(taken={"dy"})
    # a dimension that could be the batch is None to the rules: broadcasting must treat it as "not 1"
    known = tuple(None if n > 1 and i == 0 else n for i, n in enumerate(full))
    x_shape = tuple(None if n > 1 and len(small) == len(full) and i == 0 else n for i, n in enumerate(small))
    found = run(graph, {"dy": dy}, sum_to(Value(graph, "dy"), known, Value(graph, "x", x_shape)), len(small))
    copies = np.broadcast_to(np.arange(int(np.prod(small))).reshape(small), full)
    expected = [dy[copies == i].sum(dtype=np.float64) for i in range(int(np.prod(small)))]
    assert found.shape == tuple(small)
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-5, atol=1e-5)
