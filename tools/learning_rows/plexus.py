"""Sampled training beside D-PSGD and gossip, at equal accuracy, and beside a free server, at equal costs: the Plexus
paper's comparisons."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass

from edgefl.learning.sampled.options import SampledOptions
from edgefl.sim.train.curve import Curve
from edgefl.sim.train.learner import Images, Labels
from edgefl.sim.train.run import Bench, load
from edgefl.sim.train.traces import synthetic
from edgefl.sim.train.world import Recipe
from learning_rows.report import NOISE, Report, Settings

STEADY = 5
"""An accuracy counts as reached when the median of so many points has reached it: single points are lucky."""


@dataclass(frozen=True, slots=True)
class Contest:
    """Plexus' comparison for one size of fleet: how the data lie, and the accuracy at which costs are compared."""

    nodes: int
    alpha: float
    target: float


CONTESTS = {"355": Contest(355, 0.5, 0.85), "1000": Contest(1000, 100.0, 0.85)}
"""As in the paper: 355 devices with data of their own kind each (FEMNIST), 1,000 with the same kind (CIFAR-10)."""

PLEXUS = SampledOptions(sample=13, success=0.8, by_uplink=True)
HIDDEN = 16
BASELINES = ("d-psgd-one-peer", "d-psgd-regular", "gossip")
RUNS = {
    "sampled": (300.0, 300),
    "d-psgd-one-peer": (3600.0, 720),
    "d-psgd-regular": (3600.0, 720),
    "gossip": (36_000.0, 600),
}
"""Virtual seconds until a run is given up, and points of its curve; it ends at the accuracy in question."""

SERVER_S, SERVER_POINTS, SERVER_STEADY = 120.0, 480, 20
"""Beside a server: virtual seconds, points, and so many points, 5 s, for an accuracy to count as reached."""

SERVER_TIME = 1.1
"""No worse than a free server: a tenth is what two runs of one scheme differ by."""

COSTS = {"time_s": ("time to accuracy", 1.4), "bytes": ("bytes", 15.8), "device_seconds": ("device-seconds", 30.5)}
"""What is compared, and how many times better than the best baseline the bar wants it."""


def measure_plexus(contest: Contest, settings: Settings, report: Report) -> None:
    """Sampled training beside D-PSGD and gossip, at equal accuracy."""
    x, y = load(settings.data)
    ratios: dict[str, list[float]] = {name: [] for name in COSTS}
    for seed in settings.seeds:
        bench = _bench(contest, x, y, seed)
        curves = {}
        for name, (seconds, points) in RUNS.items():
            began = time.perf_counter()
            curves[name] = curve = bench.curve(
                name, seconds=seconds, points=points, target=contest.target, options=PLEXUS, steady=STEADY
            )
            costs = {column: curve.cost_at(contest.target, column, STEADY) for column in COSTS}
            report.say(
                f"seed {seed}, {name}: {curve.rounds[-1]} rounds, best {max(curve.accuracy):.4f}; to "
                f"{contest.target}: {_costs(costs)} ({time.perf_counter() - began:.0f} s of this machine)"
            )
        for column in COSTS:
            own = curves["sampled"].cost_at(contest.target, column, STEADY) or math.inf
            others = [curves[name].cost_at(contest.target, column, STEADY) for name in BASELINES]
            ratios[column].append(min(other if other is not None else math.inf for other in others) / own)
    title = f"{contest.nodes} devices"
    for column, (what, bar) in COSTS.items():
        report.judge(f"{title}, {what}: best baseline over sampled, worst seed", min(ratios[column]), bar, below=False)


def measure_server(contest: Contest, settings: Settings, report: Report) -> None:
    """Sampled training beside a server with a link and a processor without limit, over the same time."""
    x, y = load(settings.data)
    gaps: dict[str, list[float]] = {name: [] for name in COSTS}
    rounds, times = [], []
    for seed in settings.seeds:
        bench = _bench(contest, x, y, seed)
        ours, server = (
            bench.curve(name, seconds=SERVER_S, points=SERVER_POINTS, target=None, options=PLEXUS)
            for name in ("sampled", "fedavg-server")
        )
        for curve in (ours, server):
            costs = {column: curve.cost_at(contest.target, column, SERVER_STEADY) for column in COSTS}
            report.say(
                f"seed {seed}, {curve.topology}: rounds of {SERVER_S / curve.rounds[-1]:.3f} s; to {contest.target}: "
                f"{_costs(costs)}"
            )
        rounds.append(server.rounds[-1] / ours.rounds[-1])
        own_s, server_s = (curve.cost_at(contest.target, "time_s", SERVER_STEADY) for curve in (ours, server))
        times.append((own_s or math.inf) / (server_s or math.inf))
        for column in COSTS:
            limit = min(getattr(ours, column)[-1], getattr(server, column)[-1])
            gaps[column].append(_accuracy_at(server, column, limit) - _accuracy_at(ours, column, limit))
    title = f"{contest.nodes} devices"
    report.judge(f"{title}, a round over one of the free server, worst seed", max(rounds), SERVER_TIME)
    report.judge(f"{title}, time to accuracy over the free server's, worst seed", max(times), SERVER_TIME)
    for column, equal in (("time_s", "time"), ("bytes", "bytes"), ("device_seconds", "device-seconds")):
        report.judge(
            f"{title}, equal {equal}: accuracy of the free server minus sampled, worst", max(gaps[column]), NOISE
        )


def _bench(contest: Contest, x: Images, y: Labels, seed: int) -> Bench:
    recipe = Recipe(steps=5, batch=20, lr=0.1)
    traces = synthetic(contest.nodes, seed)
    return Bench(traces, x, y, hidden=HIDDEN, recipe=recipe, alpha=contest.alpha, seed=seed)


def _costs(costs: dict[str, float | None]) -> str:
    if costs["time_s"] is None or costs["bytes"] is None or costs["device_seconds"] is None:
        return "never"
    return f"{costs['time_s']:.0f} s, {costs['bytes'] / 1e6:.0f} MB, {costs['device_seconds']:.0f} device-seconds"


def _accuracy_at(curve: Curve, column: str, cost: float) -> float:
    """The mean accuracy over the last sixth before this cost."""
    points = zip(curve.accuracy, getattr(curve, column), strict=True)
    return statistics.mean(accuracy for accuracy, so_far in points if cost * 5 / 6 < so_far <= cost)
