"""P2PL: devices that average with neighbours alone, against central training."""

from __future__ import annotations

import math

from edgefl.sim.train import p2pl
from edgefl.sim.train.learner import Images, Labels
from edgefl.sim.train.run import load
from edgefl.sim.train.world import Recipe
from learning_rows.report import Report, Settings

BARS = {None: 0.01, 2: 0.02}
"""Accuracy behind central training, by the number of classes of each device."""


def measure_p2pl(settings: Settings, report: Report) -> None:
    """100 devices that average with neighbours alone, 30 % of the links down, IID and two classes each, against central
    training; and how many rounds one start for all saves."""
    if settings.data is None:
        report.say("needs --data: the shipped digits are 14 for each of 100 devices")
        return
    x, y = load(settings.data)
    central: dict[Recipe, float] = {}
    for classes, bar in BARS.items():
        split = "IID" if classes is None else f"{classes} classes each"
        for graph in p2pl.GRAPHS:
            setting = p2pl.claim(graph, classes)
            if setting.recipe not in central:
                central[setting.recipe] = p2pl.centralised(x, y, setting)
            behind = central[setting.recipe]
            outcome = p2pl.measure(x, y, setting)
            report.say(
                f"{graph}, {split}: devices {outcome.final:.4f}, worst {outcome.worst:.4f}, "
                f"merged {outcome.merged:.4f}, central {behind:.4f}; {setting.rounds} rounds, {outcome.seconds:.0f} s, "
                f"{outcome.bytes / setting.devices / 1e6:.0f} MB a device"
            )
            report.judge(f"{graph}, {split}: behind central training", behind - outcome.final, bar)
    _measure_sync(x, y, report)


def _measure_sync(x: Images, y: Labels, report: Report) -> None:
    """Rounds to 0.9 of the final accuracy, with one start for all and without."""
    setting = p2pl.claim("erdos-renyi", None)
    wanted = 0.9 * p2pl.measure(x, y, setting).final
    with_sync, without = (
        p2pl.measure(x, y, one, every=1, until=wanted).reached(wanted) for one in (setting, p2pl.without_sync(setting))
    )
    report.say(f"rounds to {wanted:.3f}: {with_sync} with one start, {without} without")
    ratio = math.inf if with_sync is None else with_sync / (without or setting.rounds)
    report.judge("rounds to 0.9 of the final accuracy: one start over many", ratio, 0.999)
