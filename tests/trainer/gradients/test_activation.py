"""Activations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from support.gradient_cases import C, Case, check, run

from edgefl.errors import UnsupportedOperatorError
from edgefl.trainer.gradients import RULES, Node
from edgefl.trainer.graph import Graph, Value


def activation(operator: str, **attributes: Any) -> Case:
    """Values on both sides of every bend, as far as 4."""
    return Case(operator, (3, 7), attributes=attributes, low=-4, high=4, opset=21)


CASES = [
    *[C(op, (3, 5)) for op in ("Relu", "Sigmoid", "Tanh")],
    *[activation("LeakyRelu", alpha=alpha) for alpha in (0.1, 0.0, -0.5, 1.0, 2.0)],
    *[Case("PRelu", (3, 4), {"w": w}, inputs=("s", "w"), opset=21) for w in [(1,), (3, 1), (4,), (3, 4), (1, 1, 1)]],
    *[activation("ThresholdedRelu", alpha=alpha) for alpha in (1.0, 0.0, -1.5)],
    *[activation("Elu", alpha=alpha) for alpha in (1.0, 0.3, 2.0, 0.0)],
    *[activation("Selu"), activation("Selu", alpha=0.5, gamma=2.0)],
    *[activation("Celu", alpha=alpha) for alpha in (1.0, 0.5, 3.0)],
    *[activation("HardSigmoid"), activation("HardSigmoid", alpha=1.0, beta=0.2)],
    *[activation(op) for op in ("HardSwish", "Softplus", "Softsign", "Mish")],
    activation("Gelu", approximate="tanh"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_gradient_matches_finite_differences(case: Case, session: Any) -> None:
    check(case, session)


def slopes(operator: str, x: list[float], **attributes: Any) -> list[float]:
    """dx for dy = 1, the operator's own y being computed by ONNX Runtime."""
    graph = Graph(taken={"x", "y", "dy"})
    values = Value(graph, "x", (len(x),)), Value(graph, "y", (len(x),))
    graph.op(operator, values[0], names=["y"], **attributes)
    (dx,) = RULES[operator].gradient(Node(graph, operator, "", values[:1], values[1:], attributes), Value(graph, "dy"))
    assert dx is not None
    given = {"x": np.array(x, np.float32), "dy": np.ones(len(x), np.float32)}
    return list(run(graph, given, dx, 1).tolist())


def test_the_slope_of_gelu_is_that_of_the_normal_distribution() -> None:
    # not by finite differences: the Erf of onnx's reference implementation has float32 steps since 1.23
    x = np.linspace(-6, 6, 101).tolist()
    expected = [(1 + math.erf(v / 2**0.5)) / 2 + v * math.exp(-v * v / 2) / math.sqrt(2 * math.pi) for v in x]
    assert slopes("Gelu", x) == pytest.approx(expected, abs=3e-7)


@pytest.mark.parametrize(
    ("operator", "below", "above"),
    [
        ("Relu", 0, 1),
        ("LeakyRelu", 0.01, 1),
        ("ThresholdedRelu", 0, 1),
        ("Elu", 0, 1),
        ("Selu", 0, 1.0507010),
        ("Celu", 0, 1),
        ("Sigmoid", 0, 0),
        ("HardSigmoid", 0, 0),
        ("Tanh", 0, 0),
        ("Softplus", 0, 1),
        ("Softsign", 1 / 101**2, 1 / 101**2),
        ("HardSwish", 0, 1),
        ("Mish", 0, 1),
        ("Gelu", 0, 1),
    ],
)
def test_far_from_zero_the_slope_is_the_limit(operator: str, below: float, above: float) -> None:
    assert slopes(operator, [-100, 100]) == pytest.approx([below, above], rel=1e-4, abs=1e-7)
    assert np.isfinite(slopes(operator, [-1e4, -30, -18, 18, 30, 1e4])).all()


def test_far_from_zero_the_slope_of_the_approximate_gelu_is_the_limit() -> None:
    assert slopes("Gelu", [-100, -20, 20, 100], approximate="tanh") == pytest.approx([0, 0, 1, 1], abs=1e-6)


@pytest.mark.parametrize(
    ("operator", "x", "expected"),
    [
        ("LeakyRelu", 0, 0.01),
        ("ThresholdedRelu", 1, 0),
        ("Elu", 0, 1),
        ("Celu", 0, 1),
        ("HardSigmoid", 2.5, 0),
        ("HardSigmoid", -2.5, 0),
        ("HardSwish", 0, 0.5),
        ("HardSwish", 3, 1),
        ("HardSwish", -3, 0),
        ("Softsign", 0, 1),
        ("Mish", 0, 0.6),
        ("Gelu", 0, 0.5),
    ],
)
def test_the_slope_at_a_bend_is_that_of_one_side(operator: str, x: float, expected: float) -> None:
    assert slopes(operator, [x]) == pytest.approx([expected], abs=1e-6)


def test_relu_passes_nothing_at_zero_and_everything_above() -> None:
    y = np.array([0.0, 1.2e-38, 1e-20, 1.0, 3e38, np.inf], np.float32)
    graph = Graph(taken={"y", "dy"})
    node = Node(graph, "Relu", "", (), (Value(graph, "y", (6,)),), {})
    (dx,) = RULES["Relu"].gradient(node, Value(graph, "dy"))
    assert dx is not None
    assert run(graph, {"y": y, "dy": np.full(6, 2, np.float32)}, dx, 1).tolist() == [0, 2, 2, 2, 2, 2]


@pytest.mark.parametrize(("operator", "name"), [("Elu", "alpha"), ("Selu", "alpha"), ("Selu", "gamma")])
def test_exponential_units_with_negative_constants_are_refused(operator: str, name: str) -> None:
    with pytest.raises(UnsupportedOperatorError, match="negative"):
        slopes(operator, [1.0], **{name: -0.5})
