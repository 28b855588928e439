"""Element by element, with broadcasting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from support.gradient_cases import C, Case, check, run

from edgefl.trainer.gradients import RULES, Node
from edgefl.trainer.gradients.rule import sum_to
from edgefl.trainer.graph import Graph, Value

SHAPES = [(2, 3), (3,), (2, 1), (1, 1, 3), (1,), ()]


INEXACT = 0.1
"""Where the reference implementation rounds to float32, differences are no better than this."""


def numbers(*values: float) -> Any:
    return np.array(values, np.float32)


def bound(value: float) -> Any:
    return np.array(value, np.float32)


def swapped(operator: str, **limits: Any) -> Case:
    """The trained weight first: it brings an axis that x lacks, and x the batch that the weight lacks."""
    return Case(operator, (3,), {"w": (2, 1, 3)}, inputs=("w", "s"), back={"Transpose": [1, 0, 2]}, **limits)


def between(operator: str, low: float, high: float, **attributes: Any) -> Case:
    return Case(operator, (2, 3), attributes=attributes, low=low, high=high)


def powered(exponent: Any, low: float, high: float, **more: Any) -> Case:
    return Case("Pow", (2, 3), constants={"p": exponent}, inputs=("s", "p"), low=low, high=high, **more)


CASES = [
    *[C(op, (2, 3), shape) for op in ("Add", "Sub", "Mul") for shape in SHAPES],
    *[swapped(op) for op in ("Sub", "Mul")],
    Case("Mul", (3,), inputs=("s", "s")),
    *[Case("Div", (2, 3), {"w": shape}, inputs=("s", "w"), low=0.5, high=2.0) for shape in SHAPES],
    swapped("Div", low=0.5, high=2.0),
    Case("Mod", (2, 3), {"w": (3,)}, attributes={"fmod": 1}, inputs=("s", "w"), low=2.1, high=2.9),
    Case("Mod", (2, 3), constants={"m": numbers(-0.7)}, attributes={"fmod": 1}, inputs=("s", "m"), low=0.8, high=1.3),
    Case("Sum", (2, 3), {"w": (3,), "b": (2, 1)}, inputs=("s", "w", "b")),
    Case("Sum", (2, 3)),
    Case("Mean", (2, 3), {"w": (3,), "b": ()}, inputs=("s", "w", "b")),
    Case("Max", (2, 3), {"w": (2, 1)}, inputs=("s", "w")),
    Case("Min", (2, 3), constants={"c": numbers(0.1)}, inputs=("c", "s")),
    swapped("Max"),
    Case("Min", (2, 3), {"w": (3,), "b": (2, 1)}, inputs=("s", "w", "b")),
    Case("Max", (2, 3), {"w": (3,), "b": (2, 3)}, inputs=("s", "w", "b", "w")),
    Case("Max", (2, 3)),
    *[powered(numbers(p), 0.5, 2.0) for p in (2, 3, 0.5, -1, 0, 1, 1.7)],
    *[powered(np.array(p), -2.0, -0.5, note=f"to-the-{p}") for p in (2, -3)],
    powered(numbers(1, 2, 3), -2.0, -0.5, note="an-exponent-for-each"),
    powered(numbers(2).reshape(1, 1, 1, 1), -2.0, -0.5, back={"Reshape": [-1, 2, 3]}, note="of-higher-rank"),
    Case("Pow", (2, 3), {"w": (3,)}, inputs=("s", "w"), low=0.5, high=2.0),
    Case("Pow", (3,), {"w": (2, 1, 1)}, inputs=("w", "s"), low=0.5, high=2.0, back={"Transpose": [1, 0, 2]}),
    Case("Pow", (2, 3), constants={"two": numbers(2)}, inputs=("two", "s"), note="of-two"),
    *[C(op, (2, 3)) for op in ("Neg", "Exp", "Sin", "Cos", "Abs")],
    Case("Erf", (2, 3), tolerance=INEXACT),
    *[between(op, 0.5, 2.0) for op in ("Sqrt", "Log", "Reciprocal")],
    between("Reciprocal", -2.0, -0.5),
    Case("Clip", (2, 3), constants={"a": bound(-0.5), "b": bound(0.7)}, inputs=("s", "a", "b")),
    Case("Clip", (2, 3), constants={"a": bound(-0.5)}, inputs=("s", "a")),
    Case("Clip", (2, 3), constants={"b": bound(0.7)}, inputs=("s", "", "b")),
    *[
        Case(
            "Where",
            (2, 3),
            {"w": weight},
            constants={"c": np.array(mask)},
            inputs=inputs,
            note=f"{'-'.join(inputs)}-{np.array(mask).ndim}",
        )
        for weight in ((2, 3), (2, 1), ())
        for mask in ([True, False, True], [[[False], [True]]], True)
        for inputs in (("c", "s", "w"), ("c", "w", "s"))
    ],
    Case(
        "Where",
        (3,),
        {"w": (2, 1, 3)},
        constants={"c": np.array([True, False]).reshape(2, 1, 1)},
        inputs=("c", "w", "s"),
        back={"Transpose": [1, 0, 2]},
        note="the-batch-in-one-branch",
    ),
    *[
        Case(op, (2, 3), {"w": (3,)}, inputs=("s", "w"), outputs=("c",), tail=(("Where", ["c", "s", "w"], ["y"], {}),))
        for op in ("Greater", "LessOrEqual")
    ],
    Case("Cast", (3,), attributes={"to": TensorProto.FLOAT}, tolerance=INEXACT),
    Case(
        "Cast",
        (3,),
        attributes={"to": TensorProto.DOUBLE},
        outputs=("d",),
        tail=(("Cast", ["d"], ["y"], {"to": TensorProto.FLOAT}),),
        tolerance=INEXACT,
    ),
    *[
        Case(op, (2, 3), outputs=("z",), tail=(("Add", ["s", "z"], ["y"], {}),))
        for op in ("Floor", "Ceil", "Round", "Sign")
    ],
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_gradient_matches_finite_differences(case: Case, session: Any) -> None:
    check(case, session)


def slopes(operator: str, *inputs: Any, **attributes: Any) -> list[Any]:
    """The gradients of all inputs of one node, for dy = 1."""
    arrays = {name: np.array(values, np.float32) for name, values in zip("abcd", inputs, strict=False)}
    graph = Graph(taken={*arrays, "y"})
    values = tuple(Value(graph, name, array.shape) for name, array in arrays.items())
    shape = np.broadcast_shapes(*(array.shape for array in arrays.values()))
    graph.op(operator, *values, names=["y"], **attributes)
    node = Node(graph, operator, "", values, (Value(graph, "y", shape),), attributes)
    gradients = RULES[operator].gradient(node, graph.constant(np.ones(shape, np.float32)))
    return [run(graph, arrays, dx, len(shape)).tolist() for dx in gradients if dx is not None]


def test_inputs_that_tie_share_the_gradient() -> None:
    a, b = [1.0, 2.0, 3.0, 0.0], [1.0, 3.0, 2.0, -0.0]
    assert slopes("Max", a, b) == [[0.5, 0, 1, 0.5], [0.5, 1, 0, 0.5]]
    assert slopes("Min", a, b) == [[0.5, 1, 0, 0.5], [0.5, 0, 1, 0.5]]
    assert slopes("Max", [1.0, 1.0, 1.0], [1.0, 2.0, 0.0], [0.0, 2.0, 0.0]) == [[0.5, 0, 1], [0.5, 0.5, 0], [0, 0.5, 0]]


def test_the_maximum_with_infinity_is_constant() -> None:
    assert slopes("Max", [1.0, -np.inf], [np.inf, 0.0]) == [[0, 0], [1, 1]]
    assert slopes("Min", [1.0, -np.inf], [np.inf, 0.0]) == [[1, 1], [0, 0]]


def test_clip_passes_the_gradient_at_its_bounds() -> None:
    assert slopes("Clip", [-2.0, -1.0, 0.0, 1.0, 2.0], -1.0, 1.0) == [[0, 1, 1, 1, 0]]


def test_abs_is_flat_at_zero() -> None:
    assert slopes("Abs", [-1e-30, 0.0, 1e-30, -np.inf]) == [[-1, 0, 1, -1]]


def test_the_slope_of_the_error_function() -> None:
    x = np.linspace(-4, 4, 9, dtype=np.float32)
    np.testing.assert_allclose(
        slopes("Erf", x)[0], 2 / np.sqrt(np.pi) * np.exp(-(x.astype(np.float64) ** 2)), rtol=2e-6
    )


def test_powers_of_zero_have_finite_gradients_where_there_is_one() -> None:
    assert slopes("Pow", [0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 2.0, 3.0]) == [[0, 1, 0, 0], [0, 0, 0, 0]]
    graph = Graph(taken={"x", "y"})
    for exponents, expected in [([2], [0.0] * 3), ([1], [1.0] * 3), ([0], [0.0] * 3), ([0, 1, 2], [0.0, 1.0, 0.0])]:
        values = (Value(graph, "x", (3,)), graph.constant(np.array(exponents)))
        node = Node(graph, "Pow", "", values, (Value(graph, "y", (3,)),), {})
        (dx,) = RULES["Pow"].gradient(node, graph.constant(np.ones(3, np.float32)))
        assert dx is not None
        assert run(graph, {"x": np.zeros(3, np.float32)}, dx, 1).tolist() == expected


def test_a_cast_to_floats_passes_everything_and_to_whole_numbers_nothing() -> None:
    assert slopes("Cast", [1.5, 2.5], to=TensorProto.FLOAT) == [[1, 1]]
    x = Value(Graph(), "x", (3,))
    for to in (TensorProto.INT64, TensorProto.BOOL):
        assert RULES["Cast"].gradient(Node(x.graph, "Cast", "", (x,), (x,), {"to": to}), x) == []


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
