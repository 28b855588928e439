"""The demonstration's data and model: who gets which digits, how they train, and how a model is judged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgefl.datasets import digits, models
from edgefl.datasets.partition import dirichlet
from edgefl.trainer import Dataset, build

TEST_SHARE = 0.2
"""Of all digits: never given to any device, only to judge the models."""

ALPHA = 0.3
"""Dirichlet concentration: most devices have seen only a few of the ten digits (the usual "strongly non-IID")."""

MINIMUM_SAMPLES = 10


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one round trains locally; the same for the fleet and for both yardsticks."""

    optimizer: str
    local_epochs: int
    batch: int
    lr: float


RECIPES = {
    "mlp": Recipe("momentum", local_epochs=5, batch=8, lr=0.07),
    "cnn": Recipe("momentum", local_epochs=5, batch=8, lr=0.02),
}
"""Found by trying over ten divisions and initialisations, with 8 and 16 devices: the best that also leaves room on both
sides (the centralised yardstick itself breaks at twice these learning rates)."""


@dataclass(frozen=True, slots=True)
class Division:
    """The digits, divided: one dataset a device, and the test set that none of them has."""

    parts: tuple[Dataset, ...]
    test: Dataset


def divide(nodes: int, seed: int) -> Division:
    """The same division for the same seed. x: float32 [n, 64] in 0..1, y: int64 [n]."""
    x, y = digits()
    chance = np.random.default_rng(seed)
    order = chance.permutation(len(y))
    cut = round(TEST_SHARE * len(y))
    test, rest = order[:cut], order[cut:]
    shares = dirichlet(y[rest], nodes, ALPHA, chance, minimum=MINIMUM_SAMPLES)
    parts = tuple(Dataset(x[rest[share]], y[rest[share]], f"device {n}") for n, share in enumerate(shares))
    return Division(parts, Dataset(x[test], y[test], "test"))


def write_parts(division: Division, directory: Path) -> list[dict[str, str]]:
    """One .npz a device; the data sources to start the daemons with."""
    sources = []
    for number, part in enumerate(division.parts):
        path = directory / f"digits-{number}.npz"
        np.savez(path, x=part.x, y=part.y)
        sources.append({"digits": str(path)})
    return sources


def make_model(model: str, seed: int) -> bytes:
    """The demonstration's model as an ONNX file, freshly initialised from `seed`."""
    made = models.mlp(seed=seed) if model == "mlp" else models.cnn(seed=seed)
    content: bytes = made.SerializeToString()
    return content


def build_artifacts(model: str, seed: int, directory: Path) -> None:
    """Training artifacts of the demonstration's model. Raises EdgeflError."""
    build(make_model(model, seed), loss="cross-entropy", optimizer=RECIPES[model].optimizer, out=directory)


def write_files(model: str, nodes: int, seed: int, directory: Path) -> list[Path]:
    """Everything that the demonstration starts from, to try its steps by hand: a data file for each device, the test
    set, and the model."""
    division = divide(nodes, seed)
    sources = [Path(source["digits"]) for source in write_parts(division, directory)]
    test = directory / "digits-test.npz"
    np.savez(test, x=division.test.x, y=division.test.y)
    file = directory / f"{model}.onnx"
    file.write_bytes(make_model(model, seed))
    return [*sources, test, file]


def accuracy_of_file(onnx_file: Path, test: Dataset) -> float:
    """Share of the test set that a plain ONNX file gets right, run by onnxruntime alone."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(onnx_file), providers=["CPUExecutionProvider"])
    logits = session.run(None, {session.get_inputs()[0].name: test.x})[0]
    return float(np.mean(logits.argmax(axis=1) == test.y))
