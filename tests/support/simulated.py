"""A fleet of real daemons again, in the simulator: the same data, model, trainer and recipe under virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgefl.demo import digits
from edgefl.sim.train.traces import synthetic
from edgefl.sim.train.world import Recipe, World
from edgefl.trainer import Dataset, LocalSpec, Session, train_local
from support.real_fleet import Task


class Epochs:
    """Local training of the simulator by the trainer that ships, in epochs as the daemons do it."""

    def __init__(self, artifacts: Path) -> None:
        self._session = Session(artifacts, threads=1)
        self._start = self._session.vector()
        self.parameters: int = self._session.manifest.vector_size
        self.trained: int = self.parameters

    def initial(self, seed: int) -> Any:
        return self._start.copy()

    def accuracy(self, model: Any, x: Any, y: Any) -> float:
        self._session.load_vector(model)
        return self._session.evaluate({self._session.manifest.inputs[0].name: x, "target": y})["accuracy"]

    def loss(self, model: Any, x: Any, y: Any) -> float:
        self._session.load_vector(model)
        return self._session.evaluate({self._session.manifest.inputs[0].name: x, "target": y})["loss"]

    def gradients(self, steps: int, momentum: float) -> float:
        return float(steps)  # asked for by FedNova alone, which no task here uses

    def train(self, model: Any, x: Any, y: Any, *, seed: int, **recipe: Any) -> Any:
        wanted = digits.RECIPES["mlp"]
        self._session.load_vector(model)
        train_local(
            self._session, Dataset(x, y, "part"), LocalSpec(wanted.local_epochs, wanted.batch, wanted.lr), seed=seed
        )
        return self._session.vector()


def simulated_world(task: Task, held_back: float) -> tuple[Epochs, World]:
    """Devices with the task's shares of the digits, less what they hold back."""
    learner = Epochs(task.directory / "artifacts")
    world = World(synthetic(task.fleet.nodes, 1), learner, Recipe(), 1)
    for part, device in zip(task.division.parts, world.devices, strict=True):
        kept, _ = part.split(held_back, 0)
        device.x, device.y = kept.x, kept.y
    return learner, world
