"""The document of `edgefl sim scale`: a vectorised model of the overlay up to 10^6 devices.

Every figure is of the model: no message is sent, no time passes. How near it is to the protocol itself, run under
virtual time, is what `cross_check.py` shows.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from edgefl.sim.scale.route_study import random_lookups, route_figures
from edgefl.sim.scale.tables import CANDIDATES
from edgefl.sim.scale.tree_study import root_figures, tree_figures
from edgefl.sim.scale.world import generator, make_devices
from edgefl.sim.scale.zone_study import run_zones

MODEL = "vectorised model of the overlay"
SMALLEST = 1000
COMPARED_CANDIDATES = (4, 8, 16)

Report = Callable[[str, float], None]
"""Progress: what is going on, and how far the run is (0 to 1)."""


def run_scale(
    *,
    nodes: int = 1_000_000,
    apps: int = 300,
    routes: int = 10_000,
    candidates: int = CANDIDATES,
    seed: int = 1,
    matrix: Sequence[Sequence[float]] | None = None,
    report: Report = lambda what, share: None,
) -> dict[str, Any]:
    """Routes, tables, trees, roots and zones of a fleet of `nodes` devices, and how they grow from 1,000 on.

    `matrix`: city RTTs in seconds, instead of the synthetic cities. The same arguments give the same document, except
    for `seconds` and `peak_memory_bytes`, which are of the whole process. JSON types only.
    """
    started = time.perf_counter()
    sizes = [size for size in (SMALLEST * 10**power for power in range(4)) if size < nodes] + [nodes]
    growth = []
    for number, size in enumerate(sizes):
        report(f"routes of {size:,} devices", 0.6 * number / len(sizes))
        devices = make_devices(size, seed, matrix)
        growth.append(route_figures(devices, routes, candidates, seed))
    report("candidates for a slot", 0.6)
    largest = growth[-1]
    compared = [
        {"candidates": count, **random_lookups(devices, routes, count, generator(seed, 2, nodes))[0]["stretch"]}
        for count in COMPARED_CANDIDATES
    ]
    report(f"trees of {apps:,} applications", 0.7)
    trees = tree_figures(devices, apps, seed)
    report("roots", 0.9)
    roots = root_figures(seed)
    report("zones", 0.95)
    zones = run_zones(seed=seed, matrix=matrix)
    return {
        "model": MODEL,
        "seed": seed,
        "routes": routes,
        "candidates": candidates,
        **largest,
        "stretch_by_candidates": compared,
        "growth": [
            {
                "nodes": step["nodes"],
                "hops": {"mean": step["hops"]["mean"], "p99": step["hops"]["p99"]},
                "stretch": {name: step["stretch"][name] for name in ("mean", "p95", "of_totals")},
                "zone_crossings": step["zone_crossings"],
                "contacts": step["contacts"]["mean"],
                "failure_right": step["failure"]["right"],
            }
            for step in growth
        ],
        "trees": trees,
        "roots": roots,
        "zones": zones,
        "seconds": round(time.perf_counter() - started, 2),
        "peak_memory_bytes": peak_memory_bytes(),
    }


def peak_memory_bytes() -> int:
    """The most memory that this process has held so far."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
