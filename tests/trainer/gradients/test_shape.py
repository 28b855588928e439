"""Operators that move elements without changing them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.gradient_cases import C, Case, check, run

from edgefl.errors import UnsupportedOperatorError
from edgefl.trainer.gradients import RULES, Node
from edgefl.trainer.gradients.rule import shaped_like
from edgefl.trainer.graph import Graph, Value

CASES = [
    C("Identity", (3,)),
    C("Flatten", (2, 3, 4)),
    Case("Flatten", (2, 3), attributes={"axis": 2}, back={"Reshape": [-1, 2, 3]}),
    Case("Flatten", (2, 3), attributes={"axis": -1}, back={"Reshape": [-1, 2, 3]}),
    Case("Flatten", (2, 3), attributes={"axis": 0}, back={"Reshape": [-1, 2, 3]}),
    C("Transpose", (2, 3), perm=[0, 2, 1]),
    Case("Transpose", (2, 3, 4), attributes={"perm": [2, 0, 3, 1]}, back={"Transpose": [1, 3, 0, 2]}),
    Case("Transpose", (2, 3), back={"Transpose": [2, 1, 0]}),
    Case("Reshape", (2, 6), constants={"shape": [-1, 3, 4]}, inputs=("s", "shape")),
    Case("Reshape", (2, 6), constants={"shape": [-1, 4]}, inputs=("s", "shape"), back={"Reshape": [-1, 3, 4]}),
    Case("Reshape", (2, 6), constants={"shape": [0, 4, -1]}, inputs=("s", "shape")),
    Case("Reshape", (2, 6), constants={"shape": [-1, 12]}, attributes={"allowzero": 1}, inputs=("s", "shape")),
    Case("Squeeze", (1, 3), constants={"axes": [1]}, inputs=("s", "axes")),
    Case("Squeeze", (1, 3, 1), constants={"axes": [-1, 1]}, inputs=("s", "axes")),
    Case("Unsqueeze", (2, 3), constants={"axes": [1, -1]}, inputs=("s", "axes")),
    Case("Unsqueeze", (2, 3), constants={"axes": [0]}, inputs=("s", "axes"), back={"Reshape": [-1, 2, 3]}),
    *[C("DepthToSpace", (8, 2, 3), blocksize=2, mode=mode) for mode in ("DCR", "CRD")],
    C("DepthToSpace", (9, 1, 2), blocksize=3),
    C("SpaceToDepth", (2, 4, 6), blocksize=2),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_gradient_matches_finite_differences(case: Case, session: Any) -> None:
    check(case, session)


def test_a_shape_with_two_open_dimensions_is_read_from_the_tensor() -> None:
    graph = Graph(taken={"dy", "x"})
    x = np.zeros((2, 3, 2), np.float32)
    shaped = shaped_like(Value(graph, "dy"), Value(graph, "x", (None, 3, None)))
    assert run(graph, {"dy": np.zeros((3, 4), np.float32), "x": x}, shaped, 3).shape == x.shape


def test_depth_to_space_by_columns_needs_fixed_sizes() -> None:
    x, y = (Value(Graph(), "x", (None, channels, None, 4)) for channels in (4, 1))
    node = Node(x.graph, "DepthToSpace", "shuffle", (x,), (y,), {"blocksize": 2, "mode": "CRD"})
    with pytest.raises(UnsupportedOperatorError, match="not fixed"):
        RULES["DepthToSpace"].gradient(node, y)
