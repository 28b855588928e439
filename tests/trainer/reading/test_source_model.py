"""A user's file becomes one flat graph of our opset, or is refused with a reason and a way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from support.normal_form import as_written, in_normal_form, operators

from edgefl.errors import EdgeflError, ModelError, UnsupportedOperatorError
from edgefl.trainer.reading.source_model import read_model

EXPORTED = Path(__file__).parents[1] / "exported"
INDEX = json.loads((EXPORTED / "index.json").read_text())
NEWEST = onnx.defs.onnx_opset_version()
W = np.arange(8, dtype=np.float32).reshape(4, 2)


@pytest.mark.parametrize("name", [name for name in INDEX if "train" not in name])
def test_the_normal_form_computes_what_the_file_computes(name: str) -> None:
    model = onnx.load(EXPORTED / f"{name}.onnx")
    if max(entry.version for entry in model.opset_import if not entry.domain) > NEWEST:
        pytest.skip("this onnx package is too old for the file")
    spec = INDEX[name]["spec"]
    source = read_model(model)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, *spec["input"])).astype(np.float32)
    if spec["tokens"]:
        x = rng.integers(0, spec["tokens"], x.shape).astype(source.inputs[0].dtype)
    result = source.outputs[0].name
    written = {value.name: i for i, value in enumerate(model.graph.output)}[result]
    expected = as_written_at(model, written, {source.inputs[0].name: x})
    np.testing.assert_allclose(
        in_normal_form(source, {source.inputs[0].name: x}), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max()
    )


def as_written_at(model: onnx.ModelProto, place: int, feeds: dict[str, Any]) -> Any:
    first = onnx.ModelProto()
    first.CopyFrom(model)
    kept = model.graph.output[place]
    del first.graph.output[:]
    first.graph.output.append(kept)
    found = as_written(first, feeds)
    return np.array([list(row.values()) for row in found]) if isinstance(found, list) else found


def test_shapes_and_types_of_every_tensor_are_known(onnx_model: Any) -> None:
    nodes = [
        helper.make_node("ArgMax", ["x"], ["i"], axis=1, keepdims=0),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["f", "axes"], ["u"]),
        helper.make_node("Mul", ["x", "u"], ["y"]),
    ]
    source = read_model(onnx_model(nodes, {"axes": np.array([1])}))
    assert source.shapes == {"x": (None, 4), "axes": (1,), "i": (None,), "f": (None,), "u": (None, 1), "y": (None, 4)}
    assert source.dtypes == {
        **dict.fromkeys(("x", "f", "u", "y"), "float32"),
        **dict.fromkeys(("axes", "i"), "int64"),
    }
    assert source.per_sample == {"x", "i", "f", "u", "y"}


def test_the_first_output_that_can_be_trained_comes_first(onnx_model: Any) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["p"]),
        helper.make_node("ArgMax", ["p"], ["label"], axis=1, keepdims=0),
        helper.make_node("Relu", ["p"], ["r"]),
    ]
    model = onnx_model(nodes, {"w": W}, outputs=["label", "p", "r"])
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("label", TensorProto.INT64, [None]))
    assert [(o.name, o.dtype) for o in read_model(model).outputs] == [
        ("p", "float32"),
        ("label", "int64"),
        ("r", "float32"),
    ]


def test_what_no_output_needs_is_left_out(onnx_model: Any) -> None:
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"]), helper.make_node("Relu", ["y"], ["unused"])]
    assert operators(read_model(onnx_model(nodes, {"w": W}))) == ["Gemm"]


def control_flow() -> list[onnx.NodeProto]:
    body = [helper.make_node("Identity", ["x"], ["i"])]
    branch = helper.make_graph(body, "b", [], [helper.make_tensor_value_info("i", 1, [None, 4])])
    return [helper.make_node("If", ["yes"], ["h"], "choice", then_branch=branch, else_branch=branch)]


@pytest.mark.parametrize("frozen", [True, False])
def test_control_flow_before_an_output_is_refused_even_if_frozen(frozen: bool, onnx_model: Any) -> None:
    nodes = [*control_flow(), helper.make_node("Gemm", ["h", "w"], ["y"])]
    with pytest.raises(UnsupportedOperatorError, match=r"'choice' uses If \(opset 17\), control flow") as caught:
        read_model(onnx_model(nodes, {"yes": np.array(True), "w": W}))
    assert "LSTM or GRU" in caught.value.hint


def test_an_output_behind_control_flow_is_left_out_if_there_is_another(onnx_model: Any) -> None:
    nodes = [*control_flow(), helper.make_node("Gemm", ["x", "w"], ["y"])]
    source = read_model(onnx_model(nodes, {"yes": np.array(True), "w": W}, outputs=["h", "y"]))
    assert [o.name for o in source.outputs] == ["y"]
    assert operators(source) == ["Gemm"]


def test_an_operator_that_onnx_does_not_have_is_refused_by_name(onnx_model: Any) -> None:
    """tf2onnx writes Erfc for an exact gelu."""
    model = onnx_model([helper.make_node("Relu", ["x"], ["y"])], {})
    model.graph.node[0].CopyFrom(helper.make_node("Erfc", ["x"], ["y"], "gelu"))
    with pytest.raises(UnsupportedOperatorError, match=r"node 'gelu' uses Erfc \(opset 17\)") as caught:
        read_model(model)
    assert "standard ONNX operators" in caught.value.hint


def test_open_dimensions_name_input_and_axis(onnx_model: Any) -> None:
    model = onnx_model([helper.make_node("Relu", ["x"], ["y"])], {}, x=("batch", "length", 3))
    with pytest.raises(ModelError, match=r"dimension 1 of input 'x' is open \(length\)"):
        read_model(model)


def test_the_file_itself_is_not_changed(onnx_model: Any) -> None:
    nodes = [helper.make_node("Dropout", ["x", "r", "yes"], ["h"]), helper.make_node("Gemm", ["h", "w"], ["y"])]
    model = onnx_model(nodes, {"w": W, "r": np.float32(0.5), "yes": np.array(True)})
    before = model.SerializeToString(deterministic=True)
    read_model(model)
    assert model.SerializeToString(deterministic=True) == before


def test_a_long_chain_of_shapes_is_followed_to_its_end(onnx_model: Any) -> None:
    """Each Reshape's target is computed from the shape that the one before gave."""
    nodes, name = [], "x"
    for i in range(60):
        nodes += [
            helper.make_node("Shape", [name], [f"s{i}"]),
            helper.make_node("Gather", [f"s{i}", "order"], [f"t{i}"]),
            helper.make_node("Reshape", [name, f"t{i}"], [f"h{i}"]),
        ]
        name = f"h{i}"
    nodes.append(helper.make_node("Relu", [name], ["y"]))
    source = read_model(onnx_model(nodes, {"order": np.array([0, 2, 1])}, x=("batch", 2, 3)))
    assert source.shapes["h0"] == (None, 3, 2)
    assert set(operators(source)) == {"Reshape", "Relu"}


SMALL = sorted(EXPORTED.glob("*.onnx"), key=lambda path: path.stat().st_size)[:40]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_by_name(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(SMALL)).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_model(bytes(content))
    except EdgeflError as error:
        assert error.cause  # noqa: PT017 - either outcome is right


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_odd_node_is_read_or_refused_by_name(data: st.DataObject) -> None:
    """Any operator in the place of another, with odd attributes, inputs and sizes."""
    model = onnx.load(data.draw(st.sampled_from(SMALL)))
    nodes, tensors = list(model.graph.node), list(model.graph.initializer)
    for _ in range(data.draw(st.integers(1, 3))):
        node = data.draw(st.sampled_from(nodes))
        change = data.draw(st.sampled_from(["operator", "attribute", "input", "output", "dims"]))
        if change == "operator":
            node.op_type = data.draw(st.sampled_from(nodes)).op_type
        elif change == "attribute" and node.attribute:
            attribute = data.draw(st.sampled_from(list(node.attribute)))
            number = data.draw(st.integers(-3, 9) | st.sampled_from([2**31, -(2**63), 2**63 - 1]))
            values = [number] * data.draw(st.integers(0, 4))
            new = helper.make_attribute(attribute.name, values or number)
            attribute.CopyFrom(new)
        elif change == "input" and node.input:
            other = data.draw(st.sampled_from(["", *(name for n in nodes for name in n.output), "x"]))
            node.input[data.draw(st.integers(0, len(node.input) - 1))] = other
        elif change == "output":
            node.output.append("more")
        elif change == "dims" and tensors:
            tensor = data.draw(st.sampled_from(tensors))
            tensor.dims.append(data.draw(st.integers(-1, 3)))
    try:
        read_model(model)
    except EdgeflError as error:
        assert error.cause  # noqa: PT017 - either outcome is right
