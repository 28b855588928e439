"""What issue-sized claims about learning are worth, measured under virtual time with `edgefl sim train`'s parts: the
protocol code that ships, real gradients, synthetic devices. tools/bench learning [--quick] [--data DIR] [ROW …]

Each row prints its figures beside its bar; the exit code is 1 when one was not met. Simulated, so the same seed gives
the same figures on every machine.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgefl.datasets import digits
from edgefl.learning.forest.coordinator import RECOVER_S, REPLICA_TIMEOUT_S, SETTLE_S
from edgefl.learning.sampled.options import SampledOptions, ack_s
from edgefl.sim.train.curve import Curve, Failure
from edgefl.sim.train.forest import ForestRun
from edgefl.sim.train.learner import Images, Labels, Learner, Vector
from edgefl.sim.train.run import Bench, load
from edgefl.sim.train.sampled import newest_model, start_sampled
from edgefl.sim.train.traces import synthetic
from edgefl.sim.train.tree import REPAIR_S
from edgefl.sim.train.world import Recipe, World, simulated_manifest
from edgefl.wire.application import Manifest

AnyLearner = TypeVar("AnyLearner", bound=Learner)

STEADY = 5
"""An accuracy counts as reached when the median of so many points has reached it: single points are lucky."""

NOISE = 0.01
"""What two runs of the same thing may differ in accuracy: the bars' own tolerance."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What was asked for on the command line."""

    data: Path | None
    quick: bool

    @property
    def seeds(self) -> range:
        return range(1, 2) if self.quick else range(1, 4)


@dataclass(slots=True)
class Report:
    """Rows as they come in."""

    failed: list[str] = field(default_factory=list)

    def judge(self, what: str, value: float, bar: float, *, below: bool = True, unit: str = "") -> None:
        """Print one figure beside its bar."""
        kept = value <= bar if below else value >= bar
        sign = "≤" if below else "≥"
        print(f"{'ok  ' if kept else 'FAIL'}  {what:<72}{value:>10.4g} {sign} {bar:g} {unit}".rstrip(), flush=True)
        if not kept:
            self.failed.append(what)

    def say(self, text: str) -> None:
        print(f"      {text}", flush=True)


@dataclass(frozen=True, slots=True)
class Contest:
    """Plexus' comparison for one size of fleet: how the data lie, and the accuracy at which costs are compared."""

    nodes: int
    alpha: float
    target: float


CONTESTS = {"plexus-355": Contest(355, 0.5, 0.85), "plexus-1000": Contest(1000, 100.0, 0.85)}
"""As in the paper: 355 devices with data of their own kind each (FEMNIST), 1,000 with the same kind (CIFAR-10)."""

PLEXUS = SampledOptions(sample=13, success=0.8, by_uplink=True)
HIDDEN = 16
BASELINES = ("d-psgd-one-peer", "d-psgd-regular", "gossip")
RUNS = {
    "sampled": (300.0, 300, False),
    "fedavg-server": (300.0, 300, False),
    "d-psgd-one-peer": (3600.0, 720, True),
    "d-psgd-regular": (3600.0, 720, True),
    "gossip": (36_000.0, 600, True),
}
"""Virtual seconds until a run is given up, points of its curve, and whether it ends at the accuracy in question."""

COSTS = {"time_s": ("time to accuracy", 1.4), "bytes": ("bytes", 15.8), "device_seconds": ("device-seconds", 30.5)}
"""What is compared, and how many times better than the best baseline the bar wants it."""


def measure_plexus(contest: Contest, settings: Settings, report: Report) -> None:
    """Sampled training beside D-PSGD, gossip and a free server, at equal accuracy."""
    x, y = load(settings.data)
    ratios: dict[str, list[float]] = {name: [] for name in COSTS}
    over_server: dict[str, list[float]] = {name: [] for name in COSTS}
    gaps = []
    for seed in settings.seeds:
        bench = Bench(
            synthetic(contest.nodes, seed),
            x,
            y,
            hidden=HIDDEN,
            recipe=Recipe(steps=5, batch=20, lr=0.1),
            alpha=contest.alpha,
            seed=seed,
        )
        curves = {}
        for name, (seconds, points, target) in RUNS.items():
            began = time.perf_counter()
            curves[name] = curve = bench.curve(
                name,
                seconds=seconds,
                points=points,
                target=contest.target if target else None,
                options=PLEXUS,
                steady=STEADY,
            )
            costs = {column: curve.cost_at(contest.target, column, STEADY) for column in COSTS}
            report.say(
                f"seed {seed}, {name}: {curve.rounds[-1]} rounds, best {max(curve.accuracy):.4f}; to "
                f"{contest.target}: {_costs(costs)} ({time.perf_counter() - began:.0f} s of this machine)"
            )
        ours, server = curves["sampled"], curves["fedavg-server"]
        for column in COSTS:
            own = ours.cost_at(contest.target, column, STEADY) or math.inf
            others = [curves[name].cost_at(contest.target, column, STEADY) for name in BASELINES]
            ratios[column].append(min(other if other is not None else math.inf for other in others) / own)
            over_server[column].append(own / (server.cost_at(contest.target, column, STEADY) or math.inf))
        gaps.append(_plateau(server) - _plateau(ours))
    title = f"{contest.nodes} devices"
    for column, (what, bar) in COSTS.items():
        report.judge(f"{title}, {what}: best baseline over sampled, worst seed", min(ratios[column]), bar, below=False)
    report.judge(f"{title}, accuracy: free server minus sampled, worst seed", max(gaps), NOISE)
    for column, (what, _) in COSTS.items():
        report.judge(f"{title}, {what}: sampled over free server, median", statistics.median(over_server[column]), 1.1)


def _costs(costs: dict[str, float | None]) -> str:
    if costs["time_s"] is None or costs["bytes"] is None or costs["device_seconds"] is None:
        return "never"
    return f"{costs['time_s']:.0f} s, {costs['bytes'] / 1e6:.0f} MB, {costs['device_seconds']:.0f} device-seconds"


def _plateau(curve: Curve) -> float:
    """The mean accuracy of the last sixth."""
    return statistics.mean(curve.accuracy[-len(curve.accuracy) // 6 :])


MODEST = SampledOptions(sample=10, success=0.8, by_uplink=False)
MODEST_NODES, FALL_ROUND, FALL_SHARE, MODEST_ROUNDS = 100, 20, 0.8, 60


def measure_modest(settings: Settings, report: Report) -> None:
    """Four of five devices fall silent in round 20."""
    x, y = load(settings.data)
    factors, gaps, longest = [], [], []
    for seed in settings.seeds:
        bench = Bench(synthetic(MODEST_NODES, seed), x, y, hidden=HIDDEN, recipe=Recipe(lr=0.1), alpha=100.0, seed=seed)
        quiet, hit = (
            bench.curve(
                "sampled",
                seconds=3600,
                points=7200,
                target=None,
                options=MODEST,
                failures=failures,
                rounds=MODEST_ROUNDS,
            )
            for failures in ((), (Failure(FALL_ROUND, FALL_SHARE),))
        )
        lengths = np.diff([0.0, *hit.round_s])
        before = statistics.median(lengths[5:FALL_ROUND])
        after = lengths[FALL_ROUND : FALL_ROUND + 10]
        later = lengths[FALL_ROUND + 10 :]
        factors.append(float(np.median(later[:10]) / before) if len(later) >= 10 else math.inf)
        longest.append(float(max(after)) if len(after) == 10 else math.inf)
        gaps.append(_late(quiet) - _late(hit))
        report.say(
            f"seed {seed}: rounds of {before:.2f} s before, {', '.join(f'{one:.1f}' for one in after)} s after the "
            f"fall, then {np.median(later):.2f} s; accuracy {_late(hit):.4f}, without the fall {_late(quiet):.4f}"
        )
    report.judge("80 % silent: median of rounds 11-20 after over before, worst seed", max(factors), 2.0)
    report.judge("80 % silent: accuracy without minus with, worst seed", max(gaps), NOISE)
    report.say(f"80 % silent: the longest of the ten rounds after: {max(longest):.1f} s")


def _late(curve: Curve) -> float:
    """The mean accuracy over the last 20 rounds."""
    last = [
        accuracy for accuracy, rounds in zip(curve.accuracy, curve.rounds, strict=True) if rounds > MODEST_ROUNDS - 20
    ]
    return statistics.mean(last) if last else 0.0


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


MOMENTS = 24


def measure_silence(settings: Settings, report: Report) -> None:
    """An aggregator, or the root, vanishes without a word: at every point of a round."""
    moments = MOMENTS // 4 if settings.quick else MOMENTS
    for victim in ("root", "aggregator"):
        delays, bounds = zip(
            *(forest_delay(victim, seed, moment / moments) for seed in settings.seeds for moment in range(moments)),
            strict=True,
        )
        report.say(f"forest: the {victim} vanishes, the next round is done {max(delays):.1f} s later at the latest")
        report.judge(f"forest, {victim}: longest delay", max(delays), min(bounds), unit="s")
    delays, bounds = zip(
        *(sampled_delay(seed, moment / moments) for seed in settings.seeds for moment in range(moments)), strict=True
    )
    report.say(f"sampled: the aggregator vanishes, the next two rounds take {max(delays):.1f} s at the most")
    shares = [delay / bound for delay, bound in zip(delays, bounds, strict=True)]
    report.judge("sampled, aggregator: delay over its bound, worst", max(shares), 1.0)


def forest_delay(victim: str, seed: int, share: float) -> tuple[float, float]:
    """(seconds to the next model, their bound) after the victim vanished at this share of a round."""
    world, learner = small_world(40, seed, Learner(64, 10))
    forest = ForestRun(world, small_manifest(learner, seed))
    pass_time(world, lambda: forest.furthest[0] >= 2)
    began = world.clock.now
    pass_time(world, lambda: forest.furthest[0] >= 3)
    length = world.clock.now - began
    world.clock.run(world.clock.now + share * length)
    tree = forest.tree
    inner = [child for child in tree.children[tree.root] if tree.children[child]]
    device = world.devices[tree.root if victim == "root" else inner[0]]
    device.alive = False
    forest.on_lost([device])
    before, began = forest.furthest[0], world.clock.now
    pass_time(world, lambda: forest.furthest[0] > before)
    return world.clock.now - began, DEADLINE_S + REPAIR_S + RECOVER_S + SETTLE_S + REPLICA_TIMEOUT_S + length


def sampled_delay(seed: int, share: float) -> tuple[float, float]:
    """The same for two models, after the aggregator of a sample of 6 vanished."""
    world, learner = small_world(30, seed, Learner(64, 10))
    machines = start_sampled(world, small_manifest(learner, seed), SampledOptions(sample=6))

    def best() -> int:
        return newest_model(world, machines)[0]

    pass_time(world, lambda: best() >= 10)
    pass_time(world, lambda: any(machine.session is not None for machine in machines))
    victim = next(index for index, machine in enumerate(machines) if machine.session is not None)
    world.clock.run(world.clock.now + 2 * share)  # from the first offer, over the transfers, to the next sample
    world.devices[victim].alive = False
    patience_s = max(machine.patience_s for machine in machines if machine.history.tail(1))
    before, began = best(), world.clock.now
    pass_time(world, lambda: best() >= before + 2)
    return world.clock.now - began, 2 * ack_s(patience_s) + patience_s


def small_world(nodes: int, seed: int, learner: AnyLearner) -> tuple[World, AnyLearner]:
    """Devices that share the digits evenly."""
    x, y = digits()
    world = World(synthetic(nodes, seed), learner, Recipe(lr=0.3), seed)
    order = np.random.default_rng(seed).permutation(len(y))
    for part, device in zip(np.array_split(order, nodes), world.devices, strict=True):
        device.x, device.y = x[part], y[part]
    return world, learner


DEADLINE_S = 60.0


def small_manifest(learner: Learner, seed: int) -> Manifest:
    return simulated_manifest(learner, 1_000_000, seed, deadline_s=DEADLINE_S)


def pass_time(world: World, until: Callable[[], bool], limit_s: float = 3600.0) -> None:
    """Let time pass until the condition holds. Raises RuntimeError when it does not within an hour."""
    end = world.clock.now + limit_s
    while not until():
        if world.clock.now >= end:
            raise RuntimeError("a total stall")
        world.clock.run(world.clock.now + 0.05)


Row = Callable[[Settings, Report], None]


def _contest(name: str) -> Row:
    def measure(settings: Settings, report: Report) -> None:
        measure_plexus(CONTESTS[name], settings, report)

    measure.__doc__ = measure_plexus.__doc__
    return measure


ROWS: dict[str, Row] = {
    "plexus-355": _contest("plexus-355"),
    "plexus-1000": _contest("plexus-1000"),
    "modest": measure_modest,
    "averaging": measure_averaging,
    "silence": measure_silence,
}
"""A row is a function of (Settings, Report) that judges its figures; add others here."""


def run(names: Iterable[str], settings: Settings) -> Report:
    report = Report()
    for name in names:
        began = time.perf_counter()
        print(f"{name}: {ROWS[name].__doc__}", flush=True)
        ROWS[name](settings, report)
        report.say(f"({time.perf_counter() - began:.0f} s)")
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], help="which rows; all without it")
    parser.add_argument("--quick", action="store_true", help="one seed instead of three")
    parser.add_argument("--data", type=Path, help="a directory with MNIST's 10,000 test images; the shipped digits")
    options = parser.parse_args()
    report = run(options.rows or ROWS, Settings(options.data, options.quick))
    raise SystemExit(bool(report.failed))


if __name__ == "__main__":
    main()
