"""Small models that between them use most operators: what damaged files are made from (mutants.py).

Each takes x, the batch first, and gives y. They are as small as the operators allow, since a test builds hundreds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgefl.datasets import models

EXPORTED = Path(__file__).parents[1] / "trainer" / "exported"
MAX_EXPORTED_BYTES = 15 << 10

node = helper.make_node
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def model(
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, Any],
    *,
    x: Sequence[Any] = ("batch", 4),
    dtype: int = FLOAT,
    opset: int = 17,
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """Weights are arrays, or shapes (tuples) of float32 that are drawn."""
    rng = np.random.default_rng(1)
    arrays = {
        name: rng.normal(size=value).astype(np.float32) if isinstance(value, tuple) else np.asarray(value)
        for name, value in weights.items()
    }
    graph = helper.make_graph(
        nodes,
        "seed",
        [helper.make_tensor_value_info("x", dtype, list(x))],
        [helper.make_tensor_value_info("y", FLOAT, ["batch", None])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(f.domain, 1) for f in functions)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8, functions=functions)


def image() -> onnx.ModelProto:
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["a", "scale", "shift", "mean", "variance"], ["b"]),
        node("Relu", ["b"], ["c"]),
        node("MaxPool", ["c"], ["d"], kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1]),
        node("Conv", ["d", "w2"], ["e"], group=4, auto_pad="SAME_UPPER", kernel_shape=[3, 3]),
        node("HardSwish", ["e"], ["f"]),
        node("Conv", ["f", "w3"], ["g"], dilations=[2, 2], pads=[2, 2, 2, 2]),
        node("AveragePool", ["g"], ["h"], kernel_shape=[2, 2], strides=[1, 1], count_include_pad=1),
        node("MaxPool", ["h"], ["i"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        node("GlobalAveragePool", ["i"], ["j"]),
        node("Flatten", ["j"], ["k"]),
        node("Gemm", ["k", "w4", "b4"], ["y"], transB=1),
    ]
    statistics = {"mean": np.zeros(4, np.float32), "variance": np.ones(4, np.float32)}
    convolutions = {"w1": (4, 2, 3, 3), "b1": (4,), "w2": (4, 1, 3, 3), "w3": (3, 4, 3, 3), "w4": (5, 3), "b4": (5,)}
    return model(nodes, {**convolutions, "scale": (4,), "shift": (4,), **statistics}, x=("batch", 2, 9, 9))


def enlarging() -> onnx.ModelProto:
    nodes = [
        node("ConvTranspose", ["x", "w1"], ["a"], strides=[2, 2], output_padding=[1, 1]),
        node("InstanceNormalization", ["a", "s1", "t1"], ["b"]),
        node("PRelu", ["b", "slope"], ["c"]),
        node("Resize", ["c", "", "scales"], ["d"], mode="nearest", coordinate_transformation_mode="asymmetric"),
        node("Resize", ["d", "", "", "sizes"], ["e"], mode="linear", axes=[2, 3]),
        node("Pad", ["e", "pads", "zero"], ["f"]),
        node("GlobalMaxPool", ["f"], ["g"]),
        node("Reshape", ["g", "flat"], ["h"]),
        node("MatMul", ["h", "w2"], ["y"]),
    ]
    constants = {
        "scales": np.array([1, 1, 2, 2], np.float32),
        "sizes": np.array([7, 7]),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "zero": np.float32(0),
        "flat": np.array([0, 2]),
    }
    weights = {"w1": (2, 2, 2, 2), "s1": (2,), "t1": (2,), "slope": (2, 1, 1), "w2": (2, 3)}
    return model(nodes, {**weights, **constants}, x=(1, 2, 3, 3), opset=18)


def recurrent(operator: str) -> onnx.ModelProto:
    gates = {"LSTM": 4, "GRU": 3}[operator]
    nodes = [
        node("Transpose", ["x"], ["a"], perm=[1, 0, 2]),
        node(operator, ["a", "w", "r", "b"], ["b1", "last"], hidden_size=3, direction="bidirectional"),
        node("Slice", ["last", "0", "1"], ["c"]),
        node("Squeeze", ["c", "0"], ["d"]),
        node("Gemm", ["d", "w2"], ["y"]),
    ]
    weights = {"w": (2, gates * 3, 2), "r": (2, gates * 3, 3), "b": (2, gates * 6), "w2": (3, 2)}
    return model(nodes, {**weights, "0": np.array([0]), "1": np.array([1])}, x=("batch", 5, 2))


def attention() -> onnx.ModelProto:
    nodes = [
        node("Gather", ["table", "x"], ["a"]),
        node("Add", ["a", "places"], ["b"]),
        node("LayerNormalization", ["b", "s1", "t1"], ["c"], axis=-1),
        *(node("MatMul", ["c", f"w{part}"], [part]) for part in "qkv"),
        node("Shape", ["c"], ["size"]),
        node("Gather", ["size", "first"], ["n"]),
        node("Unsqueeze", ["n", "zero"], ["n1"]),
        node("Concat", ["n1", "heads"], ["split"], axis=0),
        *(
            n
            for part in "qkv"
            for n in (
                node("Reshape", [part, "split"], [f"{part}1"]),
                node("Transpose", [f"{part}1"], [f"{part}2"], perm=[0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]),
            )
        ),
        node("MatMul", ["q2", "k2"], ["scores"]),
        node("Mul", ["scores", "scale"], ["scaled"]),
        node("Add", ["scaled", "mask"], ["masked"]),
        node("Softmax", ["masked"], ["p"], axis=-1),
        node("MatMul", ["p", "v2"], ["o"]),
        node("Transpose", ["o"], ["o1"], perm=[0, 2, 1, 3]),
        node("Reshape", ["o1", "joined"], ["o2"]),
        node("Erf", ["o2"], ["g"]),
        node("Mul", ["o2", "g"], ["g1"]),
        node("ReduceMean", ["g1"], ["m"], axes=[1], keepdims=0),
        node("Dropout", ["m", "ratio"], ["m1"]),
        node("MatMul", ["m1", "w"], ["y"]),
    ]
    constants = {
        "first": np.array(0),
        "zero": np.array([0]),
        "heads": np.array([3, 2, 2]),
        "scale": np.float32(0.7),
        "mask": np.triu(np.full((3, 3), -1e9, np.float32), 1),
        "joined": np.array([-1, 3, 4]),
        "ratio": np.float32(0.1),
    }
    weights = {"table": (6, 4), "places": (3, 4), "s1": (4,), "t1": (4,), "w": (4, 2)}
    weights.update({f"w{part}": (4, 4) for part in "qkv"})
    return model(nodes, {**weights, **constants}, x=("batch", 3), dtype=INT64)


def newest() -> onnx.ModelProto:
    nodes = [
        node("RMSNormalization", ["x", "s"], ["a"]),
        node("Attention", ["a", "a", "a"], ["b"], q_num_heads=2, kv_num_heads=2),
        node("Swish", ["b"], ["c"]),
        node("Reshape", ["c", "flat"], ["d"]),
        node("MatMul", ["d", "w"], ["y"]),
    ]
    return model(nodes, {"s": (4,), "w": (12, 2), "flat": np.array([0, 12])}, x=("batch", 3, 4), opset=24)


def indexing() -> onnx.ModelProto:
    nodes = [
        node("Split", ["x", "sizes"], ["a", "b"], axis=1),
        node("Mul", ["a", "w"], ["a1"]),
        node("Slice", ["b", "starts", "ends", "axes", "steps"], ["b1"]),
        node("Tile", ["b1", "repeats"], ["b2"]),
        node("Concat", ["a1", "b2"], ["c"], axis=-1),
        node("Expand", ["w1", "shape"], ["e"]),
        node("Where", ["truth", "e", "w1"], ["f"]),
        node("Unsqueeze", ["c", "axes"], ["c1"]),
        node("Mul", ["c1", "f"], ["g"]),
        node("Clip", ["g", "low", "high"], ["h"]),
        node("ReduceSum", ["h", "axes"], ["i"], keepdims=0),
        node("GatherElements", ["w2", "places"], ["w3"], axis=0),
        node("CumSum", ["w3", "axis"], ["w4"]),
        node("MatMul", ["i", "w4"], ["k"]),
        node("Trilu", ["w5"], ["w6"]),
        node("MatMul", ["k", "w6"], ["y"]),
    ]
    integers = {
        "sizes": [2, 4],
        "starts": [0],
        "ends": [9223372036854775807],
        "axes": [1],
        "steps": [2],
        "repeats": [1, 2],
        "shape": [3, 6],
        "places": [[0, 1, 2], [1, 1, 1], [2, 0, 1], [3, 4, 5], [5, 5, 5], [0, 0, 0]],
    }
    constants = {name: np.array(value) for name, value in integers.items()}
    constants |= {"axis": np.array(0), "truth": np.array([True, False, True, True, False, True])}
    constants |= {"low": np.float32(-1), "high": np.float32(1)}
    weights = {"w": (2,), "w1": (6,), "w2": (6, 3), "w5": (3, 3)}
    return model(nodes, {**weights, **constants}, x=("batch", 6))


def functions() -> onnx.ModelProto:
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    inner = helper.make_function("own", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], imports)
    body = [
        node("MatMul", ["a", "w"], ["c"]),
        node("Twice", ["c"], ["d"], domain="own"),
        onnx.parser.parse_node("b = LeakyRelu <alpha: float = @alpha> (d)"),
    ]
    outer = helper.make_function("own", "Layer", ["a", "w"], ["b"], body, imports, ["alpha"])
    nodes = [
        node("Layer", ["x", "w1"], ["h"], domain="own", alpha=0.1),
        node("Layer", ["h", "w2"], ["y"], domain="own", alpha=0.2),
    ]
    return model(nodes, {"w1": (4, 3), "w2": (3, 2)}, functions=[inner, outer])


def branching() -> onnx.ModelProto:
    branch = helper.make_graph(
        [node("Relu", ["x"], ["r"])], "branch", [], [helper.make_tensor_value_info("r", FLOAT, ["batch", 4])]
    )
    nodes = [
        node("ReduceSum", ["x"], ["s"], keepdims=0),
        node("Greater", ["s", "zero"], ["positive"]),
        node("If", ["positive"], ["h"], then_branch=branch, else_branch=branch),
        node("MatMul", ["h", "w"], ["y"]),
    ]
    return model(nodes, {"zero": np.float32(0), "w": (4, 2)})


def groups() -> onnx.ModelProto:
    nodes = [
        node("GroupNormalization", ["x", "s", "t"], ["a"], num_groups=2),
        node("Gelu", ["a"], ["b"], approximate="tanh"),
        node("DepthToSpace", ["b"], ["c"], blocksize=2),
        node("ReduceL2", ["c", "axes"], ["d"], keepdims=0),
        node("Softplus", ["d"], ["e"]),
        node("LpNormalization", ["e"], ["f"]),
        node("Gemm", ["f", "w"], ["y"], alpha=0.5),
    ]
    return model(nodes, {"s": (4,), "t": (4,), "w": (1, 2), "axes": np.array([2, 3])}, x=("batch", 4, 2, 2), opset=21)


def seed_models() -> dict[str, bytes]:
    """By name: those of this file, of edgefl.datasets, and the smaller ones of tests/trainer/exported."""
    own = {
        "mlp": models.mlp(hidden=8),
        "cnn": models.cnn(channels=2, hidden=4),
        "image": image(),
        "enlarging": enlarging(),
        "lstm": recurrent("LSTM"),
        "gru": recurrent("GRU"),
        "attention": attention(),
        "newest": newest(),
        "indexing": indexing(),
        "functions": functions(),
        "branching": branching(),
        "groups": groups(),
    }
    exported = {
        path.stem: path.read_bytes()
        for path in sorted(EXPORTED.glob("*.onnx"))
        if path.stat().st_size <= MAX_EXPORTED_BYTES
    }
    return {**{name: proto.SerializeToString() for name, proto in own.items()}, **exported}


def seed_losses() -> dict[str, bytes]:
    """Losses of a user's own, for a prediction [batch, 3]."""

    def loss(nodes: list[onnx.NodeProto], target: int, shape: list[Any], **constants: Any) -> bytes:
        graph = helper.make_graph(
            nodes,
            "loss",
            [
                helper.make_tensor_value_info("prediction", FLOAT, ["n", "k"]),
                helper.make_tensor_value_info("target", target, shape),
            ],
            [helper.make_tensor_value_info("loss", FLOAT, [])],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        return bytes(proto.SerializeToString())

    squares = [
        node("Sub", ["prediction", "target"], ["e"]),
        node("Mul", ["e", "e"], ["s"]),
        node("ReduceMean", ["s"], ["loss"], keepdims=0),
    ]
    labels = [
        node("LogSoftmax", ["prediction"], ["logs"], axis=1),
        node("OneHot", ["target", "classes", "off_on"], ["chosen"]),
        node("Mul", ["logs", "chosen"], ["each"]),
        node("ReduceSum", ["each", "axis"], ["logp"], keepdims=0),
        node("ReduceMean", ["logp"], ["mean"], keepdims=0),
        node("Neg", ["mean"], ["loss"]),
    ]
    whole = [
        node("SoftmaxCrossEntropyLoss", ["prediction", "target", "weights"], ["loss"], reduction="mean"),
    ]
    return {
        "squares": loss(squares, FLOAT, ["n", "k"]),
        "labels": loss(labels, INT64, ["n"], classes=np.array(3), off_on=np.array([0, 1], np.float32), axis=[1]),
        "whole": loss(whole, INT64, ["n"], weights=np.ones(3, np.float32)),
    }
