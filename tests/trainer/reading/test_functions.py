"""Functions of the model and of ONNX itself in terms of simpler operators, within bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from support.normal_form import as_written, in_normal_form, operators

from edgefl.errors import ModelError
from edgefl.trainer.gradients import RULES
from edgefl.trainer.reading import functions
from edgefl.trainer.reading.source_model import read_model

W = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)


@pytest.mark.parametrize("attributes", [{"lambd": 0.25, "bias": 0.125}, {"bias": 0.5}, {}])
def test_an_operator_without_a_rule_is_expanded_by_the_body_that_onnx_defines(
    attributes: dict[str, float], onnx_model: Any, session: Any
) -> None:
    assert "Shrink" not in RULES
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"]),
        helper.make_node("Shrink", ["h"], ["y"], "soft", **attributes),
    ]
    model = onnx_model(nodes, {"w": W})
    source = read_model(model)
    assert "Shrink" not in operators(source)
    assert {node.name for node in source.nodes if node.name.startswith("soft")}
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    np.testing.assert_allclose(in_normal_form(source, {"x": x}), as_written(model, {"x": x}), atol=1e-6)
    s = session(model)
    batch = {"x": x, "target": np.zeros((5, 3), np.float32)}
    assert s.step(batch, 0.1) > s.evaluate(batch)["loss"]


def test_a_body_that_depends_on_the_node_is_asked_for(onnx_model: Any) -> None:
    assert "CenterCropPad" not in RULES
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"]),
        helper.make_node("CenterCropPad", ["h", "size"], ["y"], "crop", axes=[1]),
    ]
    model = onnx_model(nodes, {"w": W, "size": np.array([2])}, opset=18)
    source = read_model(model)
    assert set(operators(source)) <= set(RULES)
    assert source.shapes["y"] == (None, 2)
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_allclose(in_normal_form(source, {"x": x}), as_written(model, {"x": x}), rtol=1e-6)


def test_before_the_first_weight_operators_stay_as_they_are(onnx_model: Any) -> None:
    nodes = [helper.make_node("Shrink", ["x"], ["h"]), helper.make_node("Gemm", ["h", "w"], ["y"])]
    assert operators(read_model(onnx_model(nodes, {"w": W}))) == ["Shrink", "Gemm"]


def test_functions_of_the_model_call_functions(onnx_model: Any) -> None:
    model = onnx_model([helper.make_node("Relu", ["x"], ["y"])], {})
    model.graph.node[0].CopyFrom(helper.make_node("Outer", ["x"], ["y"], domain="own"))
    model.opset_import.append(helper.make_opsetid("own", 1))
    add_function(model, "Inner", ["Relu"])
    add_function(model, "Outer", ["own.Inner", "own.Inner", "Neg"])
    assert operators(read_model(model)) == ["Relu", "Relu", "Neg"]


def test_functions_that_multiply_are_counted_before_they_are_inlined(onnx_model: Any) -> None:
    """Thirty functions that call the one before twice are a billion nodes."""
    model = doubling(onnx_model, 30)
    with pytest.raises(ModelError, match=f"more than {functions.MAX_NODES} nodes"):
        read_model(model)
    assert len(read_model(doubling(onnx_model, 6)).nodes) == 64


@pytest.mark.parametrize("depth", [1, 2, 50])
def test_a_function_that_calls_itself_is_refused(depth: int, onnx_model: Any) -> None:
    model = doubling(onnx_model, depth)
    model.functions[0].node[0].CopyFrom(helper.make_node(f"F{depth - 1}", ["a"], ["v0"], domain="own"))
    with pytest.raises(ModelError):
        read_model(model)


def add_function(model: onnx.ModelProto, name: str, calls: list[str]) -> None:
    body = []
    for place, call in enumerate(calls):
        domain, _, operator = call.rpartition(".")
        output = "b" if place == len(calls) - 1 else f"v{place}"
        body.append(helper.make_node(operator, [f"v{place - 1}" if place else "a"], [output], domain=domain))
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model.functions.append(helper.make_function("own", name, ["a"], ["b"], body, imports))


def doubling(onnx_model: Any, depth: int) -> onnx.ModelProto:
    model: onnx.ModelProto = onnx_model([helper.make_node("Relu", ["x"], ["y"])], {})
    model.graph.node[0].CopyFrom(helper.make_node(f"F{depth - 1}", ["x"], ["y"], domain="own"))
    model.opset_import.append(helper.make_opsetid("own", 1))
    for level in range(depth):
        add_function(model, f"F{level}", [f"own.F{level - 1}"] * 2 if level else ["Relu", "Relu"])
    return model
