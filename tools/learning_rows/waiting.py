"""Not waiting for the slowest: paces of the forest where one device of ten is ten times slower."""

from __future__ import annotations

import math

from edgefl.sim.train.pace import compare_paces
from learning_rows.report import Report, Settings

BAR = 3.0
SHARE, SLOWDOWN, ACCURACY = 0.1, 10.0, 0.9


def measure_waiting(settings: Settings, report: Report) -> None:
    """10 % of 50 devices are 10 times slower: time to the same accuracy, synchronous over buffered (FedBuff)."""
    ratios = []
    for seed in settings.seeds:
        runs = compare_paces(share=SHARE, slowdown=SLOWDOWN, accuracy=ACCURACY, seed=seed)
        for run in runs:
            reached = "never" if run.seconds is None else f"{run.seconds:.0f} s, {run.rounds} rounds"
            report.say(f"seed {seed}, {run.pace}: {reached}; {run.device_seconds:.0f} device-seconds")
        seconds = {run.pace.partition(":")[0]: run.seconds for run in runs}
        waiting, buffered = seconds["sync"], seconds["buffered"]
        ratios.append((waiting or math.inf) / buffered if buffered is not None else 0.0)
    report.judge("stragglers: time of synchronous rounds over buffered ones, worst seed", min(ratios), BAR, below=False)
