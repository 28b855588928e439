"""Many applications on one fleet: how much longer do twenty take together than one alone, and than a server?"""

from __future__ import annotations

from typing import Any

from edgefl.sim.apps.run import Setting, median_links, run_apps
from edgefl.sim.train.traces import synthetic
from learning_rows.report import Report, Settings

NODES, APPS = 64, 20

BAR = 1.15
"""All together over the longest alone, where each application has trainers of its own: what Totoro measured (15.41 h
for one, 15.47 h for twenty; how many trainers each had is not published)."""

OWN, SHARED = 3, 8
"""Devices of each application: 60 of 64 train one application; or every device trains 2.5, which no system can do in
the time of one."""


def measure_many(settings: Settings, report: Report) -> None:
    """20 applications on 64 devices, together and alone, in trees and below a server with a device's link."""
    for members in (OWN, SHARED):
        runs = [_run(members, seed, report) for seed in settings.seeds]
        together = max(run["over_one"]["longest"] for run in runs)
        if members == OWN:
            report.judge("20 applications with trainers of their own: together over one, worst seed", together, BAR)
        else:
            bound = max(run["over_bound"] for run in runs)
            report.say(f"2.5 applications a device: together over one {together:.2f}, which is no bar")
            report.judge("2.5 applications a device: over what the busiest one has to do", bound, BAR)
        server = [run["server"] for run in runs]
        report.judge(
            f"a server, one application after the other, over the trees ({members} devices each)",
            min(one["sequential_over_trees"] for one in server),
            1.0,
            below=False,
        )
        report.say(
            f"the server with all at once: {min(one['parallel_over_trees'] for one in server):.2f} times the trees"
        )


def _run(members: int, seed: int, report: Report) -> dict[str, Any]:
    setting = Setting(nodes=NODES, apps=APPS, members=members, seed=seed)
    run = run_apps(setting, median_links(synthetic(NODES, seed)))
    one, together = run["one_s"], run["together_s"]
    report.say(
        f"seed {seed}, {members} devices each: alone {one['mean']:.1f} s (longest {one['longest']:.1f}), "
        f"together {together['mean']:.1f} s (longest {together['longest']:.1f})"
    )
    return run
