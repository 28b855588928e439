"""What a device does with a task: local training as the recipe says, and the strategy's own part before and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgefl.learning.effects import TrainJob, TrainResult
from edgefl.learning.strategies.local import Outcome, local_part
from edgefl.learning.strategies.rates import learning_rate

if TYPE_CHECKING:
    from edgefl.sim.train.learner import Images, Labels, LocalTraining, Vector


@dataclass(frozen=True, slots=True)
class Recipe:
    """How devices train: SGD steps of one local training, batch, rate, momentum, the rate's course."""

    steps: int = 5
    batch: int = 20
    lr: float = 0.1
    momentum: float = 0.0
    schedule: str = "constant"
    rounds: int = 1

    def rate(self, round_: int) -> float:
        """The learning rate of a round: `schedule` as in a manifest, over so many `rounds`."""
        return learning_rate(self.schedule, self.lr, round_, self.rounds)

    @property
    def plain_steps(self) -> float:
        """How many plain gradients a training is made of: with momentum m, the sum of (1 - m^k) / (1 - m)."""
        m = self.momentum
        return sum((1 - m**k) / (1 - m) for k in range(1, self.steps + 1))


class LocalWork:
    """Devices' training under one strategy, over vectors as they travel."""

    def __init__(self, learner: LocalTraining, recipe: Recipe, strategy: str) -> None:
        self.learner, self.recipe = learner, recipe
        self._part = local_part(strategy)

    def train(self, job: TrainJob, model: Vector, x: Images, y: Labels, seed: int) -> TrainResult:
        """Train from `model` as it came, on a device's data."""
        learner, recipe = self.learner, self.recipe
        kept: Vector | None = None if job.kept is None else np.frombuffer(job.kept, "<f4")
        plan = self._part.plan(model, kept)
        loss = learner.loss(plan.weights, x, y) if plan.wants_loss else 0.0
        lr = recipe.rate(job.tag[1])
        trained = learner.train(
            plan.weights,
            x,
            y,
            steps=recipe.steps,
            batch=recipe.batch,
            lr=lr,
            momentum=recipe.momentum,
            seed=seed,
            proximal=plan.proximal,
            shift=plan.shift,
        )
        outcome = Outcome(trained - plan.weights, len(y), recipe.plain_steps, lr, loss)
        report = self._part.report(model, kept, outcome, learner.trained)
        return TrainResult(report.vector, len(y), report.metrics, report.kept)
