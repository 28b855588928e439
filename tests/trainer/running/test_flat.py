"""One session for many devices' vectors: what it measures and trains is what a Session would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.building import build

from edgefl.datasets import digits, models
from edgefl.trainer import Session
from edgefl.trainer.running.flat import FlatSession
from edgefl.trainer.running.pace import plain_steps

RECIPE = {"steps": 1, "batch": 64, "lr": 0.1, "momentum": 0.0, "seed": 1}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    build(models.mlp(hidden=16), loss="cross-entropy", optimizer="sgd", out=tmp_path)
    return tmp_path


def test_it_measures_as_a_session_does(directory: Path) -> None:
    x, y = digits()
    flat, session = FlatSession(directory), Session(directory, threads=1)
    name = session.manifest.inputs[0].name
    found = session.evaluate({name: x[:100], "target": y[:100]})
    assert flat.loss(session.vector(), x[:100], y[:100]) == pytest.approx(found["loss"], rel=1e-5)
    assert flat.accuracy(session.vector(), x[:100], y[:100]) == pytest.approx(found["accuracy"])
    assert (flat.parameters, flat.trained) == (session.manifest.vector_size, session.manifest.trained_size)


def test_a_shift_is_added_to_every_gradient(directory: Path) -> None:
    x, y = digits()
    flat = FlatSession(directory)
    start = flat.initial(3)
    shift = np.linspace(-1, 1, flat.parameters).astype(np.float32)
    plain = flat.train(start, x[:64], y[:64], **RECIPE)  # type: ignore[arg-type]
    shifted = flat.train(start, x[:64], y[:64], shift=shift, **RECIPE)  # type: ignore[arg-type]
    np.testing.assert_allclose(shifted - plain, -0.1 * shift, rtol=1e-3, atol=1e-5)
    assert flat.gradients(7, 0.9) == 7  # the artifacts' optimiser has no momentum


def test_the_artifacts_decide_about_momentum(tmp_path: Path) -> None:
    build(models.mlp(hidden=8), loss="cross-entropy", optimizer="momentum", out=tmp_path)
    flat = FlatSession(tmp_path)
    assert flat.gradients(7, 0.0) == plain_steps(Session(tmp_path).manifest.optimizer, 7) > 7
