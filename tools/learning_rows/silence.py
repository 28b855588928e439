"""Devices, aggregators and roots that vanish without a word."""

from __future__ import annotations

import math
import statistics

import numpy as np

from edgefl.learning.forest.coordinator import RECOVER_S
from edgefl.learning.forest.gathering import SETTLE_S
from edgefl.learning.forest.replication import REPLICA_TIMEOUT_S
from edgefl.learning.sampled.options import SampledOptions, ack_s
from edgefl.sim.train.curve import Curve, Failure
from edgefl.sim.train.forest import ForestRun
from edgefl.sim.train.learner import Learner
from edgefl.sim.train.run import Bench, load
from edgefl.sim.train.sampled import newest_model, start_sampled
from edgefl.sim.train.traces import synthetic
from edgefl.sim.train.tree import REPAIR_S
from edgefl.sim.train.world import Recipe
from learning_rows.report import NOISE, Report, Settings
from learning_rows.small import DEADLINE_S, pass_time, small_manifest, small_world

HIDDEN = 16
MODEST = SampledOptions(sample=10, success=0.8, by_uplink=False)
MODEST_NODES, FALL_ROUND, FALL_SHARE, MODEST_ROUNDS = 100, 20, 0.8, 120
SOON, LATE = range(41, 61), range(101, 121)
"""Rounds whose mean accuracy is compared: once the fleet runs again, and in the long run. From then on it learns from a
fifth of the images, whatever the protocol."""


def measure_modest(settings: Settings, report: Report) -> None:
    """Four of five devices fall silent in round 20, and their data with them: beside a run without that, and beside a
    server that knows at once who is gone and has lost the same data."""
    x, y = load(settings.data)
    factors, longest = [], []
    gaps: dict[tuple[str, range], list[float]] = {}
    for seed in settings.seeds:
        bench = Bench(synthetic(MODEST_NODES, seed), x, y, hidden=HIDDEN, recipe=Recipe(lr=0.1), alpha=100.0, seed=seed)
        for topology in ("sampled", "fedavg-server"):
            quiet, hit = (
                bench.curve(
                    topology,
                    seconds=3600,
                    points=7200,
                    target=None,
                    options=MODEST,
                    failures=failures,
                    rounds=MODEST_ROUNDS,
                )
                for failures in ((), (Failure(FALL_ROUND, FALL_SHARE),))
            )
            for rounds in (SOON, LATE):
                without, with_ = _accuracy(quiet, rounds), _accuracy(hit, rounds)
                gaps.setdefault((topology, rounds), []).append(without - with_)
                report.say(
                    f"seed {seed}, {topology}, rounds {rounds[0]} to {rounds[-1]}: accuracy {with_:.4f}, "
                    f"without the fall {without:.4f}"
                )
            if topology == "sampled":
                lengths = np.diff([0.0, *hit.round_s])
                before = statistics.median(lengths[5:FALL_ROUND])
                after = lengths[FALL_ROUND : FALL_ROUND + 10]
                later = lengths[FALL_ROUND + 10 :]
                factors.append(float(np.median(later[:10]) / before) if len(later) >= 10 else math.inf)
                longest.append(float(max(after)) if len(after) == 10 else math.inf)
                report.say(
                    f"seed {seed}: rounds of {before:.2f} s before, {', '.join(f'{one:.1f}' for one in after)} s after "
                    f"the fall, then {np.median(later):.2f} s"
                )
    report.judge("80 % silent: median of rounds 11-20 after over before, worst seed", max(factors), 2.0)
    report.say(f"80 % silent: the longest of the ten rounds after: {max(longest):.1f} s")
    report.judge(
        "80 % silent: accuracy without minus with, rounds 41-60, worst seed", max(gaps["sampled", SOON]), NOISE
    )
    for rounds, title in ((SOON, "41-60"), (LATE, "101-120")):
        ours, server = gaps["sampled", rounds], gaps["fedavg-server", rounds]
        more = [own - others for own, others in zip(ours, server, strict=True)]
        report.say(f"rounds {title}: lost by sampled {_listed(ours)}, by the server {_listed(server)}")
        report.judge(f"80 % silent: lost beyond what the data cost, rounds {title}, worst seed", max(more), NOISE)


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


def _accuracy(curve: Curve, rounds: range) -> float:
    """The mean over these rounds."""
    values = [accuracy for accuracy, at in zip(curve.accuracy, curve.rounds, strict=True) if at in rounds]
    return statistics.mean(values) if values else 0.0


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
