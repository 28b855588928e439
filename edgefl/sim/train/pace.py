"""What slow devices cost under each pace of the forest, on the same devices, data, model and seeds.

A share of the devices trains many times slower than the others; everything else about them is the same. The learning
layer is the one that ships, on an ideal tree (forest.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from random import Random

import numpy as np

from edgefl.datasets import digits
from edgefl.sim.train.curve import Curve, follow
from edgefl.sim.train.forest import start_forest
from edgefl.sim.train.run import UNENDING, Bench
from edgefl.sim.train.traces import Trace, synthetic
from edgefl.sim.train.world import Recipe, simulated_manifest

STEP_S, SPREAD = 1.0, 0.2
"""Seconds of a local step of those who are not slow (lognormal). Five steps are then 5 s: what slow links and messages
take besides is small, and what is compared is the waiting."""

DEADLINE_S = 600.0
LONGEST_S, POINTS = 6000.0, 1200

PACES = ("sync", "quantile:q=0.8", "buffered:goal=0.8")


@dataclass(frozen=True, slots=True)
class PaceRun:
    """What one pace has shown. `seconds`: until the accuracy was reached, None if it never was; `rounds` until then."""

    pace: str
    seconds: float | None
    rounds: int
    accuracy: float
    device_seconds: float


def with_stragglers(devices: int, share: float, slowdown: float, seed: int) -> list[Trace]:
    """Synthetic links, and a speed of which `share` of the devices have 1 / `slowdown`."""
    random = Random(f"speeds {seed}")
    slow = set(Random(f"stragglers {seed}").sample(range(devices), round(share * devices)))
    return [
        replace(
            trace,
            step_s=STEP_S * math.exp(random.gauss(0, SPREAD)) * (slowdown if index in slow else 1.0),
        )
        for index, trace in enumerate(synthetic(devices, seed))
    ]


def compare_paces(
    *,
    devices: int = 50,
    share: float = 0.1,
    slowdown: float = 10.0,
    accuracy: float = 0.9,
    alpha: float = 1.0,
    seed: int = 1,
    paces: tuple[str, ...] = PACES,
) -> list[PaceRun]:
    """Train the shipped digits, split by Dirichlet(`alpha`), under each pace until this accuracy on held-out data."""
    x, y = digits()
    traces = with_stragglers(devices, share, slowdown, seed)
    bench = Bench(traces, x, y, hidden=0, recipe=Recipe(), alpha=alpha, seed=seed)
    return [_run(bench, pace, accuracy, seed) for pace in paces]


def _run(bench: Bench, pace: str, target: float, seed: int) -> PaceRun:
    world = bench.world()
    manifest = simulated_manifest(
        bench.learner, UNENDING, seed, deadline_s=DEADLINE_S, quorum=0.5, pace=pace, strategy="fedavg"
    )
    run = start_forest(world, manifest)
    curve = Curve("forest", pace)

    def measured() -> float:
        return float(np.mean([bench.learner.accuracy(model, bench.test_x, bench.test_y) for model in run.models()]))

    follow(curve, world, run, measured, seconds=LONGEST_S, points=POINTS, target=target)
    return PaceRun(
        pace, curve.cost_at(target, "time_s"), curve.rounds[-1], curve.accuracy[-1], curve.device_seconds[-1]
    )
