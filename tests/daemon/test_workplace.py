"""The devices' part of each strategy with real artifacts, and personal tensors that stay where they were trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.building import build
from support.learning_world import make_manifest

from edgefl import trainer
from edgefl.daemon.create import create_application
from edgefl.daemon.verbs import Verbs
from edgefl.daemon.workplace import Workplace, export_model, split_of
from edgefl.datasets import digits, models
from edgefl.demo import digits as demo
from edgefl.errors import ModelError
from edgefl.learning.effects import TrainJob, TrainResult
from edgefl.learning.metrics import means
from edgefl.learning.strategies.local import halves
from edgefl.wire.application import Manifest
from edgefl.wire.blob import BlobRef
from edgefl.wire.learning import RoundKind
from tests.daemon.fleet import Daemons, with_daemons

SAMPLES = 64


def make_place(directory: Path, *, optimizer: str = "sgd", classes: tuple[int, ...] = (1, 2)) -> Workplace:
    """A device with some digits of few classes."""
    if not (directory / "manifest.json").exists():
        build(models.mlp(hidden=16), loss="cross-entropy", optimizer=optimizer, out=directory)
    x, y = digits()
    chosen = np.flatnonzero(np.isin(y, classes))
    held_back = trainer.Dataset(x[chosen[SAMPLES : 2 * SAMPLES]], y[chosen[SAMPLES : 2 * SAMPLES]])
    return Workplace(
        trainer.Session(directory, threads=1), trainer.Dataset(x[chosen[:SAMPLES]], y[chosen[:SAMPLES]]), held_back
    )


def make_spec(place: Workplace, **changes: Any) -> Manifest:
    spec = make_manifest(**{"batch": SAMPLES, "learning_rate": 0.1, "local_epochs": 1, **changes})
    return make_manifest(
        **{"batch": SAMPLES, "learning_rate": 0.1, "local_epochs": 1, **changes},
        parameters=split_of(place.session.manifest, spec).shared_size,
    )


def work(
    place: Workplace, spec: Manifest, model: Any, kept: Any = None, kind: RoundKind = RoundKind.TRAIN
) -> TrainResult:
    job = TrainJob((1, 1, 1), kind, BlobRef(bytes(32), 0), 3, kept)
    return place.work(job, spec, model, lambda: False)


def test_scaffold_keeps_the_gradient_and_shifts_by_it(tmp_path: Path) -> None:
    """One step on all samples: c_i is the gradient itself, and with c_i = c the next round trains as if there were
    neither; with c = -c_i, twice the gradient is taken."""
    place = make_place(tmp_path)
    spec = make_spec(place, strategy="scaffold")
    initial, trained = place.initial(spec)
    size = spec.parameters
    assert (len(initial), trained) == (8 * size, size)
    weights, control = halves(np.frombuffer(initial, "<f4"))
    np.testing.assert_array_equal(weights, place.session.vector())
    assert not control.any()
    data = place.train
    assert data is not None
    inputs = place.session.manifest.inputs[0].name
    gradients = place.session.gradients({inputs: data.x, "target": data.y})
    expected = np.concatenate([gradients[tensor.name].ravel() for tensor in place.session.manifest.parameters])
    result = work(place, spec, initial)
    delta, change = halves(result.delta)
    np.testing.assert_allclose(delta, -0.1 * expected, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(change, expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(result.kept, change)
    with_c = np.concatenate((weights, result.kept))
    again = work(place, spec, with_c.tobytes(), result.kept.tobytes())
    np.testing.assert_allclose(halves(again.delta)[0], delta, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(halves(again.delta)[1], 0, atol=1e-5)
    opposed = work(place, spec, np.concatenate((weights, -result.kept)).tobytes(), result.kept)
    np.testing.assert_allclose(halves(opposed.delta)[0], -delta, rtol=1e-2, atol=1e-5)  # g + c - c_i = g - 2 g


@pytest.mark.parametrize(("optimizer", "epochs"), [("sgd", 3), ("momentum", 3)])
def test_fednova_sends_the_delta_for_each_plain_gradient(tmp_path: Path, optimizer: str, epochs: int) -> None:
    place = make_place(tmp_path, optimizer=optimizer)
    changes = {"local_epochs": epochs, "batch": 16}
    plain = make_spec(place, strategy="fedavg", **changes)
    nova = make_spec(place, strategy="fednova", **changes)
    initial, _ = place.initial(plain)
    first, second = work(place, plain, initial), work(place, nova, initial)
    steps = means(second.metrics)["train_steps"]
    assert steps == pytest.approx(12 if optimizer == "sgd" else sum((1 - 0.9 ** (12 - j)) / 0.1 for j in range(12)))
    assert first.delta is not None
    assert second.delta is not None
    np.testing.assert_allclose(second.delta * steps, first.delta, rtol=1e-3, atol=1e-6)


def test_qfedavg_weighs_by_the_loss_before_training(tmp_path: Path) -> None:
    place = make_place(tmp_path)
    initial, _ = place.initial(make_spec(place, strategy="fedavg"))
    data = place.train
    assert data is not None
    inputs = place.session.manifest.inputs[0].name
    loss = place.session.evaluate({inputs: data.x, "target": data.y})["loss"]
    plain, fair = (work(place, make_spec(place, strategy=text), initial) for text in ("fedavg", "qfedavg:q=2"))
    assert plain.delta is not None
    assert fair.delta is not None
    np.testing.assert_allclose(fair.delta, loss**2 * plain.delta, rtol=1e-3, atol=1e-6)
    length = float(plain.delta @ plain.delta)
    assert means(fair.metrics)["train_fair_step"] == pytest.approx(2 * loss * length / 0.1 + loss**2, rel=1e-3)


def test_scaffold_refuses_what_divides_by_its_own_gradients(tmp_path: Path) -> None:
    place = make_place(tmp_path, optimizer="adam")
    with pytest.raises(ModelError, match="sums of gradients") as caught:
        place.initial(make_manifest(strategy="scaffold"))
    assert "sgd" in caught.value.hint


@pytest.mark.parametrize("strategy", ["fedavg", "scaffold", "fedprox:mu=0.1"])
def test_personal_tensors_stay_and_are_trained_on(tmp_path: Path, strategy: str) -> None:
    place = make_place(tmp_path)
    spec = make_spec(place, strategy=strategy, personal=("logits.*",), local_epochs=3, batch=16)
    total = place.session.manifest.vector_size
    split = split_of(place.session.manifest, spec)
    assert split.personal_size == 16 * 10 + 10
    assert spec.parameters == total - split.personal_size
    initial, _ = place.initial(spec)
    width = len(initial) // 4 // spec.parameters
    assert width == (2 if strategy == "scaffold" else 1)
    whole = place.session.vector()
    result = work(place, spec, initial)
    assert result.delta is not None
    assert result.delta.shape == (width * spec.parameters,)  # not a byte of the head travels
    head = result.kept[-split.personal_size :]
    np.testing.assert_array_equal(head, split.personal(place.session.vector()))
    assert np.linalg.norm(head - split.personal(whole)) > 0.01
    # The next round goes on from there: on the same body, its own head is better than the one of the artifacts.
    fresh = work(place, spec, initial, None, RoundKind.EVALUATE)
    own = work(place, spec, initial, result.kept.tobytes(), RoundKind.EVALUATE)
    assert means(own.metrics)["loss"] < 0.9 * means(fresh.metrics)["loss"]
    assert own.kept is None
    # And a pull gives the body that travels with the head that stays.
    artifacts = place.session.manifest
    pulled = export_model(tmp_path, spec, initial, result.kept)
    shared = np.frombuffer(initial, "<f4")[: spec.parameters]
    expected = split.join(shared.astype(np.float32), head)
    at = 0
    for tensor in artifacts.carried:
        assert tensor.inference_offset is not None
        found = np.frombuffer(pulled, "<f4", tensor.size, tensor.inference_offset)
        np.testing.assert_array_equal(found, expected[at : at + tensor.size])
        at += tensor.size
    assert export_model(tmp_path, spec, initial, None) == export_model(tmp_path, spec, initial, b"rot")


def test_the_schedule_says_with_which_rate_a_round_is_trained(tmp_path: Path) -> None:
    place = make_place(tmp_path)
    initial, _ = place.initial(make_spec(place))
    constant, halved = (make_spec(place, lr_schedule=text) for text in ("constant", "step:every=2,factor=0.5"))
    lengths = []
    for spec, round_ in ((constant, 5), (halved, 2), (halved, 3), (halved, 5)):
        job = TrainJob((1, round_, 1), RoundKind.TRAIN, BlobRef(bytes(32), 0), 3)
        result = place.work(job, spec, initial, lambda: False)
        assert result.delta is not None
        lengths.append(float(np.linalg.norm(result.delta)))
    np.testing.assert_allclose(lengths, np.array([1, 1, 0.5, 0.25]) * lengths[0], rtol=1e-3)


async def pull(daemon: Any, name: str, *, best: bool = False) -> bytes:
    import base64

    events = [event async for event in Verbs(daemon).pull(name, best=best)]
    return b"".join(base64.b64decode(event["data"]) for event in events[1:])


@with_daemons
async def test_three_daemons_with_heads_of_their_own_and_control_variates(fleet: Daemons) -> None:
    """Real training over real sockets: the bodies that are pulled agree, the heads do not."""
    division = demo.divide(3, 0)
    parts = demo.write_parts(division, fleet.directory)
    artifacts = fleet.directory / "artifacts"
    trainer.build(models.mlp(hidden=16), loss="cross-entropy", optimizer="sgd", out=artifacts)
    daemons = [await fleet.start(f"node{n}", data=parts[n]) for n in range(3)]
    given = {
        "name": "digits",
        "data": "digits",
        "rounds": 4,
        "batch": 16,
        "learning_rate": 0.1,
        "min_members": 3,
        "quorum": 1.0,
        "deadline_s": 30.0,
        "strategy": "scaffold",
        "personal": ["logits.*"],
        "keep_best": True,
    }
    advert = await create_application(daemons[0], artifacts, given)
    manifest = advert.decode_manifest()
    assert manifest.parameters == 64 * 16 + 16
    for daemon in daemons[1:]:
        daemon.overlay.discover(daemon.effects.now)
    await fleet.until(
        lambda: all(
            manifest.app_id in d.learning.applications and d.learning.applications[manifest.app_id].ledger.finished
            for d in daemons
        ),
        "the end",
    )
    for daemon in daemons:
        await fleet.until(lambda daemon=daemon: not daemon.disk._background, "the disk has done what it was told")
    files = [await pull(daemon, "digits") for daemon in daemons]
    for daemon, file in zip(daemons, files, strict=True):
        ledger = daemon.learning.applications[manifest.app_id].ledger
        await fleet.until(lambda ledger=ledger: ledger.best is not None, "the best model is here, too")
        assert ledger.best is not None
        same = ledger.best.model == ledger.model
        assert (await pull(daemon, "digits", best=True) == file) == same
    offsets = {tensor.name: tensor for tensor in trainer.read_manifest(artifacts).parameters}
    for name, alike in (("hidden.weight", True), ("logits.weight", False)):
        tensor = offsets[name]
        assert tensor.inference_offset is not None
        values = [np.frombuffer(file, "<f4", tensor.size, tensor.inference_offset) for file in files]
        assert all((values[0] == other).all() for other in values[1:]) == alike
    records = daemons[0].learning.applications[manifest.app_id].ledger.history.all()
    losses = [means(record.metrics)["loss"] for record in records if record.round in (0, 4)]
    assert losses[1] < 0.7 * losses[0]
