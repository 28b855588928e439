"""Which models' batches may be computed in parts: those whose samples provably keep to themselves.

That the parts of what is called divisible add up is tested with every operator (support/gradient_cases.py) and with the
models of exporters (test_exporters.py); here is what must not be called so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from support.building import build

from edgefl.trainer.building import divisible
from edgefl.trainer.building.low_rank import LowRank

Nodes = list[tuple[str, list[str], list[str], dict[str, Any]]]

W = np.ones((4, 4), np.float32)

KEPT: dict[str, tuple[Nodes, dict[str, Any]]] = {
    "a dense layer": ([("MatMul", ["x", "w"], ["y"], {})], {}),
    "softmax over features": ([("MatMul", ["x", "w"], ["h"], {}), ("Softmax", ["h"], ["y"], {"axis": -1})], {}),
    "a mean over features, taken off": (
        [
            ("MatMul", ["x", "w"], ["h"], {}),
            ("ReduceMean", ["h"], ["m"], {"axes": [-1]}),
            ("Sub", ["h", "m"], ["y"], {}),
        ],
        {},
    ),
    "turned twice": (
        [
            ("MatMul", ["x", "w"], ["h"], {}),
            ("Transpose", ["h"], ["t"], {"perm": [1, 0]}),
            ("Relu", ["t"], ["r"], {}),
            ("Transpose", ["r"], ["y"], {"perm": [1, 0]}),
        ],
        {},
    ),
    "reshaped within a sample": (
        [("MatMul", ["x", "w"], ["h"], {}), ("Reshape", ["h", "to"], ["y"], {})],
        {"to": np.array([-1, 2, 2])},
    ),
    "a product of two tensors of the sample": (
        [
            ("MatMul", ["x", "w"], ["h"], {}),
            ("Reshape", ["h", "to"], ["a"], {}),
            ("MatMul", ["a", "a"], ["y"], {}),
        ],
        {"to": np.array([-1, 2, 2])},
    ),
}

MIXED: dict[str, tuple[Nodes, dict[str, Any]]] = {
    "softmax over the batch": ([("MatMul", ["x", "w"], ["h"], {}), ("Softmax", ["h"], ["y"], {"axis": 0})], {}),
    "the mean of the batch, taken off": (
        [
            ("MatMul", ["x", "w"], ["h"], {}),
            ("ReduceMean", ["h"], ["m"], {"axes": [0]}),
            ("Sub", ["h", "m"], ["y"], {}),
        ],
        {},
    ),
    "the mean of everything, taken off": (
        [("MatMul", ["x", "w"], ["h"], {}), ("ReduceMean", ["h"], ["m"], {}), ("Sub", ["h", "m"], ["y"], {})],
        {},
    ),
    "likenesses of samples": (
        [
            ("MatMul", ["x", "w"], ["h"], {}),
            ("Transpose", ["h"], ["t"], {"perm": [1, 0]}),
            ("MatMul", ["t", "h"], ["g"], {}),
            ("MatMul", ["h", "g"], ["y"], {}),
        ],
        {},
    ),
    "likenesses of samples by Gemm": (
        [("Gemm", ["x", "x"], ["g"], {"transA": 1}), ("MatMul", ["x", "g"], ["h"], {}), ("Mul", ["h", "w"], ["y"], {})],
        {"w": np.ones(4, np.float32)},
    ),
    "sums along the batch": (
        [("MatMul", ["x", "w"], ["h"], {}), ("CumSum", ["h", "axis"], ["y"], {})],
        {"axis": np.array(0)},
    ),
    "softmax over the batch, turned": (
        [
            ("MatMul", ["x", "w"], ["h"], {}),
            ("Transpose", ["h"], ["t"], {"perm": [1, 0]}),
            ("Softmax", ["t"], ["s"], {"axis": 1}),
            ("Transpose", ["s"], ["y"], {"perm": [1, 0]}),
        ],
        {},
    ),
}


def claimed(nodes: Nodes, extra: dict[str, Any], onnx_model: Any, tmp_path: Any, **options: Any) -> bool:
    made = [helper.make_node(operator, given, names, **attributes) for operator, given, names, attributes in nodes]
    model: onnx.ModelProto = onnx_model(made, {"w": W, **extra})
    return build(model, loss="mse", trainable=["w"], out=tmp_path, **options).divisible


@pytest.mark.parametrize("name", KEPT)
def test_samples_that_keep_to_themselves(
    name: str, onnx_model: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(divisible, "MIN_USES", 0)
    assert claimed(*KEPT[name], onnx_model, tmp_path)


@pytest.mark.parametrize("name", MIXED)
def test_samples_that_see_each_other(
    name: str, onnx_model: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(divisible, "MIN_USES", 0)
    assert not claimed(*MIXED[name], onnx_model, tmp_path)


def test_a_users_own_loss_is_not_known_to_be_a_mean_over_samples(
    onnx_model: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(divisible, "MIN_USES", 0)
    model = onnx_model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": W})
    loss = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 18]>
        squares (float[batch, n] prediction, float[batch, n] target) => (float[] loss)
        { error = Sub (prediction, target)
          square = Mul (error, error)
          loss = ReduceMean <keepdims = 0> (square) }
    """)
    assert not build(model, loss=loss, out=tmp_path).divisible


def test_a_weight_must_be_used_often(onnx_model: Any, tmp_path: Any) -> None:
    """The gradient of a weight that a sample uses once costs as much to add up as to find."""
    assert not claimed(*KEPT["a dense layer"], onnx_model, tmp_path / "dense")
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    model = onnx_model([node], {"w": np.ones((2, 1, 3, 3), np.float32)}, x=("batch", 1, 8, 8))
    assert build(model, loss="mse", out=tmp_path / "conv").divisible


def test_adapters_are_weights_as_well(onnx_model: Any, tmp_path: Any) -> None:
    model = onnx_model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": np.ones((32, 32), np.float32)}, x=("n", 32)
    )
    assert build(model, loss="mse", lora=LowRank(rank=1), out=tmp_path).divisible


def test_dropout_and_batch_statistics_need_the_whole_batch(onnx_model: Any, tmp_path: Any) -> None:
    kernel = {"w": np.ones((2, 1, 3, 3), np.float32)}
    convolution = helper.make_node("Conv", ["x", "w"], ["h"])
    ratio = {"ratio": np.array(0.5, np.float32), "yes": np.array(True)}
    dropped = [convolution, helper.make_node("Dropout", ["h", "ratio", "yes"], ["y"])]
    manifest = build(
        onnx_model(dropped, {**kernel, **ratio}, x=("batch", 1, 8, 8)), loss="mse", out=tmp_path / "dropout"
    )
    assert manifest.seeded
    assert not manifest.divisible
    statistics = {name: np.ones(2, np.float32) for name in ("scale", "bias", "mean", "var")}
    normal = [convolution, helper.make_node("BatchNormalization", ["h", *statistics], ["y"])]
    model = onnx_model(normal, {**kernel, **statistics}, x=("batch", 1, 8, 8))
    assert not build(model, loss="mse", out=tmp_path / "batch-norm").divisible
    assert build(model, loss="mse", frozen=["mean", "var"], out=tmp_path / "frozen").divisible
