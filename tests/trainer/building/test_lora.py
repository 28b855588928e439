"""Low-rank adapters: what is trained, what travels, what comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper
from support.building import build

from edgefl import trainer
from edgefl.datasets import digits, models
from edgefl.errors import ModelError


def batch(samples: int = 64) -> dict[str, Any]:
    x, y = digits()
    return {"x": x[:samples], "target": y[:samples]}


def adapted(tmp_path: Path, model: onnx.ModelProto, **options: Any) -> trainer.Session:
    lora = options.pop("lora", trainer.LowRank(4))
    build(model, loss="cross-entropy", out=tmp_path / "art", lora=lora, **options)
    return trainer.Session(tmp_path / "art", threads=1)


def predict(path: Path, x: Any) -> Any:
    return ort.InferenceSession(path.read_bytes()).run(None, {"x": x})[0]


def test_only_the_adapters_travel_and_the_model_starts_as_it_was(tmp_path: Path) -> None:
    model = models.mlp(hidden=32)
    s = adapted(tmp_path, model)
    assert [p.shape for p in s.manifest.parameters] == [(64, 4), (4, 32), (32, 4), (4, 10)]
    assert s.manifest.vector_size == 64 * 4 + 4 * 32 + 32 * 4 + 4 * 10
    assert {a.weight: a.transposed for a in s.manifest.adapters} == {"hidden.weight": True, "logits.weight": True}
    s.export(tmp_path / "out.onnx")
    x = batch()["x"]
    expected = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    np.testing.assert_array_equal(predict(tmp_path / "out.onnx", x), expected)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_the_exported_model_computes_what_was_trained(name: str, tmp_path: Path) -> None:
    s = adapted(tmp_path, getattr(models, name)(), trainable=["*.bias"], lora=trainer.LowRank(3, alpha=6.0))
    data = batch()
    losses = [s.step(data, 0.1) for _ in range(40)]
    assert losses[-1] < 0.7 * losses[0]
    s.export(tmp_path / "out.onnx")
    logits = predict(tmp_path / "out.onnx", data["x"])
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    loss = -logs[np.arange(64), data["target"]].mean()
    assert loss == pytest.approx(s.evaluate(data)["loss"], rel=1e-4)
    assert {p.name for p in s.manifest.parameters} >= {"logits.bias", "logits.weight.lora_left"}


def matrix_model(kind: str) -> onnx.ModelProto:
    """x [batch, 64] → a node of this kind with a weight w → y [batch, 10]."""
    rng = np.random.default_rng(0)
    shapes = {"matmul": (64, 10), "gemm": (64, 10), "conv": (10, 4, 1, 1)}
    weights = {"w": rng.normal(size=shapes[kind]).astype(np.float32) / 8}
    if kind == "conv":
        weights |= {"image": np.array([-1, 4, 4, 4])}
        nodes = [
            helper.make_node("Reshape", ["x", "image"], ["i"], "image"),
            helper.make_node("Conv", ["i", "w"], ["c"], "conv", strides=[2, 2]),
            helper.make_node("GlobalAveragePool", ["c"], ["p"], "pool"),
            helper.make_node("Flatten", ["p"], ["y"], "flat"),
        ]
    else:
        nodes = [helper.make_node("MatMul" if kind == "matmul" else "Gemm", ["x", "w"], ["y"], "product")]
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 10])],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("kind", ["matmul", "gemm", "conv"])
def test_every_kind_of_matrix_can_have_an_adapter(kind: str, tmp_path: Path) -> None:
    s = adapted(tmp_path, matrix_model(kind), lora=trainer.LowRank(2))
    data = batch()
    for _ in range(20):
        s.step(data, 0.5)
    s.export(tmp_path / "out.onnx")
    logits = predict(tmp_path / "out.onnx", data["x"])
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert -logs[np.arange(64), data["target"]].mean() == pytest.approx(s.evaluate(data)["loss"], rel=1e-4)
    from edgefl.trainer.running.gradient_check import check_gradients

    assert all(error.ok for error in check_gradients(s, data))


def test_targets_are_chosen_by_name(tmp_path: Path) -> None:
    s = adapted(tmp_path, models.mlp(), lora=trainer.LowRank(2, ("logits.*",)))
    assert [a.weight for a in s.manifest.adapters] == ["logits.weight"]


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="rank of 0"):
        trainer.LowRank(0)
    for lora in (trainer.LowRank(2, ("nothing",)), trainer.LowRank(2, ("*.bias",))):
        with pytest.raises(ModelError, match="no weight of the model can have an adapter"):
            adapted(tmp_path, models.mlp(), lora=lora)
