"""Batch statistics and dropout: what a model does while it learns, and what of it travels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from edgefl.errors import ModelError
from edgefl.trainer.running.cancelled import TrainingCancelledError
from edgefl.trainer.running.gradient_check import check_gradients


def normalised(momentum: float = 0.8, *, shared: bool = False) -> onnx.ModelProto:
    """x [batch, 4] → Gemm → BatchNormalization → Gemm → y [batch, 3]."""
    rng = np.random.default_rng(3)
    weights: dict[str, Any] = {
        "w": rng.normal(size=(4, 5)),
        "scale": rng.uniform(0.5, 2, 5),
        "shift": rng.normal(size=5),
        "mean": rng.normal(size=5),
        "variance": rng.uniform(0.5, 2, 5),
        "v": rng.normal(size=(5, 3)),
    }
    statistics = ["scale", "shift", "mean", "variance"]
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["a"], "first"),
        helper.make_node("BatchNormalization", ["a", *statistics], ["b"], "norm", momentum=momentum, epsilon=1e-3),
    ]
    if shared:
        nodes.append(helper.make_node("BatchNormalization", ["b", *statistics], ["c"], "again"))
    nodes.append(helper.make_node("Gemm", ["c" if shared else "b", "v"], ["y"], "last"))
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def data(samples: int = 16, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    x = rng.normal(1.0, 2.0, (samples, 4)).astype(np.float32)
    return {"x": x, "target": rng.normal(size=(samples, 3)).astype(np.float32)}


def test_training_normalises_by_the_batch_and_moves_the_running_statistics(session: Any) -> None:
    s = session(normalised(momentum=0.8))
    before, batch = s.parameters(), data()
    assert [p.name for p in s.manifest.parameters] == ["w", "scale", "shift", "v"]
    assert [p.name for p in s.manifest.buffers] == ["mean", "variance"]
    assert s.manifest.vector_size == 20 + 5 + 5 + 15 + 5 + 5
    a = batch["x"].astype(np.float64) @ before["w"]
    mean, variance = a.mean(0), a.var(0)
    b = (a - mean) / np.sqrt(variance + 1e-3) * before["scale"] + before["shift"]
    expected = np.mean((b @ before["v"] - batch["target"]) ** 2)
    assert s.step(batch, 0.01) == pytest.approx(expected, rel=1e-5)
    after = s.parameters()
    np.testing.assert_allclose(after["mean"], 0.8 * before["mean"] + 0.2 * mean, rtol=1e-5)
    np.testing.assert_allclose(after["variance"], 0.8 * before["variance"] + 0.2 * variance, rtol=1e-5)


def test_evaluation_and_the_exported_model_use_the_running_statistics(session: Any, tmp_path: Path) -> None:
    s = session(normalised())
    for seed in range(5):
        s.step(data(seed=seed), 0.02)
    s.export(tmp_path / "out.onnx")
    batch = data(seed=9)
    y = ort.InferenceSession((tmp_path / "out.onnx").read_bytes()).run(None, {"x": batch["x"]})[0]
    assert np.mean((y - batch["target"]) ** 2) == pytest.approx(s.evaluate(batch)["loss"], rel=1e-5)


def test_gradients_go_through_the_statistics_of_the_batch(session: Any) -> None:
    s = session(normalised())
    before = s.vector()
    assert all(error.ok for error in check_gradients(s, data(32)))
    np.testing.assert_array_equal(s.vector(), before)


def test_statistics_of_a_layer_that_is_not_trained_stay(session: Any) -> None:
    """With the scale frozen, or the statistics by name, the layer is what it is in the exported model."""
    for frozen in (["scale"], ["mean"], ["variance"], ["mean", "variance"]):
        s = session(normalised(), frozen=frozen)
        assert s.manifest.buffers == ()
        batch = data()
        assert s.training_loss(batch) == pytest.approx(s.evaluate(batch)["loss"], rel=1e-5)


def test_a_failed_step_moves_nothing(session: Any) -> None:
    s = session(normalised())
    before = s.vector()
    s.cancel()
    with pytest.raises(TrainingCancelledError):
        s.step(data(), 0.1)
    np.testing.assert_array_equal(s.vector(), before)
    s.step(data(), 0.1)
    assert not np.array_equal(s.vector(), before)


def test_devices_average_their_statistics_too(session: Any) -> None:
    """The vector's mean is the model's mean, statistics included."""
    s = session(normalised())
    start, vectors = s.vector(), []
    for seed in range(3):
        s.load_vector(start)
        s.step(data(seed=seed), 0.05)
        vectors.append(s.vector())
    s.load_vector(np.mean(vectors, axis=0, dtype=np.float32))
    np.testing.assert_allclose(s.parameters()["mean"], np.mean([v[-10:-5] for v in vectors], axis=0), rtol=1e-6)
    assert np.isfinite(s.evaluate(data())["loss"])


def test_statistics_that_two_layers_share_are_refused(session: Any) -> None:
    with pytest.raises(ModelError, match="shares its running statistics") as caught:
        session(normalised(shared=True))
    assert "--frozen" in caught.value.hint
    assert session(normalised(shared=True), frozen=["mean"]).manifest.buffers == ()


def dropping(ratio: float = 0.5) -> onnx.ModelProto:
    """y = dropout(x w), exported with its Dropout."""
    weights = {"w": np.eye(64, dtype=np.float32), "ratio": np.float32(ratio)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "dense"),
        helper.make_node("Dropout", ["h", "ratio"], ["y"], "drop"),
    ]
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 64])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_dropout_drops_by_its_seed_and_only_in_training(session: Any) -> None:
    s = session(dropping(0.25))
    assert s.manifest.seeded
    batch = {"x": np.ones((32, 64), np.float32), "target": np.zeros((32, 64), np.float32)}
    assert s.evaluate(batch)["loss"] == 1.0
    losses = []
    for seed in (1, 1, 2):
        s.reseed(seed)
        losses.append(s.training_loss(batch))
    # three quarters of the elements are 1 / 0.75
    assert losses[0] == losses[1] != losses[2]
    assert losses[0] == pytest.approx(1 / 0.75, rel=0.1)
    s.reseed(5)
    steps = [s.step(batch, 0.0) for _ in range(3)]
    assert len(set(steps)) == 3
    s.reseed(5)
    assert [s.step(batch, 0.0) for _ in range(3)] == steps


def test_gradients_go_through_the_mask(session: Any) -> None:
    s = session(dropping(0.5))
    batch = {"x": np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)}
    batch["target"] = batch["x"][:, ::-1].copy()
    s.reseed(3)
    assert all(error.ok for error in check_gradients(s, batch))
