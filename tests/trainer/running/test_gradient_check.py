"""The check that a user runs: quiet on correct gradients, loud on wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from support.building import build

from edgefl import trainer
from edgefl.datasets import models
from edgefl.trainer.files.manifest import Tensor
from edgefl.trainer.running.gradient_check import check_gradients, synthetic_batch


@pytest.mark.parametrize("make", [models.mlp, models.cnn])
def test_correct_gradients_pass_and_the_weights_stay(make: Any, tmp_path: Path) -> None:
    build(make(), loss="cross-entropy", out=tmp_path)
    s = trainer.Session(tmp_path, threads=1)
    before = s.vector()
    errors = check_gradients(s, synthetic_batch(s.manifest, 16))
    assert [e.parameter for e in errors] == [p.name for p in s.manifest.parameters]
    assert all(e.ok for e in errors), errors
    assert np.array_equal(s.vector(), before)


@pytest.mark.parametrize(
    "spoil",
    [lambda g: -g, lambda g: 2 * g, lambda g: 0 * g, lambda g: g * (np.arange(g.size).reshape(g.shape) % 2)],
    ids=["sign", "factor", "none", "half"],
)
def test_wrong_gradients_are_found(spoil: Any, tmp_path: Path) -> None:
    build(models.mlp(), loss="cross-entropy", out=tmp_path)

    class Wrong(trainer.Session):
        def gradients(self, batch: Any) -> Any:
            found = super().gradients(batch)
            return {**found, "hidden.weight": spoil(found["hidden.weight"]).astype(np.float32)}

    s = Wrong(tmp_path, threads=1)
    ok = {e.parameter: e.ok for e in check_gradients(s, synthetic_batch(s.manifest, 16))}
    assert not ok["hidden.weight"]
    assert ok["logits.weight"]


def test_a_weight_without_influence_has_no_gradient_and_passes(onnx_model: Any, session: Any) -> None:
    nodes = [helper.make_node("Gemm", ["x", "w"], ["h"]), helper.make_node("Mul", ["h", "zero"], ["y"])]
    weights = {"w": np.ones((4, 2), np.float32), "zero": np.zeros(2, np.float32)}
    s = session(onnx_model(nodes, weights), frozen=["zero"])
    (error,) = check_gradients(s, synthetic_batch(s.manifest, 4))
    assert error.relative == 0.0


def test_random_batches_have_the_declared_types_and_valid_labels(tmp_path: Path) -> None:
    manifest = build(models.mlp(), loss="cross-entropy", out=tmp_path)
    batch = synthetic_batch(manifest, 500)
    assert batch["x"].shape == (500, 64)
    assert batch["x"].dtype == np.float32
    assert set(batch["target"].tolist()) == set(range(10))
    assert Tensor("target", "int64", (None,)) == manifest.target
