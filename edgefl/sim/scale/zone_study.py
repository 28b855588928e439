"""The document of `edgefl sim zones`: adoption by anchors beside landmark binning, judged by measuring again (a
model)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgefl.sim.scale.world import Devices, Ints, generator, make_devices
from edgefl.sim.scale.zones import (
    find_zones,
    landmark_bins,
    measure_again,
    merge_small,
    pairs_kept,
    rtts_inside_s,
)

NODES = 2000
TAU_S = 0.040
LANDMARKS = (4, 8)
LANDMARK_DRAWS = 5
"""Much depends on which devices are landmarks: the draw with the median stability is shown."""

SAMPLED_PAIRS = 20_000


def run_zones(
    *, nodes: int = NODES, tau_s: float = TAU_S, seed: int = 1, matrix: Sequence[Sequence[float]] | None = None
) -> dict[str, Any]:
    """Zones of a synthetic fleet (or of one in the cities of `matrix`), found in several ways. JSON types only."""
    devices = make_devices(nodes, seed, matrix)
    random = generator(seed, 5)
    found = find_zones(devices, tau_s, random)
    merged = merge_small(devices, found, tau_s, random)
    methods = []
    for method, zones, hysteresis in (("anchors, merged, hysteresis", merged, True), ("anchors alone", found, False)):
        # The anchors of a young zone change while devices come; what counts is a fleet that has looked once since.
        settled = measure_again(devices, zones, tau_s, random, hysteresis=hysteresis)
        again = measure_again(devices, settled, tau_s, random, hysteresis=hysteresis)
        methods.append(_judged(method, devices, settled.zone, again.zone, random))
    for count in LANDMARKS:
        drawn = []
        for _ in range(LANDMARK_DRAWS):
            landmarks = random.choice(nodes, count, replace=False)
            bins, bins_again = (landmark_bins(devices, landmarks, random) for _ in range(2))
            drawn.append(_judged(f"landmark binning, {count}", devices, bins, bins_again, random))
        methods.append(sorted(drawn, key=lambda row: float(row["pairs_kept"]))[LANDMARK_DRAWS // 2])
    regions = devices.zone.astype(np.int64)
    methods.append(_judged("operator's regions", devices, regions, regions, random))
    return {"nodes": nodes, "seed": seed, "tau_ms": round(tau_s * 1e3, 3), "methods": methods}


def _judged(method: str, devices: Devices, zone: Ints, again: Ints, random: np.random.Generator) -> dict[str, Any]:
    size = np.unique(zone, return_counts=True)[1]
    inside_s = rtts_inside_s(devices, zone, random, SAMPLED_PAIRS)
    rtt_ms = None
    if len(inside_s):
        rtt_ms = {
            "mean": round(float(inside_s.mean()) * 1e3, 2),
            "p95": round(float(np.percentile(inside_s, 95)) * 1e3, 2),
        }
    return {
        "method": method,
        "zones": len(size),
        "largest": int(size.max()),
        "alone": int((size == 1).sum()),
        "pairs_kept": round(pairs_kept(zone, again), 4),
        "rtt_inside_ms": rtt_ms,
    }
