"""Models as exporters really write them build, train, and have the gradients that their own framework finds in float64.

tools/export_models.py makes what is under exported/ and says what it means.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from edgefl.trainer import Session
from edgefl.trainer.building import divisible
from edgefl.trainer.reading.source_model import read_model

EXPORTED = Path(__file__).parent / "exported"


def opset_of(name: str) -> int:
    imports = onnx.load(EXPORTED / f"{name}.onnx").opset_import
    return max(entry.version for entry in imports if not entry.domain)


INDEX: dict[str, dict[str, Any]] = {
    name: entry
    for name, entry in json.loads((EXPORTED / "index.json").read_text()).items()
    if opset_of(name) <= onnx.defs.onnx_opset_version()
}
"""Without those that this onnx package is too old for."""

BATCHES = (1, 7, 32)

RATE = 0.02
"""Of gradient descent, as tools/exporters/fixtures.py says."""

TOLERANCE = 1e-5
"""Of the largest element of the whole gradient: in front of a normalisation single tensors have a gradient of zero."""

CASES = [(name, kind) for name, entry in INDEX.items() for kind in entry["weights"]]


def reference_of(name: str) -> Any:
    return np.load(EXPORTED / f"{INDEX[name]['model']}.npz")


DESCENTS = [(name, kind) for name, kind in CASES if f"{kind}/losses" in reference_of(name)]
"""Whose losses in training are known: those from PyTorch."""


def draw(spec: dict[str, Any], batch: int) -> tuple[Any, Any]:
    """As tools/export_models.py drew them."""
    rng = np.random.RandomState(spec["seed"] + batch)
    shape = (batch, *spec["input"])
    x = rng.randint(0, spec["tokens"], shape) if spec["tokens"] else rng.standard_normal(shape).astype(np.float32)
    if spec["loss"] == "cross-entropy":
        return x, rng.randint(0, spec["classes"], batch)
    return x, rng.standard_normal((batch, *spec["output"])).astype(np.float32)


def batch_of(session: Any, spec: dict[str, Any], size: int) -> dict[str, Any]:
    x, y = draw(spec, size)
    (declared,) = session.manifest.inputs
    return {declared.name: x.astype(declared.dtype), session.manifest.target.name: y}


@pytest.mark.parametrize("portable", [False, True], ids=["fused", "portable"])
@pytest.mark.parametrize(("name", "kind"), CASES, ids=[f"{name}/{kind}" for name, kind in CASES])
def test_gradients_are_those_of_the_framework(name: str, kind: str, portable: bool, session: Any) -> None:
    entry = INDEX[name]
    reference = reference_of(name)
    weights: dict[str, tuple[str, list[int]]] = entry["weights"][kind]
    # running statistics that may not move are used instead of those of the batch
    frozen = ["*running*"] if kind == "eval" else []
    s = session(EXPORTED / f"{name}.onnx", loss=entry["spec"]["loss"], frozen=frozen, portable=portable)
    assert {parameter.name for parameter in s.manifest.parameters} == set(weights)
    for size in BATCHES:
        batch = batch_of(s, entry["spec"], size)
        found = s.gradients(batch)
        expected = {
            key: reference[f"{kind}/{size}/gradient/{weight}"].transpose(order).reshape(found[key].shape)
            for key, (weight, order) in weights.items()
        }
        scale = max(float(np.abs(array).max()) for array in expected.values())
        worst = {key: float(np.abs(found[key] - expected[key]).max()) / scale for key in weights}
        assert max(worst.values()) <= TOLERANCE, (size, worst)
        if kind != "train":
            np.testing.assert_allclose(s.evaluate(batch)["loss"], reference[f"{kind}/{size}/loss"], rtol=1e-5)


@pytest.mark.parametrize("name", INDEX)
def test_parts_of_a_batch_add_up(name: str, session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three threads, each with a part of the batch, find the gradient and the loss that one finds with all of it."""
    monkeypatch.setattr(divisible, "MIN_USES", 0)
    spec = INDEX[name]["spec"]
    whole = session(EXPORTED / f"{name}.onnx", loss=spec["loss"])
    if not whole.manifest.divisible:
        pytest.skip("its samples are not known to keep to themselves")
    parts = Session(whole.directory, threads=3)
    for size in (2, 7, 32):
        batch = batch_of(whole, spec, size)
        expected, found = whole.gradients(batch), parts.gradients(batch)
        scale = max(float(np.abs(array).max()) for array in expected.values())
        assert max(float(np.abs(found[key] - expected[key]).max()) for key in expected) <= TOLERANCE * scale
        assert parts.training_loss(batch) == pytest.approx(whole.training_loss(batch), rel=1e-5)


@pytest.mark.parametrize(("name", "kind"), DESCENTS, ids=[f"{name}/{kind}" for name, kind in DESCENTS])
def test_gradient_descent_goes_the_way_of_the_framework(name: str, kind: str, session: Any) -> None:
    entry = INDEX[name]
    expected = reference_of(name)[f"{kind}/losses"]
    s = session(EXPORTED / f"{name}.onnx", loss=entry["spec"]["loss"], frozen=["*running*"] if kind == "eval" else [])
    batch = batch_of(s, entry["spec"], max(BATCHES))
    np.testing.assert_allclose([s.step(batch, RATE) for _ in expected], expected, rtol=1e-4)


@pytest.mark.parametrize("name", INDEX)
def test_it_trains_and_the_trained_model_can_be_exported(name: str, session: Any, tmp_path: Path) -> None:
    entry = INDEX[name]
    s = session(EXPORTED / f"{name}.onnx", loss=entry["spec"]["loss"])
    batch = batch_of(s, entry["spec"], 32)
    losses = [s.step(batch, 0.02) for _ in range(12)]
    assert losses[-1] < losses[0]
    s.export(tmp_path / "trained.onnx")
    x = {key: array for key, array in batch.items() if key != s.manifest.target.name}
    if "fixed" in name:
        x = {key: array[:3] for key, array in x.items()}
    paths = (EXPORTED / f"{name}.onnx", tmp_path / "trained.onnx")
    before, after = (ort.InferenceSession(path).run([s.manifest.outputs[0].name], x)[0] for path in paths)
    if isinstance(before, list):  # of dictionaries, class -> probability: the trained model gives a matrix
        before = np.array([list(row.values()) for row in before])
    assert before.shape == after.shape
    assert not np.allclose(before, after)


@pytest.mark.parametrize("name", INDEX)
def test_no_shape_arithmetic_is_left_where_only_the_batch_is_open(name: str) -> None:
    """Initial states of recurrent layers alone still ask for the batch size."""
    source = read_model(EXPORTED / f"{name}.onnx")
    recurrent = any(node.op_type in ("LSTM", "GRU") for node in source.nodes)
    assert recurrent or not any(node.op_type in ("Shape", "Size") for node in source.nodes)
    assert all(name in source.shapes for node in source.nodes for name in node.output if name)
