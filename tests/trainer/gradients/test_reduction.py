"""Sums, means and extremes along axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.gradient_cases import Case, check, run

from edgefl.errors import UnsupportedOperatorError
from edgefl.trainer.gradients import RULES, Node
from edgefl.trainer.graph import Graph, Value

POSITIVE = {"low": 0.5, "high": 2.0}
LIMITS = {"ReduceLogSum": POSITIVE, "ReduceProd": POSITIVE}
REDUCTIONS = (
    *("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"),
    *("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"),
)


def reduce(operator: str, x: tuple[int, ...], *axes: int, keepdims: int = 1, **more: Any) -> Case:
    return Case(
        operator,
        x,
        constants={"axes": [*axes]},
        attributes={"keepdims": keepdims},
        inputs=("s", "axes"),
        opset=18,
        note="over-" + ",".join(map(str, axes)),
        **{**LIMITS.get(operator, {}), **more},
    )


def over_the_batch(operator: str, *inputs: str, **attributes: Any) -> Case:
    """The batch (and more) disappears; x minus what remains has it again."""
    return Case(
        operator,
        (2, 3),
        constants={"axes": [0, -1]},
        attributes=attributes,
        inputs=("s", *inputs),
        outputs=("r",),
        tail=(("Sub", ["s", "r"], ["y"], {}),),
        opset=18,
        note="-".join(("over-the-batch", *inputs)),
        **LIMITS.get(operator, {}),
    )


def running(axis: Any, **attributes: int) -> Case:
    return Case("CumSum", (2, 3), constants={"axis": axis}, attributes=attributes, inputs=("s", "axis"), note=f"{axis}")


CASES = [
    *[reduce(op, (2, 3, 2), *axes, keepdims=keep) for op in REDUCTIONS for axes, keep in [((1, -1), 0), ((2,), 1)]],
    *[over_the_batch(op, "axes") for op in REDUCTIONS],
    Case("ReduceMean", (2, 3), attributes={"axes": [-1]}, opset=13),
    Case("ReduceMax", (2, 3), attributes={"axes": [1], "keepdims": 0}, opset=17),
    *[over_the_batch(op, keepdims=0) for op in ("ReduceSum", "ReduceMean", "ReduceMax")],
    *[
        Case(op, (2, 3), attributes={"noop_with_empty_axes": 1}, constants={"axes": []}, inputs=("s", "axes"), opset=18)
        for op in ("ReduceSum", "ReduceMax", "ReduceLogSumExp")
    ],
    *[running(np.array(axis), exclusive=e, reverse=r) for axis, e, r in [(1, 0, 0), (-1, 1, 0), (2, 0, 1), (1, 1, 1)]],
    running(np.array(-1, np.int32)),
    running(np.array(0)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_gradient_matches_finite_differences(case: Case, session: Any) -> None:
    check(case, session)


def slopes(operator: str, rows: list[list[float]], axis: int = 1, axes_as_input: bool = True) -> list[list[float]]:
    """dx of a reduction of each row (axis 0: column), for dy = 1 and x of open length."""
    x = np.array(rows, np.float32)
    y = np.ones((len(rows), 1) if axis else (1, x.shape[1]), np.float32)
    graph = Graph(taken={"x", "y"})
    graph.op(operator, Value(graph, "x"), graph.integers([axis]), names=["y"])
    values = (Value(graph, "x", (None, x.shape[1])), *([graph.integers([axis])] if axes_as_input else []))
    attributes = {} if axes_as_input else {"axes": [axis]}
    node = Node(graph, operator, "", values, (Value(graph, "y", (None, 1) if axis else y.shape),), attributes)
    (dx,) = RULES[operator].gradient(node, graph.constant(y))
    assert dx is not None
    found: list[list[float]] = run(graph, {"x": x}, dx, 2).tolist()
    return found


def test_what_is_summed_over_the_batch_comes_back_to_every_sample() -> None:
    x = [[0.0, 1.0]] * 4
    assert slopes("ReduceSum", x, axis=0) == [[1.0, 1.0]] * 4
    assert slopes("ReduceMean", x, axis=0) == [[0.25, 0.25]] * 4


def test_elements_that_tie_for_the_extreme_share_the_gradient() -> None:
    third = float(np.float32(1) / np.float32(3))
    assert slopes("ReduceMax", [[1, 3, 3], [0, 0, 0], [2, 1, 0]]) == [[0, 0.5, 0.5], [third] * 3, [1, 0, 0]]
    assert slopes("ReduceMin", [[1, 3, 1], [0, 0, 0], [2, 1, 0]]) == [[0.5, 0, 0.5], [third] * 3, [0, 0, 1]]


def test_axes_may_be_an_attribute_as_up_to_opset_17() -> None:
    assert slopes("ReduceMax", [[1, 3, 2]], axes_as_input=False) == [[0, 1, 0]]
    assert slopes("ReduceMean", [[1, 3], [5, 6]], axes_as_input=False) == [[0.5] * 2] * 2


def test_norms_have_slope_zero_at_zero() -> None:
    assert slopes("ReduceL2", [[0, 0], [3, 4], [3e-12, -4e-12]]) == [
        [0, 0],
        pytest.approx([0.6, 0.8]),
        pytest.approx([0.6, -0.8]),
    ]
    assert slopes("ReduceL1", [[0, 2, -3]]) == [[0, 1, -1]]


def test_a_product_with_zeros_passes_the_product_of_the_others() -> None:
    assert slopes("ReduceProd", [[2, 3, 5], [2, 0, 5], [0, 3, 0], [0, 0, 0]]) == [
        pytest.approx([15, 10, 6]),
        [0, 10, 0],
        [0, 0, 0],
        [0, 0, 0],
    ]


@pytest.mark.parametrize("operator", ["ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum"])
def test_a_reduction_over_no_axis_that_changes_x_is_refused(operator: str) -> None:
    x = Value(Graph(), "x", (None, 3))
    node = Node(x.graph, operator, "norm", (x,), (x,), {"noop_with_empty_axes": 1})
    with pytest.raises(UnsupportedOperatorError, match="noop_with_empty_axes"):
        RULES[operator].gradient(node, x)


def test_axes_that_the_model_computes_are_refused() -> None:
    x = Value(Graph(), "x", (None, 3))
    node = Node(x.graph, "ReduceSum", "sum", (x, Value(x.graph, "axes", (1,))), (x,), {})
    with pytest.raises(UnsupportedOperatorError, match="axes are computed"):
        RULES["ReduceSum"].gradient(node, x)
