"""Activations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.gradient_cases import C, Case, check, run

from edgefl.trainer.gradients import RULES, Node
from edgefl.trainer.graph import Graph, Value

CASES = [
    *[C(op, (3, 5)) for op in ("Relu", "Sigmoid", "Tanh")],
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_gradient_matches_finite_differences(case: Case, session: Any) -> None:
    check(case, session)


def test_relu_passes_nothing_at_zero_and_everything_above() -> None:
    y = np.array([0.0, 1.2e-38, 1e-20, 1.0, 3e38, np.inf], np.float32)
    graph = Graph(taken={"y", "dy"})
    node = Node(graph, "Relu", "", (), (Value(graph, "y", (6,)),), {})
    (dx,) = RULES["Relu"].gradient(node, Value(graph, "dy"))
    assert dx is not None
    assert run(graph, {"y": y, "dy": np.full(6, 2, np.float32)}, dx, 1).tolist() == [0, 2, 2, 2, 2, 2]
