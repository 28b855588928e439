"""Pools before activations: the same numbers, the same gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper
from support.gradient_cases import finite_differences, small_model

from edgefl.trainer.reorder import pool_first


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


def order(proto: Any, kept: tuple[str, ...] = ("y",)) -> list[str]:
    names = iter("abcdefgh")
    nodes, shapes = pool_first(proto.graph.node, {"y": (None, 2, 2, 2)}, kept, lambda hint: f"{hint}~{next(names)}")
    made: set[str] = {"x", "w"}
    for node in nodes:
        assert made.issuperset(node.input)
        made.update(node.output)
        assert node.output[0] != "y.pooled~a" or shapes[node.output[0]] == (None, 2, 2, 2)
    return [node.op_type for node in nodes]


def test_only_what_the_pool_alone_reads_is_moved() -> None:
    assert order(model("Relu")) == ["Conv", "MaxPool", "Relu"]
    assert order(model("Relu"), ("y", "a")) == ["Conv", "Relu", "MaxPool"]  # an output of the model
    assert order(model("Abs")) == ["Conv", "Abs", "MaxPool"]
    assert order(model("LeakyRelu", alpha=-0.5)) == ["Conv", "LeakyRelu", "MaxPool"]
