"""Pools."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.gradient_cases import Case, check, run

from edgefl.trainer.gradients import RULES, Node
from edgefl.trainer.graph import Graph, Value


def pool(operator: str, x: tuple[int, ...], **attributes: Any) -> Case:
    return Case(operator, x, attributes=attributes, inputs=("s",))


CASES = [
    pool("MaxPool", (2, 6), kernel_shape=[2], strides=[2]),
    pool("MaxPool", (2, 4, 6), kernel_shape=[2, 3], strides=[2, 3]),
    pool("MaxPool", (2, 5, 7), kernel_shape=[2, 2], strides=[2, 2]),
    pool("MaxPool", (1, 5, 5), kernel_shape=[3, 3], strides=[1, 1]),
    pool("MaxPool", (2, 6, 6), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    pool("MaxPool", (2, 5, 5), kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    pool("MaxPool", (1, 5, 5), kernel_shape=[2, 2], dilations=[2, 2]),
    pool("MaxPool", (1, 5, 5), kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    pool("AveragePool", (2, 6), kernel_shape=[2], strides=[2]),
    pool("AveragePool", (2, 4, 6), kernel_shape=[2, 3], strides=[2, 3]),
    pool("AveragePool", (2, 5, 7), kernel_shape=[2, 2], strides=[2, 2]),
    pool("AveragePool", (2, 5, 5), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    pool("AveragePool", (2, 5, 5), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1),
    pool("AveragePool", (2, 6, 6), kernel_shape=[3, 3], strides=[1, 1], auto_pad="SAME_UPPER"),
    pool("AveragePool", (2, 5, 5), kernel_shape=[3, 2], strides=[1, 2]),
    pool("GlobalAveragePool", (3, 4, 5)),
    pool("GlobalAveragePool", (3, 4)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_gradient_matches_finite_differences(case: Case, session: Any) -> None:
    check(case, session)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"strides": [2, 2]}, [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]),
        ({"strides": [1, 1]}, [[1, 2, 3, 0], [4, 5, 6, 0], [7, 8, 9, 0], [0, 0, 0, 0]]),
    ],
    ids=["side-by-side", "overlapping"],
)
def test_the_first_of_equal_maxima_takes_the_whole_gradient(attributes: Any, expected: Any) -> None:
    """Flat background, as in every image of a digit."""
    x = np.zeros((1, 1, 4, 4), np.float32)
    side = 2 if attributes["strides"] == [2, 2] else 3
    dy = np.arange(1, side * side + 1, dtype=np.float32).reshape(1, 1, side, side)
    graph = Graph(taken={"x", "dy", "y"})
    attributes = {"kernel_shape": [2, 2], **attributes}
    graph.op("MaxPool", Value(graph, "x"), names=["y"], **attributes)
    values = Value(graph, "x", (None, 1, 4, 4)), Value(graph, "y", (None, 1, side, side))
    node = Node(graph, "MaxPool", "pool", values[:1], values[1:], attributes)
    (dx,) = RULES["MaxPool"].gradient(node, Value(graph, "dy"))
    assert dx is not None
    assert run(graph, {"x": x, "dy": dy}, dx, 4).tolist() == [[expected]]
