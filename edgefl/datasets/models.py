"""Small models for the digits, as ONNX: what a user would otherwise export from a training framework.

Inputs `x` float32 [batch, 64], output `logits` float32 [batch, classes]. Initial weights are drawn from a seeded
generator: He for layers before a Relu, Glorot for the last. Needs the onnx package.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
"""Plain and widely readable: nothing newer is needed."""

Weights = dict[str, npt.NDArray[Any]]


def mlp(inputs: int = 64, hidden: int = 128, classes: int = 10, seed: int = 0) -> onnx.ModelProto:
    """inputs → hidden → Relu → classes."""
    rng = np.random.default_rng(seed)
    weights = {
        "hidden.weight": _he(rng, (hidden, inputs), inputs),
        "hidden.bias": _zeros(hidden),
        "logits.weight": _glorot(rng, (classes, hidden)),
        "logits.bias": _zeros(classes),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "hidden.weight", "hidden.bias"], ["h"], "hidden", transB=1),
        helper.make_node("Relu", ["h"], ["a"], "relu"),
        helper.make_node("Gemm", ["a", "logits.weight", "logits.bias"], ["logits"], "output", transB=1),
    ]
    return _model("mlp", nodes, weights, inputs, classes)


def cnn(side: int = 8, channels: int = 16, hidden: int = 32, classes: int = 10, seed: int = 0) -> onnx.ModelProto:
    """[batch, side²] as images → conv 3×3 → Relu → pool 2×2 → conv 3×3 → Relu → pool 2×2 → classes."""
    rng = np.random.default_rng(seed)
    features = hidden * (side // 4) ** 2
    weights = {
        "conv1.weight": _he(rng, (channels, 1, 3, 3), 9),
        "conv1.bias": _zeros(channels),
        "conv2.weight": _he(rng, (hidden, channels, 3, 3), 9 * channels),
        "conv2.bias": _zeros(hidden),
        "logits.weight": _glorot(rng, (classes, features)),
        "logits.bias": _zeros(classes),
    }
    shape = {"image_shape": np.array([-1, 1, side, side], np.int64)}
    nodes = [helper.make_node("Reshape", ["x", "image_shape"], ["image"], "image")]
    before = "image"
    for layer in ("conv1", "conv2"):
        nodes += [
            helper.make_node(
                "Conv", [before, f"{layer}.weight", f"{layer}.bias"], [f"{layer}.y"], layer, pads=[1, 1, 1, 1]
            ),
            helper.make_node("Relu", [f"{layer}.y"], [f"{layer}.a"], f"{layer}.relu"),
            helper.make_node(
                "MaxPool", [f"{layer}.a"], [f"{layer}.p"], f"{layer}.pool", kernel_shape=[2, 2], strides=[2, 2]
            ),
        ]
        before = f"{layer}.p"
    nodes += [
        helper.make_node("Flatten", [before], ["features"], "features"),
        helper.make_node("Gemm", ["features", "logits.weight", "logits.bias"], ["logits"], "output", transB=1),
    ]
    return _model("cnn", nodes, {**weights, **shape}, side * side, classes)


def _model(name: str, nodes: list[onnx.NodeProto], weights: Weights, inputs: int, classes: int) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", inputs])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(array, key) for key, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="edgefl")


def _he(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int) -> npt.NDArray[np.float32]:
    return rng.normal(0.0, np.sqrt(2.0 / fan_in), shape).astype(np.float32)


def _glorot(rng: np.random.Generator, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    bound = np.sqrt(6.0 / sum(shape))
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def _zeros(size: int) -> npt.NDArray[np.float32]:
    return np.zeros(size, np.float32)
