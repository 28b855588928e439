"""Forms that cost less: the same numbers, the same gradients."""

from __future__ import annotations

from math import erf, pi
from typing import Any

import numpy as np
import pytest
from onnx import helper
from support.gradient_cases import finite_differences, small_model

from edgefl.trainer.building.simplify import simplify


def model(activation: str, **attributes: Any) -> Any:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node(activation, ["c"], ["a"], "activation", **attributes),
        helper.make_node("MaxPool", ["a"], ["y"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
    ]
    weights = {"w": np.random.default_rng(0).normal(size=(2, 1, 3, 3)).astype(np.float32)}
    return small_model(nodes, weights, x=("batch", 1, 6, 6))


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", "Tanh"])
def test_gradients_are_those_of_the_model_as_it_was(activation: str, session: Any) -> None:
    original = model(activation)
    s = session(original)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 1, 6, 6)).astype(np.float32)
    target = rng.normal(size=(3, 2, 2, 2)).astype(np.float32)
    expected = finite_differences(original, x, target, ["w"])["w"]
    found = s.gradients({"x": x, "target": target})["w"]
    np.testing.assert_allclose(found, expected, atol=3e-5 * np.abs(expected).max())


def simplified(proto: Any, kept: tuple[str, ...] = ("y",)) -> list[str]:
    """The operators after all rewrites, every input made before it is read."""
    shapes = {
        value.name: tuple(d.dim_value or None for d in value.type.tensor_type.shape.dim)
        for value in (*proto.graph.value_info, *proto.graph.output, *proto.graph.input)
    }
    names = (f"~{n}" for n in range(100))
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    forms = simplify(proto.graph.node, shapes, constants, kept, lambda hint: hint + next(names))
    made = {"x", *forms.constants}
    for node in forms.nodes:
        assert made.issuperset(node.input)
        made.update(node.output)
        assert set(node.output) <= set(forms.shapes)
    return [node.op_type for node in forms.nodes]


def test_only_what_the_pool_alone_reads_is_moved() -> None:
    assert simplified(model("Relu")) == ["Conv", "MaxPool", "Relu"]
    assert simplified(model("Relu"), ("y", "a")) == ["Conv", "Relu", "MaxPool"]  # an output of the model
    assert simplified(model("Abs")) == ["Conv", "Abs", "MaxPool"]
    assert simplified(model("LeakyRelu", alpha=-0.5)) == ["Conv", "LeakyRelu", "MaxPool"]


def gelu(way: str, **changes: float) -> Any:
    """x w, then gelu as exporters write it: with the half at the end, or before, or as divisions."""
    c = {"root": 2**0.5, "one": 1.0, "half": 0.5, **changes}
    node = helper.make_node
    start = [
        node("MatMul", ["x", "w"], ["z"], "dense"),
        node("Div", ["z", "root"], ["d"]) if way != "product" else node("Mul", ["inverse", "z"], ["d"]),
        node("Erf", ["d"], ["e"]),
        node("Add", ["e", "one"] if way == "after" else ["one", "e"], ["p"]),
    ]
    ends = {
        "after": [node("Mul", ["z", "p"], ["h"]), node("Mul", ["h", "half"], ["y"])],
        "before": [node("Mul", ["half", "z"], ["h"]), node("Mul", ["h", "p"], ["y"])],
        "product": [node("Mul", ["p", "z"], ["h"]), node("Div", ["h", "two"], ["y"])],
    }
    weights = {name: np.float32(value) for name, value in c.items()}
    weights |= {"inverse": np.float32(1 / c["root"]), "two": np.float32(1 / c["half"])}
    weights["w"] = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    return small_model([*start, *ends[way]], weights, x=("batch", 4), opset=20)


@pytest.mark.parametrize("way", ["after", "before", "product"])
def test_gelu_written_out_is_one_node_with_the_same_gradient(way: str, session: Any) -> None:
    original = gelu(way)
    assert simplified(original) == ["MatMul", "Gelu"]
    s = session(original, trainable=["w"])
    rng = np.random.default_rng(1)
    x, target = rng.normal(size=(3, 4)).astype(np.float32), rng.normal(size=(3, 5)).astype(np.float32)
    # by the formula: the reference implementation's Erf has steps of float32
    z = x.astype(np.float64) @ s.parameters()["w"]
    below = np.vectorize(lambda value: (1 + erf(value / 2**0.5)) / 2)(z)
    slope = below + z * np.exp(-z * z / 2) / (2 * pi) ** 0.5
    expected = x.T @ ((z * below - target) * slope * 2 / target.size)
    np.testing.assert_allclose(s.gradients({"x": x, "target": target})["w"], expected, atol=1e-6)


def test_what_is_no_gelu_stays() -> None:
    for change in ({"root": 2.0}, {"one": 2.0}, {"half": 0.4}):
        assert "Erf" in simplified(gelu("after", **change))
    for inside in ("d", "e", "p", "h"):
        assert "Erf" in simplified(gelu("after"), ("y", inside))


def sliced(*cuts: tuple[int, int], axis: int = -1) -> Any:
    """x w [batch, 6], cut along an axis, the parts multiplied."""
    weights: dict[str, Any] = {"w": np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"], "dense")]
    for i, (start, stop) in enumerate(cuts):
        weights |= {f"a{i}": np.array([start]), f"b{i}": np.array([stop]), "axis": np.array([axis])}
        nodes.append(helper.make_node("Slice", ["z", f"a{i}", f"b{i}", "axis"], [f"p{i}"], f"cut{i}"))
    nodes.append(helper.make_node("Mul", ["p0", "p1"], ["m"]))
    nodes.append(helper.make_node("Identity", ["m"], ["y"]))
    return small_model(nodes, weights, x=("batch", 4))


def test_slices_that_divide_an_axis_are_one_split(session: Any) -> None:
    end = 2**63 - 1
    assert simplified(sliced((0, 3), (3, end))) == ["MatMul", "Split", "Mul", "Identity"]
    assert simplified(sliced((3, 6), (0, 3))) == ["MatMul", "Split", "Mul", "Identity"]
    assert simplified(sliced((-6, -3), (-3, end))) == ["MatMul", "Split", "Mul", "Identity"]
    for cuts in ([(0, 3), (2, 5)], [(0, 2), (2, 4)], [(0, 3), (0, 3)]):
        assert "Split" not in simplified(sliced(*cuts))
    assert "Split" not in simplified(sliced((0, 1), (1, end), axis=0))
    original = sliced((0, 3), (3, end))
    s = session(original)
    rng = np.random.default_rng(1)
    x, target = rng.normal(size=(3, 4)).astype(np.float32), rng.normal(size=(3, 3)).astype(np.float32)
    expected = finite_differences(original, x, target, ["w"])["w"]
    np.testing.assert_allclose(s.gradients({"x": x, "target": target})["w"], expected, atol=1e-5)
