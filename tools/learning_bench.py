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

import numpy as np

from edgefl.learning.sampled.options import SampledOptions
from edgefl.sim.train import p2pl
from edgefl.sim.train.curve import Curve, Failure
from edgefl.sim.train.learner import Images, Labels
from edgefl.sim.train.run import Bench, load
from edgefl.sim.train.traces import synthetic
from edgefl.sim.train.world import Recipe

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
        print(f"{'ok  ' if kept else 'FAIL'}  {what:<72}{value:>10.3f} {sign} {bar:g} {unit}".rstrip(), flush=True)
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


CONTESTS = {"plexus-355": Contest(355, 0.5, 0.87), "plexus-1000": Contest(1000, 100.0, 0.87)}
"""As in the paper: 355 devices with data of their own kind each (FEMNIST), 1,000 with the same kind (CIFAR-10)."""

PLEXUS = SampledOptions(sample=13, success=0.8, by_uplink=True)
HIDDEN = 16
BASELINES = {"d-psgd-one-peer": (3600.0, 360), "d-psgd-regular": (3600.0, 360), "gossip": (36_000.0, 300)}
"""Virtual seconds until a baseline is given up, and points of its curve."""

PLATEAU_S = 600.0
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
        curves = {
            name: bench.curve(
                name, seconds=seconds, points=points, target=contest.target, options=PLEXUS, steady=STEADY
            )
            for name, (seconds, points) in BASELINES.items()
        }
        for name in ("sampled", "fedavg-server"):
            curves[name] = bench.curve(name, seconds=PLATEAU_S, points=600, target=None, options=PLEXUS)
        for name, curve in curves.items():
            costs = {column: curve.cost_at(contest.target, column, STEADY) for column in COSTS}
            report.say(
                f"seed {seed}, {name}: {curve.rounds[-1]} rounds, best {max(curve.accuracy):.4f}; to "
                f"{contest.target}: {_costs(costs)}"
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
MODEST_NODES, FALL_ROUND, FALL_SHARE, MODEST_ROUNDS = 100, 20, 0.8, 120


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


Row = Callable[[Settings, Report], None]


def _contest(name: str) -> Row:
    def measure(settings: Settings, report: Report) -> None:
        measure_plexus(CONTESTS[name], settings, report)

    measure.__doc__ = measure_plexus.__doc__
    return measure


def measure_p2pl(settings: Settings, report: Report) -> None:
    """100 devices that average with neighbours alone, 30 % of the links down, IID and two classes each, against central
    training; and how many rounds one start for all saves."""
    if settings.data is None:
        report.say("needs --data: the shipped digits are 14 for each of 100 devices")
        return
    x, y = load(settings.data)
    for classes, bar in ((None, 0.01), (2, 0.02)):
        split = "IID" if classes is None else f"{classes} classes each"
        central: dict[Recipe, float] = {}
        for graph in p2pl.GRAPHS:
            setting = p2pl.claim(graph, classes)
            if setting.recipe not in central:
                central[setting.recipe] = p2pl.centralised(x, y, setting)
            outcome = p2pl.measure(x, y, setting)
            report.say(
                f"{graph}, {split}: devices {outcome.final:.4f}, worst {outcome.worst:.4f}, merged {outcome.merged:.4f}, "
                f"central {central[setting.recipe]:.4f}; {setting.rounds} rounds, {outcome.seconds:.0f} s, "
                f"{outcome.bytes / setting.devices / 1e6:.0f} MB a device"
            )
            report.judge(f"{graph}, {split}: behind central training", central[setting.recipe] - outcome.final, bar)
    _measure_sync(x, y, report)


def _measure_sync(x: Images, y: Labels, report: Report) -> None:
    """Rounds to 0.9 of the final accuracy, with one start for all and without."""
    setting = p2pl.claim("erdos-renyi", None)
    wanted = 0.9 * p2pl.measure(x, y, setting).final
    rounds = [
        p2pl.measure(x, y, one, every=1, until=wanted).reached(wanted) for one in (setting, p2pl.without_sync(setting))
    ]
    report.say(f"rounds to {wanted:.3f}: {rounds[0]} with one start, {rounds[1]} without")
    ratio = math.inf if rounds[0] is None else rounds[0] / (rounds[1] or setting.rounds)
    report.judge("rounds to 0.9 of the final accuracy, with one start against without", ratio, 0.999)


ROWS: dict[str, Row] = {
    "plexus-355": _contest("plexus-355"),
    "plexus-1000": _contest("plexus-1000"),
    "modest": measure_modest,
    "p2pl": measure_p2pl,
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
