"""A session as functions of flat vectors: many devices' models in one session, none in another's way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgefl.datasets import digits, models
from edgefl.errors import ConfigError, DataError
from edgefl.trainer import Session, build
from edgefl.trainer.running.flat import FlatSession

RECIPE = {"steps": 5, "batch": 20, "lr": 0.3, "momentum": 0.0}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("flat")
    onnx.save(models.mlp(hidden=8), place / "model.onnx")
    build(place / "model.onnx", loss="cross-entropy", optimizer="momentum", out=place / "artifacts")
    return place / "artifacts"


def test_training_is_a_function_of_model_data_and_seed(artifacts: Path) -> None:
    x, y = digits()
    flat = FlatSession(artifacts)
    start = flat.initial(1)
    first = flat.train(start, x[:50], y[:50], seed=3, **RECIPE)
    flat.train(flat.initial(2), x[50:90], y[50:90], seed=4, **RECIPE)  # another device: its momentum is its own
    again = flat.train(start, x[:50], y[:50], seed=3, **RECIPE)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, flat.train(start, x[:50], y[:50], seed=5, **RECIPE))
    assert flat.loss(first, x[:50], y[:50]) < flat.loss(start, x[:50], y[:50])


def test_the_steps_are_those_of_a_session(artifacts: Path) -> None:
    x, y = digits()
    flat, session = FlatSession(artifacts), Session(artifacts, threads=1)
    start = flat.initial(1)
    session.load_vector(start)
    chosen = np.random.default_rng(7).integers(40, size=20)
    shape = [size or 0 for size in session.manifest.inputs[0].shape[1:]]
    batch = {session.manifest.inputs[0].name: x[chosen].reshape(20, *shape), "target": y[chosen]}
    session.step(batch, 0.3)
    trained = flat.train(start, x[:40], y[:40], steps=1, batch=20, lr=0.3, momentum=0.0, seed=7)
    np.testing.assert_array_equal(trained, session.vector())
    assert flat.accuracy(trained, x, y) == pytest.approx(session.evaluate({**batch, **_all(session, x, y)})["accuracy"])


def _all(session: Session, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    shape = [size or 0 for size in session.manifest.inputs[0].shape[1:]]
    return {session.manifest.inputs[0].name: x.reshape(len(y), *shape), "target": y}


def test_every_seed_has_a_start_of_its_own(artifacts: Path) -> None:
    flat = FlatSession(artifacts)
    assert np.array_equal(flat.initial(1), flat.initial(1))
    assert not np.array_equal(flat.initial(1), flat.initial(2))
    given = Session(artifacts, threads=1).vector()
    assert np.std(flat.initial(1)) == pytest.approx(np.std(given), rel=0.1)


def test_a_proximal_term_and_a_shift_change_the_way(artifacts: Path) -> None:
    x, y = digits()
    flat = FlatSession(artifacts)
    start = flat.initial(1)
    plain = flat.train(start, x[:50], y[:50], seed=3, **RECIPE)
    held = flat.train(start, x[:50], y[:50], seed=3, proximal=2.0, **RECIPE)
    assert np.linalg.norm(held - start) < np.linalg.norm(plain - start)
    shift = np.full(flat.parameters, 0.01, np.float32)
    assert not np.array_equal(plain, flat.train(start, x[:50], y[:50], seed=3, shift=shift, **RECIPE))


def test_what_cannot_be_simulated_is_refused(artifacts: Path, tmp_path: Path) -> None:
    flat = FlatSession(artifacts)
    with pytest.raises(DataError, match="784 features"):
        flat.accuracy(flat.initial(1), np.zeros((3, 784), np.float32), np.zeros(3, np.int64))
    onnx.save(models.mlp(hidden=8), tmp_path / "model.onnx")
    build(tmp_path / "model.onnx", loss="mse", out=tmp_path / "regression")
    with pytest.raises(ConfigError, match="classifier"):
        FlatSession(tmp_path / "regression")
