"""What encodings of updates save, and what they cost in accuracy: the shipped overlay and learning code on 16 simulated
devices in their trees, with real models trained on real images by ONNX Runtime.

EDGEFL_MNIST names a directory with t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz (the 10,000 images of MNIST,
8,000 to train on, 2,000 to judge by): a convolutional network of 20,490 parameters. Without it, the digits that edgefl
ships: the demonstration's network of 5,930. Images are divided between the devices with a Dirichlet distribution
(alpha 0.5), so that most devices have seen few of the ten digits.

Bytes are those of UpdateChunk, header and payload, on every link of the tree.
"""

from __future__ import annotations

import gzip
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from edgefl.datasets import digits, models
from edgefl.datasets.partition import dirichlet
from edgefl.learning.effects import Prepared, TrainJob, TrainResult
from edgefl.learning.metrics import means
from edgefl.sim import World
from edgefl.sim.training import LearningDevice, Transfers, make_application
from edgefl.trainer import Dataset, LocalSpec, Session, build, train_local
from edgefl.wire import Message, encode
from edgefl.wire.application import Manifest
from edgefl.wire.learning import Metric, RoundKind, UpdateChunk

DEVICES, ALPHA = 16, 0.5
SEEDS = (0, 1, 2)

LIMITS = {  # encoding: (share of float32's bytes, accuracy that it may cost); None: measured, not judged
    "fp16": (0.51, 0.005),
    "bf16": (0.51, 0.005),
    "int8": (0.27, 0.005),
    "int4": (0.15, 0.01),
    "topk:0.01": (0.03, 0.02),
    "topk:0.01+zstd": (0.03, 0.02),
    "topk:0.05": None,
    "randk:0.05": None,
    "lowrank:8": None,
}


@dataclass(frozen=True)
class Task:
    """What is trained: artifacts, one dataset per device, and the test set."""

    session: Session
    initial: bytes
    parts: tuple[Dataset, ...]
    test: Dataset
    rounds: int
    spec: LocalSpec

    def accuracy(self, model: bytes) -> float:
        self.session.load_vector(np.frombuffer(model, "<f4"))
        return float(self.session.evaluate({"x": self.test.x, "target": self.test.y})["accuracy"])


def load_task(place: Path, seed: int) -> Task:
    """The images, divided; the network, made trainable."""
    source = os.environ.get("EDGEFL_MNIST")
    if source:
        x, y = _mnist(Path(source))
        network, rounds, spec = models.cnn(side=28, seed=seed), 40, LocalSpec(1, 16, 0.05)
    else:
        x, y = digits()
        network, rounds, spec = models.cnn(seed=seed), 60, LocalSpec(2, 8, 0.05)
    build(network.SerializeToString(), loss="cross-entropy", optimizer="sgd", out=place)
    chance = np.random.default_rng(seed)
    order = chance.permutation(len(y))
    cut = len(y) // 5
    test, rest = order[:cut], order[cut:]
    shares = dirichlet(y[rest], DEVICES, ALPHA, chance, minimum=10)
    parts = tuple(Dataset(x[rest[share]], y[rest[share]], f"device {n}") for n, share in enumerate(shares))
    session = Session(place)
    return Task(session, session.vector().tobytes(), parts, Dataset(x[test], y[test], "test"), rounds, spec)


def _mnist(place: Path) -> tuple[np.ndarray, np.ndarray]:
    with (
        gzip.open(place / "t10k-images-idx3-ubyte.gz") as images,
        gzip.open(place / "t10k-labels-idx1-ubyte.gz") as labels,
    ):
        x = np.frombuffer(images.read(), np.uint8, offset=16).reshape(-1, 784).astype(np.float32) / 255
        return x, np.frombuffer(labels.read(), np.uint8, offset=8).astype(np.int64)


class Learner(LearningDevice):
    """A simulated device that trains a real model on its own images."""

    task: Task
    number: int
    sent_bytes = 0

    def prepare(self, app: int, manifest: Manifest, sources: Any, *, observer: bool) -> None:
        self._later(0.5, self.learning.on_prepared, app, Prepared(self._hold(self.task.initial)))

    def train(self, app: int, job: TrainJob) -> None:
        delta, samples, metrics = None, 0, []
        if job.kind is RoundKind.TRAIN:
            session, data = self.task.session, self.task.parts[self.number]
            session.load_vector(np.frombuffer(self._blobs[job.model.id], "<f4"))
            result = train_local(session, data, self.task.spec, seed=job.seed)
            delta, samples = result.delta, result.samples
            metrics = [Metric("train_loss", result.loss * samples, float(samples))]
        self._later(1.0, self.learning.on_trained, app, job.tag, TrainResult(delta, samples, tuple(metrics)))

    def send_bulk(self, app: int, to: Any, message: Message, data: Any) -> None:
        if isinstance(message, UpdateChunk):
            self.sent_bytes += len(encode(message)) + len(data)
        super().send_bulk(app, to, message, data)


@dataclass(frozen=True)
class Result:
    accuracy: float
    sent_bytes: int
    error: float
    requantising: float
    seconds: float


def train(task: Task, compress: str, seed: int) -> Result:
    """One application from the first round to the last, under one encoding."""
    began = time.perf_counter()
    learners: dict[int, Learner] = {}

    def equip(member: Any) -> list[Any]:
        learner = Learner(member, learners, Transfers())  # type: ignore[arg-type]
        learner.task, learner.number = task, len(learners) - 1
        learner.data.add("images")
        return [learner]

    world = World(devices=DEVICES, seed=seed, equip=equip)
    world.grow(DEVICES, 20.0)
    world.run(30.0)
    manifest = make_application("bench", "images", rounds=task.rounds, min_members=DEVICES, quorum=1.0, seed=seed)
    manifest = replace(manifest, parameters=len(task.initial) // 4, compress=compress)
    creator = next(iter(learners.values()))
    creator.create(manifest, world.clock.now)

    def finished() -> bool:
        apps = [learner.learning.applications.get(manifest.app_id) for learner in learners.values()]
        return all(app is not None and app.ledger.finished for app in apps)

    for _ in range(200):
        world.run(20.0)
        if finished():
            break
    else:
        raise SystemExit(f"{compress}: not finished after {world.clock.now} virtual seconds")
    ledger = creator.learning.applications[manifest.app_id].ledger
    assert ledger.model is not None
    rows = [means(record.metrics) for record in ledger.history.all()]

    def typical(name: str) -> float:
        return mean([row[name] for row in rows if name in row] or [0.0])

    return Result(
        task.accuracy(creator._blobs[ledger.model.id]),
        sum(learner.sent_bytes for learner in learners.values()),
        typical("train_encoding_error"),
        typical("train_requantising_error"),
        time.perf_counter() - began,
    )


def measure(judge: Callable[..., None]) -> None:
    """Bytes and accuracy of every encoding against float32, over seeds."""
    found: dict[str, list[Result]] = {name: [] for name in ("none", *LIMITS)}
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as place:
            task = load_task(Path(place) / "artifacts", seed)
            for name, results in found.items():
                result = train(task, name, seed)
                results.append(result)
                share = result.sent_bytes / found["none"][-1].sent_bytes
                print(
                    f"      seed {seed} {name:<15} accuracy {result.accuracy:.4f}  bytes {share:.4f}  error "
                    f"{result.error:.5f}  again {result.requantising:.5f}  ({result.seconds:.0f} s)",
                    flush=True,
                )
    exact = found.pop("none")
    for name, results in found.items():
        share = mean(r.sent_bytes / e.sent_bytes for r, e in zip(results, exact, strict=True))
        cost = mean(e.accuracy - r.accuracy for r, e in zip(results, exact, strict=True))
        limits = LIMITS[name]
        if limits is None:
            print(f"      {name}: {share:.4f} of the bytes, costs {cost:.4f} of accuracy")
        else:
            judge(f"encodings, {name}: bytes over float32", share, limits[0])
            judge(f"encodings, {name}: accuracy lost, mean of {len(SEEDS)}", cost, limits[1])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        SEEDS = (int(sys.argv[1]),)
        LIMITS = {name: LIMITS.get(name) for name in sys.argv[2:]} or LIMITS
    measure(lambda what, value, limit, **_: print(f"{what}: {value:.4f} (limit {limit:g})", flush=True))
