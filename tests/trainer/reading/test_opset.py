"""Nodes of older and newer opsets mean the same at ours: compared on ONNX Runtime, and with ONNX's own schemas."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.normal_form import as_written, in_normal_form, operators

from edgefl.errors import ModelError, UnsupportedOperatorError
from edgefl.trainer.graph import OPSET
from edgefl.trainer.reading.opset import NEWEST, OLDER, OLDEST, UNCHANGED
from edgefl.trainer.reading.source_model import read_model

VERSIONS: dict[str, list[int]] = defaultdict(list)
for _schema in onnx.defs.get_all_schemas_with_history():
    if not _schema.domain:
        VERSIONS[_schema.name].append(_schema.since_version)

REFUSED = {
    # control flow, and values that are no tensors
    *("If", "Loop", "Scan", "Optional", "OptionalGetElement", "OptionalHasElement"),
    "DFT",  # whose axis became an input: nobody trains through it
    "Dropout",  # of opset 7 and 10: brought to its inference form before
}
"""Operators with an older version that is in neither table."""

NEW = {"Attention", "RMSNormalization", "RotaryEmbedding", "SwiGLU", "Swish"}
NEW |= {"BitCast", "CausalConvWithState", "CumProd", "LinearAttention", "TensorScatter"}
"""Operators that our opset does not have; the first five are decomposed."""


def ours(name: str) -> int:
    return max((version for version in VERSIONS[name] if version <= OPSET), default=0)


def in_use(name: str, version: int) -> bool:
    """Whether a model of an opset that is read can hold this version."""
    return min((other for other in VERSIONS[name] if other > version), default=NEWEST + 1) > OLDEST


@pytest.mark.parametrize("name", sorted(VERSIONS))
def test_every_version_of_every_operator_is_carried_rewritten_or_known_to_be_refused(name: str) -> None:
    if not ours(name):
        assert name in NEW or min(VERSIONS[name]) > NEWEST
        return
    for version in VERSIONS[name]:
        oldest = OLDER[name][0] if name in OLDER else UNCHANGED.get(name, ours(name))
        if in_use(name, version) and version <= NEWEST and version < oldest and name not in OLDER:
            assert name in REFUSED
        if version > OPSET and version <= NEWEST:
            assert name in UNCHANGED or name in OLDER or name in REFUSED


def attributes(name: str, version: int) -> dict[str, Any]:
    schema = onnx.defs.get_schema(name, version)
    return {key: (a.type, str(a.default_value)) for key, a in schema.attributes.items() if not a.required}


@pytest.mark.parametrize("name", sorted(set(UNCHANGED) & set(VERSIONS)))
def test_what_is_called_unchanged_has_the_same_attributes_defaults_and_inputs(name: str) -> None:
    oldest = UNCHANGED[name]
    now, schema = attributes(name, ours(name)), onnx.defs.get_schema(name, ours(name))
    for version in (v for v in VERSIONS[name] if oldest <= v <= NEWEST and in_use(name, v)):
        then = attributes(name, version)
        assert all(then[key] == now[key] for key in set(then) & set(now)), version
        other = onnx.defs.get_schema(name, version)
        gone = set(other.attributes) - set(schema.attributes) if version < ours(name) else set()
        assert gone <= {"spatial"}  # of BatchNormalization, refused where it is not 1
        few, many = sorted((other.inputs, schema.inputs), key=len)
        assert [i.option for i in many[: len(few)]] == [i.option for i in few] or name == "Gemm"
        assert all(i.option != i.option.Single for i in many[len(few) :])


@dataclass(frozen=True)
class Old:
    """A node as an older opset has it, in a model x -> y. `inputs`: further ones: initializers, "x", or absent."""

    operator: str
    opset: int
    x: tuple[int, ...]
    inputs: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("y",)

    @property
    def id(self) -> str:
        given = ",".join(f"{key}={value}" for key, value in self.attributes.items())
        return f"{self.operator}-{self.opset}-{given}-{','.join(self.inputs)}".replace(" ", "")

    def model(self) -> onnx.ModelProto:
        given = {name: a for name, a in self.inputs.items() if not isinstance(a, str)}
        names = ["x", *(name if name in given else a for name, a in self.inputs.items())]
        nodes = [helper.make_node(self.operator, names, list(self.outputs), "old", **self.attributes)]
        if len(self.outputs) > 1 and "y" not in self.outputs:
            nodes.append(helper.make_node("Concat", list(self.outputs), ["y"], "joined", axis=1))
        graph = helper.make_graph(
            nodes,
            "old",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *self.x])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.asarray(a), name) for name, a in given.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        model = onnx.shape_inference.infer_shapes(model)
        if not model.graph.output[0].type.tensor_type.HasField("shape"):
            model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, [None] * (1 + len(self.x))))
        return model


def f32(*numbers: Any) -> Any:
    return np.array(numbers, np.float32)


FOUR = {"scale": f32(1, 2, 3), "b": f32(0, 1, 0), "mean": f32(1, 0, 0), "var": f32(1, 2, 1)}

OLD = [
    *(Old(op, 11, (3, 4), attributes={"axes": [1]}) for op in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")),
    *(Old(op, 13, (3, 4), attributes={"axes": [-1], "keepdims": 0}) for op in ("ReduceMean", "ReduceL1", "ReduceL2")),
    *(Old(op, 9, (3, 4), attributes={"axes": [2]}) for op in ("ReduceProd", "ReduceSumSquare", "ReduceLogSumExp")),
    Old("ReduceSum", 9, (3, 4), attributes={"axes": [1], "keepdims": 0}),
    Old("Squeeze", 11, (3, 1), attributes={"axes": [2]}),
    Old("Unsqueeze", 9, (3,), attributes={"axes": [1, 3]}),
    Old("Split", 11, (6,), attributes={"axis": 1, "split": [2, 4]}, outputs=("a", "b")),
    Old("Split", 9, (6,), attributes={"axis": 1}, outputs=("a", "b", "c")),
    Old("Split", 13, (6,), attributes={"axis": 1}, outputs=("a", "b")),
    Old("Split", 13, (6,), {"split": np.array([1, 5])}, {"axis": 1}, outputs=("a", "b")),
    Old("Pad", 9, (3,), attributes={"pads": [0, 1, 0, 2], "value": 2.0}),
    Old("Pad", 10, (3,), attributes={"pads": [0, 1, 0, 1]}),
    Old("Pad", 10, (3,), attributes={"pads": [0, 1, 0, 2], "mode": "reflect"}),
    Old("Clip", 9, (3,), attributes={"min": -0.5, "max": 0.5}),
    Old("Clip", 7, (3,), attributes={"max": 0.5}),
    Old("Clip", 10, (3,), attributes={"min": 0.0}),
    Old("Slice", 9, (5, 3), attributes={"axes": [1], "starts": [1], "ends": [-1]}),
    Old("Slice", 7, (5,), attributes={"starts": [0, 2], "ends": [1000, 4]}),
    Old("TopK", 9, (5,), attributes={"k": 2}, outputs=("y", "places")),
    Old("TopK", 10, (5,), {"k": np.array([3])}, outputs=("y", "places")),
    *(Old(op, 11, (3, 4), attributes={"axis": 1}) for op in ("Softmax", "LogSoftmax", "Hardmax")),
    *(Old(op, 12, (3, 4), attributes={"axis": 2}) for op in ("Softmax", "LogSoftmax", "Hardmax")),
    *(Old(op, 9, (4,)) for op in ("Softmax", "LogSoftmax", "Hardmax")),
    Old("Softmax", 9, (3, 1, 1)),
    Old("Softmax", 11, (3, 4), attributes={"axis": -2}),
    Old("Upsample", 7, (2, 3, 3), attributes={"scales": [1.0, 1.0, 2.0, 3.0]}),
    Old("Upsample", 9, (2, 3, 3), {"scales": f32(1, 1, 2, 2)}),
    Old("Upsample", 9, (2, 3, 3), {"scales": f32(1, 1, 2, 2)}, {"mode": "linear"}),
    Old("Resize", 10, (2, 3, 3), {"scales": f32(1, 1, 2, 2)}),
    Old("Resize", 10, (2, 6, 6), {"scales": f32(1, 1, 0.5, 0.5)}),
    Old("Resize", 10, (2, 3, 3), {"scales": f32(1, 1, 2, 2)}, {"mode": "linear"}),
    Old("Resize", 11, (2, 3, 3), {"roi": f32(), "scales": f32(1, 1, 2, 2)}, {"nearest_mode": "floor"}),
    Old("Resize", 11, (2, 3, 3), {"roi": f32(), "scales": f32(), "sizes": np.array([1, 2, 6, 6])}, {"mode": "linear"}),
    Old("Resize", 13, (2, 3, 3), {"roi": "", "scales": f32(1, 1, 2, 2)}, {"mode": "cubic"}),
    Old("BatchNormalization", 7, (3, 2, 2), FOUR, {"epsilon": 0.1, "spatial": 1}),
    Old("BatchNormalization", 9, (3, 2, 2), FOUR, {"epsilon": 0.1}),
    Old("BatchNormalization", 14, (3, 2, 2), FOUR),
    Old("Dropout", 7, (3,), attributes={"ratio": 0.3}),
    Old("Dropout", 10, (3,)),
    Old("Dropout", 12, (3,), {"ratio": np.float32(0.4)}, outputs=("y", "mask")),
    Old("GridSample", 16, (2, 2, 2), {"grid": "x"}, {"mode": "bilinear"}),
    Old("GridSample", 16, (2, 2, 2), {"grid": "x"}, {"mode": "bicubic"}),
    Old("GroupNormalization", 18, (4, 3), {"s": f32(1, 2), "b": f32(0, 1)}, {"num_groups": 2}),
    Old("Scatter", 9, (3,), {"i": np.array([[1, 0]]), "u": f32([5, 6])}, {"axis": 1}),
    Old("MaxPool", 7, (2, 4, 4), attributes={"kernel_shape": [2, 2], "strides": [2, 2]}),
    Old("AveragePool", 7, (2, 4, 4), attributes={"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    Old("PRelu", 7, (3,), {"slope": f32(0.1, 0.2, 0.3)}),
    Old("Gemm", 9, (3,), {"w": np.ones((3, 2), np.float32), "c": f32(1, 2)}),
    Old("Flatten", 9, (3, 2)),
    Old("Sum", 8, (3,), {"other": f32(1, 2, 3)}),
    Old("Elu", 7, (3,), attributes={"alpha": 0.5}),
    Old("Selu", 22, (3,)),
    Old("HardSwish", 22, (3,)),
    Old("Transpose", 23, (3, 2), attributes={"perm": [0, 2, 1]}),
]


def known(case: Old) -> bool:
    return case.opset <= onnx.defs.onnx_opset_version()


@pytest.mark.parametrize("case", [case for case in OLD if known(case)], ids=lambda case: case.id)
def test_an_older_or_newer_node_computes_the_same_at_our_opset(case: Old) -> None:
    model = case.model()
    for batch in (1,) if "sizes" in case.inputs else (1, 4):
        x = np.random.default_rng(3).normal(size=(batch, *case.x)).astype(np.float32)
        np.testing.assert_allclose(in_normal_form(model, {"x": x}), as_written(model, {"x": x}), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("opset", [6, NEWEST + 1])
def test_an_opset_that_nobody_has_read_is_refused(opset: int, onnx_model: Any) -> None:
    model = onnx_model([helper.make_node("Relu", ["x"], ["y"])], {})
    model.opset_import[0].version = opset
    with pytest.raises(ModelError, match=f"opset {opset}; edgefl reads 7 to"):
        read_model(model)


REFUSALS = {
    "spatial": (Old("BatchNormalization", 7, (3, 2, 2), FOUR, {"spatial": 0}), "statistics for each position"),
    "mixed scales": (Old("Upsample", 9, (1, 4, 4), {"s": f32(1, 1, 2, 0.5)}), "both sides of 1"),
    "withdrawn mode": (
        Old(
            "Resize",
            11,
            (1, 4, 4),
            {"roi": f32(), "s": f32(1, 1, 2, 2)},
            {"coordinate_transformation_mode": "tf_half_pixel_for_nn"},
        ),
        "tf_half_pixel_for_nn",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_said_at_our_opset_is_refused_by_name(name: str) -> None:
    case, what = REFUSALS[name]
    with pytest.raises(UnsupportedOperatorError, match=what) as caught:
        read_model(case.model())
    assert f"node 'old' uses {case.operator} (opset {case.opset})" in caught.value.cause
    assert caught.value.hint


@pytest.mark.skipif(onnx.defs.onnx_opset_version() < 24, reason="needs onnx with opset 24")
def test_an_attribute_that_our_opset_lacks_is_left_off_where_it_has_its_default(onnx_model: Any) -> None:
    def model(way: str) -> Any:
        cast = helper.make_node("Cast", ["x"], ["y"], "cast", to=TensorProto.FLOAT, round_mode=way)
        made = onnx_model([cast], {}, opset=23)
        made.opset_import[0].version = 24
        made.ir_version = 11
        return made

    (node,) = read_model(model("up")).nodes
    assert [attribute.name for attribute in node.attribute] == ["to"]
    with pytest.raises(UnsupportedOperatorError, match=r"'cast' uses Cast .* with round_mode"):
        read_model(model("down"))


@pytest.mark.skipif(onnx.defs.onnx_opset_version() < 24, reason="needs onnx with opset 24")
def test_operators_that_our_opset_lacks_are_decomposed(onnx_model: Any) -> None:
    nodes = [
        helper.make_node("RMSNormalization", ["x", "g"], ["h"], "norm"),
        helper.make_node("Swish", ["h"], ["y"], "swish"),
    ]
    model = onnx_model(nodes, {"g": np.ones(4, np.float32)}, opset=24)
    model.ir_version = 11
    source = read_model(model)
    assert "Sigmoid" in operators(source)
    assert source.proto.opset_import[0].version == 24  # the user's own file keeps its words
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    h = x / np.sqrt((x**2).mean(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(in_normal_form(source, {"x": x}), h / (1 + np.exp(-h)), rtol=1e-5)


@pytest.mark.skipif(onnx.defs.onnx_opset_version() < 22, reason="needs onnx with opset 22")
def test_a_newer_opset_is_lowered_in_the_exported_model_where_it_says_the_same(onnx_model: Any) -> None:
    model = onnx_model([helper.make_node("Elu", ["x"], ["y"])], {}, opset=21)
    model.opset_import[0].version = 22
    assert read_model(model).proto.opset_import[0].version == OPSET


@pytest.mark.skipif(onnx.defs.onnx_opset_version() < 26, reason="needs onnx with opset 26")
def test_a_newer_operator_that_nothing_expresses_is_refused_by_name(onnx_model: Any) -> None:
    model = onnx_model([helper.make_node("CumProd", ["x", "axis"], ["y"], "run")], {"axis": np.array(1)}, opset=26)
    model.ir_version = 13
    with pytest.raises(UnsupportedOperatorError, match=r"'run' uses CumProd \(opset 26\)") as caught:
        read_model(model)
    assert "opset 21" in caught.value.hint
