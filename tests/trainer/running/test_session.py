"""A session on this device: what a step does, what it refuses, what survives."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
import threading
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
from edgefl.errors import DataError, ModelError
from edgefl.trainer.building import divisible
from edgefl.trainer.files.manifest import CHECKPOINT, FILES, INFERENCE, MANIFEST, OPTIMIZER, TRAINING, File
from edgefl.trainer.running.cancelled import TrainingCancelledError


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mlp")
    build(models.mlp(hidden=16), loss="cross-entropy", optimizer="momentum", out=out)
    return out


@pytest.fixture
def s(built: Path) -> trainer.Session:
    return trainer.Session(built, threads=1)


def batch(samples: int = 32, seed: int = 0) -> dict[str, Any]:
    x, y = digits()
    chosen = np.random.default_rng(seed).choice(len(x), samples, replace=False)
    return {"x": x[chosen], "target": y[chosen]}


def cancel_while_it_trains(s: trainer.Session) -> None:
    """From another thread. Training ends, and what it leaves is a model."""
    timer = threading.Timer(0.05, s.cancel)
    timer.start()
    data = batch(1000)
    with pytest.raises(TrainingCancelledError):
        [s.step(data, 0.01) for _ in itertools.count()]
    timer.join()
    assert np.isfinite(s.vector()).all()


def test_steps_make_the_loss_smaller(s: trainer.Session) -> None:
    losses = [s.step(batch(), lr=0.05) for _ in range(30)]
    assert all(isinstance(loss, float) for loss in losses)
    assert losses[-1] < 0.5 * losses[0]


def test_training_follows_numpy_step_by_step(s: trainer.Session) -> None:
    """Two layers, both updated from the weights before the step: in-place updates would fail here."""
    w1, b1, w2, b2 = (p.astype(np.float64) for p in s.parameters().values())
    velocity = [np.zeros_like(p) for p in (w1, b1, w2, b2)]
    for seed in range(6):
        data = batch(16, seed)
        x, y = data["x"].astype(np.float64), data["target"]
        h = np.maximum(x @ w1.T + b1, 0)
        z = h @ w2.T + b2
        logs = z - z.max(axis=1, keepdims=True)
        logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
        assert s.step(data, lr=0.1) == pytest.approx(-logs[np.arange(16), y].mean(), rel=1e-5)
        dz = (np.exp(logs) - np.eye(10)[y]) / 16
        dh = (dz @ w2) * (h > 0)
        for i, g in enumerate((dh.T @ x, dh.sum(axis=0), dz.T @ h, dz.sum(axis=0))):
            velocity[i] = 0.9 * velocity[i] + g
        w1, b1, w2, b2 = (p - 0.1 * v for p, v in zip((w1, b1, w2, b2), velocity, strict=True))
        for found, expected in zip(s.parameters().values(), (w1, b1, w2, b2), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_batches_of_any_size(s: trainer.Session) -> None:
    for samples in (1, 7, 32, 2):
        assert np.isfinite(s.step(batch(samples), lr=0.01))
        assert s.evaluate(batch(samples))["samples"] == samples


def test_a_step_is_the_same_every_time(built: Path) -> None:
    results = []
    for _ in range(2):
        s = trainer.Session(built, threads=1)
        results.append(([s.step(batch(seed=i), 0.05) for i in range(5)], s.vector().tobytes()))
    assert results[0] == results[1]


@pytest.fixture
def divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose batches are taken apart, and a loss that weighs samples."""
    monkeypatch.setattr(divisible, "MIN_USES", 0)
    options: Any = {"class_weights": [1.0 + i for i in range(10)], "ignore_index": 3}
    manifest = build(
        models.mlp(hidden=16), loss="cross-entropy", loss_options=options, optimizer="momentum", out=tmp_path
    )
    assert manifest.divisible
    return tmp_path


@pytest.mark.parametrize("micro_batch", [None, 5])
def test_threads_that_share_a_batch_take_the_step_of_one(divided: Path, micro_batch: int | None) -> None:
    """Also where a part holds no sample that counts, and where there are fewer samples than threads."""
    one, three = trainer.Session(divided, threads=1), trainer.Session(divided, threads=3)
    for samples in (32, 7, 2, 1, 32):
        data = batch(samples, seed=samples)
        data["target"][: samples // 2] = 3
        losses = [s.step(data, 0.05, micro_batch=micro_batch) for s in (one, three)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-5)
        np.testing.assert_allclose(three.vector(), one.vector(), atol=1e-6)
    nothing = {**batch(8), "target": np.full(8, 3)}
    assert three.training_loss(nothing) == 0.0


def test_threads_that_share_a_batch_do_the_same_every_time(divided: Path) -> None:
    vectors = []
    for _ in range(2):
        s = trainer.Session(divided, threads=3)
        for seed in range(5):
            s.step(batch(seed=seed), 0.05)
        vectors.append(s.vector().tobytes())
    assert vectors[0] == vectors[1]


def test_threads_that_share_a_batch_refuse_what_one_refuses(divided: Path) -> None:
    s = trainer.Session(divided, threads=3)
    data = batch(8)
    before = s.vector()
    for change in ({"target": np.full(8, 10)}, {"x": data["x"][:7]}, {"x": data["x"][:, :9]}, {"z": data["x"]}):
        with pytest.raises(DataError):
            s.step({**data, **change}, 0.1)
    assert np.array_equal(s.vector(), before)
    lists = {name: array.tolist() for name, array in data.items()}
    assert s.training_loss(lists) == pytest.approx(s.training_loss(data), rel=1e-5)


def test_cancelling_ends_all_threads_that_share_a_batch(divided: Path) -> None:
    s = trainer.Session(divided, threads=3)
    before = s.vector()
    s.cancel()
    with pytest.raises(TrainingCancelledError):
        s.step(batch(), 0.05)
    assert np.array_equal(s.vector(), before)
    s.step(batch(), 0.05)
    cancel_while_it_trains(s)


def test_evaluation_changes_nothing_and_counts_right_answers(s: trainer.Session) -> None:
    before = s.vector()
    data = batch(50)
    result = s.evaluate(data)
    assert set(result) == {"loss", "samples", "accuracy"}
    assert np.array_equal(s.vector(), before)
    w1, b1, w2, b2 = s.parameters().values()
    predicted = (np.maximum(data["x"] @ w1.T + b1, 0) @ w2.T + b2).argmax(axis=1)
    assert result["accuracy"] == pytest.approx((predicted == data["target"]).mean())


def test_an_mse_model_has_no_accuracy(linear: Any, session: Any) -> None:
    data = {"x": np.ones((3, 4), np.float32), "target": np.zeros((3, 3), np.float32)}
    assert set(session(linear()).evaluate(data)) == {"loss", "samples"}


def test_the_vector_is_the_parameters_in_manifest_order(s: trainer.Session) -> None:
    vector = s.vector()
    assert vector.dtype == np.float32
    assert vector.shape == (s.manifest.vector_size,)
    assert vector.tobytes() == b"".join(s.parameters()[p.name].tobytes() for p in s.manifest.parameters)
    s.load_vector(vector[::-1].copy())
    assert np.array_equal(s.vector(), vector[::-1])
    s.load_vector(vector)
    s.load(s.parameters())
    assert np.array_equal(s.vector(), vector)


def test_what_is_handed_out_is_a_copy(s: trainer.Session) -> None:
    vector = s.vector()
    for array in (*s.parameters().values(), s.vector(), *s.gradients(batch()).values()):
        array[...] = 9
    assert np.array_equal(s.vector(), vector)
    handed_in = vector.copy()
    s.load_vector(handed_in)
    handed_in[...] = 9
    assert np.array_equal(s.vector(), vector)


def test_gradients_take_no_step(s: trainer.Session) -> None:
    before = s.vector()
    gradients = s.gradients(batch())
    assert list(gradients) == [p.name for p in s.manifest.parameters]
    assert np.array_equal(s.vector(), before)


def test_resetting_the_optimizer_forgets_momentum_alone(s: trainer.Session) -> None:
    start = s.vector()
    s.step(batch(), 0.05)
    first = s.vector()
    s.load_vector(start)
    s.step(batch(), 0.05)
    assert not np.array_equal(s.vector(), first)  # momentum of the first step
    s.reset_optimizer()
    s.load_vector(start)
    s.step(batch(), 0.05)
    assert np.array_equal(s.vector(), first)


def test_the_export_is_the_users_model_with_the_trained_weights(s: trainer.Session, tmp_path: Path) -> None:
    for seed in range(3):
        s.step(batch(seed=seed), 0.05)
    path = tmp_path / "trained.onnx"
    s.export(path)
    onnx.checker.check_model(path, full_check=True)
    original, exported = models.mlp(hidden=16), onnx.load(path)
    assert [n.SerializeToString() for n in exported.graph.node] == [n.SerializeToString() for n in original.graph.node]
    data = batch(64)
    logits = ort.InferenceSession(path).run(["logits"], {"x": data["x"]})[0]
    assert (logits.argmax(axis=1) == data["target"]).mean() == pytest.approx(s.evaluate(data)["accuracy"])
    trained = {t.name: onnx.numpy_helper.to_array(t) for t in exported.graph.initializer}
    assert all(np.array_equal(trained[name], value) for name, value in s.parameters().items())


def test_running_needs_no_onnx_package(built: Path, tmp_path: Path) -> None:
    program = f"""
import sys
from edgefl import trainer
assert not {{"numpy", "onnx", "onnxruntime"}} & set(sys.modules), "importing edgefl.trainer is light"
import numpy as np
s = trainer.Session({str(built)!r})
data = trainer.Dataset(np.ones((8, 64), np.float32), np.zeros(8, np.int64))
trainer.train_local(s, trainer.check_fit(data, s.manifest), trainer.LocalSpec(), seed=0)
trainer.evaluate_local(s, data)
s.export({str(tmp_path / "out.onnx")!r})
assert not {{"onnx", "google.protobuf", "edgefl.trainer.graph"}} & set(sys.modules), set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"x": np.zeros((4, 63), np.float32)}, "'x'"),
        ({"x": np.zeros(64, np.float32)}, "'x'"),
        ({"x": np.zeros((4, 64), np.complex64)}, "'x'"),
        ({"x": [[1, 2], [3]]}, "'x'"),
        ({"x": np.zeros((3, 64), np.float32)}, "same number of samples"),
        ({"x": np.zeros((0, 64), np.float32), "target": np.zeros(0, int)}, "at least one"),
        ({"target": np.array([0, 1, 2, 10])}, "10 classes"),
        ({"target": np.array([0, 1, 2, -1])}, "labels from -1"),
        ({"target": np.array([0.0, 1, 2, 3])}, "'target'"),
        ({"z": np.zeros(4)}, "x, target"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(change: Any, what: str, s: trainer.Session) -> None:
    data = {"x": np.zeros((4, 64), np.float32), "target": np.arange(4), **change}
    before = s.vector()
    for use in (lambda: s.step(data, 0.1), lambda: s.evaluate(data)):
        with pytest.raises(DataError, match=what):
            use()
    assert np.array_equal(s.vector(), before)


def test_numbers_of_other_types_are_cast(s: trainer.Session) -> None:
    data = batch(4)
    expected = s.evaluate(data)
    assert s.evaluate({"x": data["x"].astype(np.float64), "target": data["target"].astype(np.uint8)}) == expected
    assert s.evaluate({"x": data["x"].tolist(), "target": data["target"].tolist()}) == expected
    assert s.evaluate({"x": np.asfortranarray(data["x"]), "target": data["target"][::1]}) == expected


def test_weights_that_do_not_fit_are_refused_and_nothing_changes(s: trainer.Session) -> None:
    before = s.vector()
    good = s.parameters()
    bad = [
        {},
        {**good, "extra": np.zeros(1, np.float32)},
        {**good, "hidden.bias": np.zeros(15, np.float32)},
        {**good, "hidden.bias": np.zeros(16)},
        {**good, "hidden.bias": np.full(16, np.nan, np.float32)},
    ]
    for parameters in bad:
        with pytest.raises(ModelError):
            s.load(parameters)
    for vector in (before[:-1], before[None], np.full_like(before, np.inf), before.astype(np.float64)):
        with pytest.raises(ModelError):
            s.load_vector(vector)
    assert np.array_equal(s.vector(), before)


def test_cancelling_stops_the_next_run_and_only_that(s: trainer.Session) -> None:
    before = s.vector()
    s.cancel()
    with pytest.raises(TrainingCancelledError):
        s.step(batch(), 0.05)
    assert np.array_equal(s.vector(), before)
    s.step(batch(), 0.05)
    assert not np.array_equal(s.vector(), before)


def test_cancelling_from_another_thread_ends_training(s: trainer.Session) -> None:
    cancel_while_it_trains(s)


def test_a_step_that_diverges_says_so_with_its_number(s: trainer.Session) -> None:
    losses = [s.step(batch(), lr=1e30) for _ in range(4)]
    assert not np.isfinite(losses[-1])


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_missing_or_altered_file_is_a_model_error(name: str, built: Path, tmp_path: Path) -> None:
    for file in built.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())

    def use() -> None:
        s = trainer.Session(tmp_path, threads=1)
        s.evaluate(batch())
        s.export(tmp_path / "out.onnx")

    use()
    content = (tmp_path / name).read_bytes()
    for altered in (content[:-9], b"", b"\0" + content[1:], content + b"\0"):
        (tmp_path / name).write_bytes(altered)
        if name == MANIFEST and altered == content + b"\0":
            continue
        with pytest.raises(ModelError):
            use()
    (tmp_path / name).unlink()
    with pytest.raises(ModelError):
        use()


def replaced(built: Path, directory: Path, name: str, content: bytes) -> Path:
    """The artifacts with one file replaced and the manifest's hashes made to fit."""
    contents = {file: (built / file).read_bytes() for file in FILES} | {name: content}
    files = {file: File.of(content) for file, content in contents.items()}
    manifest = dataclasses.replace(trainer.read_manifest(built), files=files)
    for file, content in {**contents, MANIFEST: manifest.serialise()}.items():
        (directory / file).write_bytes(content)
    return directory


@pytest.mark.parametrize(("name", "what"), [(TRAINING, "signature"), (OPTIMIZER, "signature"), (CHECKPOINT, "weight")])
def test_files_of_another_model_are_refused_although_their_hashes_fit(
    name: str, what: str, built: Path, tmp_path: Path
) -> None:
    """Whoever writes artifacts also writes the hashes: what is inside is checked on its own."""
    build(models.mlp(hidden=8), loss="cross-entropy", optimizer="momentum", out=tmp_path)
    content = (tmp_path / name).read_bytes()
    with pytest.raises(ModelError, match=what):
        trainer.Session(replaced(built, tmp_path, name, content))


def test_a_graph_that_onnx_runtime_refuses_is_a_model_error(built: Path, tmp_path: Path) -> None:
    model = onnx.load(built / TRAINING)
    model.graph.node[0].input[0] = "nowhere"
    with pytest.raises(ModelError, match=r"cannot load training_model\.onnx"):
        trainer.Session(replaced(built, tmp_path, TRAINING, model.SerializeToString()))


@pytest.mark.parametrize("operator", ["MatMul", "Max"])
def test_a_graph_that_reads_files_of_the_device_is_refused(operator: str, built: Path, tmp_path: Path) -> None:
    """Weights in a file of the attacker's choice would leave the device with the next update."""
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(64 * 64 * 4))
    tensor = onnx.TensorProto(name="stolen", data_type=1, dims=[64, 64], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=str(secret))
    model = onnx.load(built / TRAINING)
    model.graph.initializer.append(tensor)
    model.graph.node.insert(0, helper.make_node(operator, ["x", "stolen"], ["leak"]))
    model.graph.output.append(helper.make_tensor_value_info("leak", 1, ["batch", 64]))
    with pytest.raises(ModelError, match="refers to data outside itself"):
        trainer.Session(replaced(built, tmp_path, TRAINING, model.SerializeToString()))


def test_an_export_that_would_read_its_users_files_is_refused(built: Path, tmp_path: Path) -> None:
    model = onnx.load(built / INFERENCE)
    model.graph.initializer[0].external_data.add(key="location", value="secret")
    s = trainer.Session(replaced(built, tmp_path, INFERENCE, model.SerializeToString()), threads=1)
    with pytest.raises(ModelError, match="refers to data outside itself"):
        s.export(tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_a_failure_inside_a_run_is_a_model_error(onnx_model: Any, session: Any) -> None:
    """Gather with an index from the data: only the run itself can find out."""
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=7),
        helper.make_node("Gather", ["table", "i"], ["h"]),
        helper.make_node("Mul", ["h", "w"], ["y"]),
    ]
    s = session(onnx_model(nodes, {"table": np.ones(3, np.float32), "w": np.ones(4, np.float32)}), trainable=["w"])
    good = {"x": np.zeros((2, 4), np.float32), "target": np.zeros((2, 4), np.float32)}
    s.step(good, 0.1)
    with pytest.raises(ModelError, match="ONNX Runtime failed"):
        s.step({**good, "x": np.full((2, 4), 99, np.float32)}, 0.1)
    s.step(good, 0.1)
