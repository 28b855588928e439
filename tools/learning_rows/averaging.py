"""The forest beside plain federated averaging."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgefl.sim.train.forest import ForestRun
from edgefl.sim.train.learner import Images, Labels, Learner, Vector
from learning_rows.report import Report, Settings
from learning_rows.small import pass_time, small_manifest, small_world


class Recorder(Learner):
    """Notes what every device has learned."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.updates: list[tuple[int, Vector]] = []

    def train(self, model: Vector, x: Images, y: Labels, **recipe: Any) -> Vector:
        trained = super().train(model, x, y, **recipe)
        self.updates.append((len(y), trained - model))
        return trained


def measure_averaging(settings: Settings, report: Report) -> None:
    """The forest of all devices beside plain federated averaging, round by round, over trees of all shapes."""
    worst, rounds = 0.0, 0
    for seed in settings.seeds:
        for fan_out in (1, 2, 3, 8, 40):
            world, learner = small_world(40, seed, Recorder(64, 10))
            forest = ForestRun(world, small_manifest(learner, seed), fan_out)
            central = learner.initial(seed).astype(np.float64)
            for number in range(1, 6):
                pass_time(world, lambda forest=forest, number=number: forest.furthest[0] >= number)
                samples, deltas = zip(*learner.updates, strict=True)
                if len(samples) != 40:
                    raise RuntimeError(f"{len(samples)} devices of 40 took part")
                central += np.average(np.array(deltas, np.float64), axis=0, weights=samples)
                learner.updates.clear()
                worst = max(worst, float(np.abs(forest.model() - central).max()))
                rounds += 1
    report.judge(f"forest beside the weighted mean, worst parameter of {rounds} rounds", worst, 1e-6)
