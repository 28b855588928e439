"""P2PL: devices that average with neighbours alone, against central training."""

from __future__ import annotations

import math

from edgefl.sim.train import p2pl
from edgefl.sim.train.learner import Images, Labels
from edgefl.sim.train.run import load
from learning_rows.report import Report, Settings

BARS = {None: 0.01, 2: 0.02}
"""Accuracy behind central training, by the number of classes of each device."""


def measure_p2pl(settings: Settings, report: Report) -> None:
    """100 devices that average with neighbours alone, 30 % of the links down, IID and two classes each, against central
    training at its best rate; and how many rounds one start for all saves."""
    if settings.data is None:
        report.say("needs --data: the shipped digits are 14 for each of 100 devices")
        return
    x, y = load(settings.data)
    central = {seed: p2pl.centralised(x, y, p2pl.claim("ring", None, seed=seed)) for seed in settings.seeds}
    report.say(f"central training: {', '.join(f'seed {seed} {score:.4f}' for seed, score in central.items())}")
    ratios = []
    for classes, bar in BARS.items():
        split = "IID" if classes is None else f"{classes} classes each"
        for graph in p2pl.GRAPHS:
            behind, merged = [], []
            for seed in settings.seeds:
                setting = p2pl.claim(graph, classes, seed=seed)
                outcome = p2pl.measure(x, y, setting)
                behind.append(central[seed] - outcome.final)
                merged.append(central[seed] - outcome.merged)
                report.say(
                    f"{graph}, {split}, seed {seed}: devices {outcome.final:.4f}, worst {outcome.worst:.4f}, merged "
                    f"{outcome.merged:.4f}; {setting.rounds} rounds, {outcome.seconds:.0f} s, "
                    f"{outcome.bytes / setting.devices / 1e6:.0f} MB a device"
                )
                if (graph, classes) == ("erdos-renyi", None):
                    ratios.append(_sync_ratio(x, y, setting, outcome.final, report))
            report.judge(f"{graph}, {split}: behind central training, worst seed", max(behind), bar)
            report.judge(f"{graph}, {split}: the same after one merge of all, worst seed", max(merged), bar)
    report.judge("rounds to 0.9 of the final accuracy: one start over many, worst seed", max(ratios), 0.999)


def _sync_ratio(x: Images, y: Labels, setting: p2pl.Setting, final: float, report: Report) -> float:
    """Rounds to 0.9 of the final accuracy, with one start for all over without."""
    wanted = 0.9 * final
    with_sync, without = (
        p2pl.measure(x, y, one, every=1, until=wanted).reached(wanted) for one in (setting, p2pl.without_sync(setting))
    )
    report.say(f"seed {setting.seed}: rounds to {wanted:.3f}: {with_sync} with one start, {without} without")
    return math.inf if with_sync is None else with_sync / (without or setting.rounds)
