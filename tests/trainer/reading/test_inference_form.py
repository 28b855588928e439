"""Training mode and other detours of exporters, taken out of the graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.normal_form import as_written, in_normal_form, operators

from edgefl.errors import ModelError, UnsupportedOperatorError
from edgefl.trainer.reading.inference_form import DropoutSite
from edgefl.trainer.reading.source_model import read_model

W = np.arange(8, dtype=np.float32).reshape(4, 2)
SCALES = {
    "scale": np.array([1, 2], np.float32),
    "bias": np.array([0, 1], np.float32),
    "mean": np.array([1, 0], np.float32),
    "var": np.array([4, 1], np.float32),
}


def dropouts(*options: str, ratio: float = 0.25) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    nodes = [
        helper.make_node("Dropout", ["x", *options], ["h"], "first"),
        helper.make_node("Gemm", ["h", "w"], ["g"]),
        helper.make_node("Dropout", ["g"], ["y"], "last"),
    ]
    return nodes, {"w": W, "ratio": np.float32(ratio), "yes": np.array(True), "no": np.array(False)}


@pytest.mark.parametrize("options", [("ratio",), ("ratio", "yes"), ("ratio", "no")])
def test_dropout_is_the_identity_and_its_place_is_known(options: tuple[str, ...], onnx_model: Any) -> None:
    source = read_model(onnx_model(*dropouts(*options)))
    assert operators(source) == ["Identity", "Gemm", "Identity"]
    assert source.dropouts == (DropoutSite("first", "x", "h", 0.25), DropoutSite("last", "g", "y", 0.5))


def test_a_ratio_of_an_older_opset_is_an_attribute(onnx_model: Any) -> None:
    nodes = [helper.make_node("Dropout", ["x"], ["y"], "drop", ratio=0.125)]
    assert read_model(onnx_model(nodes, {}, opset=11)).dropouts == (DropoutSite("drop", "x", "y", 0.125),)


@pytest.mark.parametrize("ratio", [1.0, 1.5, -0.1, np.nan])
def test_a_ratio_that_is_none_is_refused(ratio: float, onnx_model: Any) -> None:
    with pytest.raises(UnsupportedOperatorError, match=r"'first' uses Dropout .* with the ratio"):
        read_model(onnx_model(*dropouts("ratio", ratio=ratio)))


def test_a_ratio_that_is_computed_from_the_input_is_refused(onnx_model: Any) -> None:
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["r"], keepdims=0),
        helper.make_node("Dropout", ["x", "r"], ["y"], "drop"),
    ]
    with pytest.raises(UnsupportedOperatorError, match=r"'drop' .* ratio that is not constant"):
        read_model(onnx_model(nodes, {}))


def test_a_mask_that_is_used_is_refused(onnx_model: Any) -> None:
    nodes = [
        helper.make_node("Dropout", ["x"], ["h", "mask"], "drop"),
        helper.make_node("Where", ["mask", "h", "x"], ["y"]),
    ]
    with pytest.raises(UnsupportedOperatorError, match=r"'drop' .* reads more than the first output"):
        read_model(onnx_model(nodes, {}))


def batch_norm(outputs: list[str], **attributes: Any) -> list[onnx.NodeProto]:
    inputs = ["x", "scale", "bias", "mean", "var"]
    return [helper.make_node("BatchNormalization", inputs, outputs, "norm", epsilon=0.5, momentum=0.8, **attributes)]


def test_batch_normalisation_in_training_mode_is_brought_to_inference(onnx_model: Any, tmp_path: Any) -> None:
    model = onnx_model(batch_norm(["y", "m", "v"], training_mode=1), SCALES, x=("batch", 2, 3))
    source = read_model(model)
    (node,) = source.nodes
    assert list(node.output) == ["y"]
    assert {a.name: round(a.f, 3) for a in node.attribute} == {"epsilon": 0.5, "momentum": 0.8}
    assert set(source.initializers) == set(SCALES)
    x = np.random.default_rng(0).normal(size=(3, 2, 3)).astype(np.float32)
    inference = as_written(onnx_model(batch_norm(["y"]), SCALES, x=("batch", 2, 3)), {"x": x})
    np.testing.assert_allclose(in_normal_form(source, {"x": x}), inference, rtol=1e-6)
    # and so is the model that is exported after training
    (exported,) = source.proto.graph.node
    assert len(exported.output) == 1
    np.testing.assert_allclose(as_written(source.proto, {"x": x}), inference, rtol=1e-6)


def test_dropout_in_training_mode_does_not_drop_in_the_exported_model(onnx_model: Any) -> None:
    source = read_model(onnx_model(*dropouts("ratio", "yes")))
    x = np.ones((64, 4), np.float32)
    np.testing.assert_array_equal(as_written(source.proto, {"x": x}), x @ W)


def test_the_training_outputs_of_an_older_opset_are_left_off(onnx_model: Any) -> None:
    model = onnx_model(batch_norm(["y", "m", "v", "sm", "sv"]), SCALES, x=("batch", 2, 3), opset=9)
    (node,) = read_model(model).nodes
    assert list(node.output) == ["y"]


def test_running_statistics_that_are_an_output_are_refused(onnx_model: Any) -> None:
    model = onnx_model(
        batch_norm(["y", "m", "v"], training_mode=1), SCALES, x=("batch", 2, 3), outputs=["y", "m"], opset=15
    )
    with pytest.raises(UnsupportedOperatorError, match=r"'norm' .* reads more than the first output"):
        read_model(model)


def test_casts_to_the_type_that_a_tensor_has_are_nothing(onnx_model: Any) -> None:
    nodes = [
        helper.make_node("CastLike", ["x", "w"], ["a"]),
        helper.make_node("CastLike", ["two", "a"], ["b"]),
        helper.make_node("Mul", ["a", "b"], ["c"]),
        helper.make_node("Mul", ["c", "w"], ["y"]),
    ]
    source = read_model(onnx_model(nodes, {"w": np.ones(4, np.float32), "two": np.array(2)}))
    assert operators(source) == ["Mul", "Mul"]
    assert source.dtypes["b"] == "float32"


def test_a_sequence_of_parts_is_a_split(onnx_model: Any) -> None:
    """As the dynamo exporter writes `chunk` without optimisation."""
    nodes = [
        helper.make_node("SplitToSequence", ["x", "two"], ["parts"], "split", axis=-1),
        helper.make_node("SequenceAt", ["parts", "last"], ["b"]),
        helper.make_node("SequenceAt", ["parts", "zero"], ["a"]),
        helper.make_node("Concat", ["b", "a"], ["y"], axis=-1),
    ]
    numbers = {"two": np.array(2), "zero": np.array(0), "last": np.array(-1)}
    model = onnx_model(nodes, numbers, x=("batch", 5))
    source = read_model(model)
    assert operators(source) == ["Split", "Concat"]
    x = np.arange(10, dtype=np.float32).reshape(2, 5)
    np.testing.assert_array_equal(in_normal_form(source, {"x": x}), as_written(model, {"x": x}))


@pytest.mark.parametrize("lost", ["size", "place"])
def test_a_sequence_that_is_not_known_is_refused(lost: str, onnx_model: Any) -> None:
    counting = [helper.make_node("NonZero", ["x"], ["nz"]), helper.make_node("ReduceMax", ["nz"], ["n"], keepdims=0)]
    nodes = [
        *counting,
        helper.make_node("SplitToSequence", ["x", "n" if lost == "size" else "two"], ["parts"], "split", axis=-1),
        helper.make_node("SequenceAt", ["parts", "n" if lost == "place" else "zero"], ["y"], "pick"),
    ]
    with pytest.raises(UnsupportedOperatorError, match=r"number is not known|place that is not known"):
        read_model(onnx_model(nodes, {"two": np.array(2), "zero": np.array(0)}))


def test_an_initial_state_of_zeros_is_left_off(onnx_model: Any) -> None:
    """Exported for one batch size it would have that size, and zero is where a recurrent layer starts anyway."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(1, 8, 3)).astype(np.float32),
        "r": rng.normal(size=(1, 8, 2)).astype(np.float32),
        "zeros": np.zeros((1, 5, 2), np.float32),
    }
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r", "", "", "zeros", "zeros"], ["h"], hidden_size=2, layout=0),
        helper.make_node("Squeeze", ["h", "one"], ["s"]),
        helper.make_node("Transpose", ["s"], ["t"], perm=[1, 0, 2]),
        helper.make_node("Reshape", ["t", "flat"], ["y"]),
    ]
    front = [helper.make_node("Transpose", ["in"], ["x"], perm=[1, 0, 2])]
    model = onnx_model(
        [*front, *nodes], {**weights, "one": np.array([1]), "flat": np.array([0, -1])}, x=("batch", 4, 3)
    )
    model.graph.input[0].name = "in"
    source = read_model(model)
    (lstm,) = [node for node in source.nodes if node.op_type == "LSTM"]
    assert list(lstm.input) == ["x", "w", "r"]
    assert source.shapes["y"] == (None, 8)


def test_identities_are_taken_out_and_outputs_keep_their_names(onnx_model: Any) -> None:
    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("Identity", ["w"], ["v"]),
        helper.make_node("Gemm", ["a", "v"], ["g"], "dense"),
        helper.make_node("Identity", ["g"], ["h"]),
        helper.make_node("Softmax", ["h"], ["s"], "soft"),
        helper.make_node("Identity", ["s"], ["y"]),
        helper.make_node("Identity", ["y"], ["copy"]),
    ]
    source = read_model(onnx_model(nodes, {"w": W}, outputs=["y", "copy"]))
    assert [(node.op_type, list(node.input), list(node.output)) for node in source.nodes] == [
        ("Gemm", ["x", "w"], ["g"]),
        ("Softmax", ["g"], ["y"]),
        ("Identity", ["y"], ["copy"]),
    ]


def test_an_output_that_is_an_input_keeps_its_copy(onnx_model: Any) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    assert operators(read_model(onnx_model(nodes, {}))) == ["Identity"]


def test_nodes_of_one_name_are_told_apart(onnx_model: Any) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["h"], "act"), helper.make_node("Relu", ["h"], ["y"], "act")]
    source = read_model(onnx_model(nodes, {}))
    assert [node.name for node in source.nodes] == ["act", "act~2"]


def test_half_precision_inside_is_no_reason_to_fail(onnx_model: Any) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["h"], ["y"], to=TensorProto.FLOAT),
    ]
    source = read_model(onnx_model(nodes, {}))
    assert source.dtypes["h"] == "float16"


def test_a_contradiction_names_the_node(onnx_model: Any) -> None:
    model = onnx_model([helper.make_node("Relu", ["x"], ["y"])], {"w": W})
    model.graph.node[0].CopyFrom(helper.make_node("MatMul", ["w", "x"], ["y"], "product"))
    with pytest.raises(ModelError, match=r"MatMul node 'product' .* its inputs do not fit together"):
        read_model(model)
