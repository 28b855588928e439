"""A lower bound of the cost of any assignment: the fractional optimum by Frank-Wolfe (Frank and Wolfe 1956).

Each player may split over its candidates; C(x) = sum_p a_p L_p^2 + (the same over sites) + sum_i s_i (r + b) is convex
and no assignment costs less than its minimum. What is returned is C minus the duality gap: a bound at any point.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgefl.sim.game.instance import Instance
from edgefl.sim.scale.world import Floats

MOST_STEPS = 600
GAP = 0.002
"""Relative; the overlay study stopped there too."""


def lower_bound(instance: Instance) -> tuple[float, float]:
    """(bound in byte-seconds, relative gap)."""
    size, device = instance.size_bytes, instance.candidate_device
    sites = instance.devices.site
    out = sites[instance.members.device[instance.player]][:, None] != sites[device]
    priced = bool(instance.site_s_per_byte.any())
    constant = size[:, None] * (instance.rtt_s + instance.penalty_s[device])
    a, site_a = instance.s_per_byte, instance.site_s_per_byte
    rows = np.arange(len(size))

    def loads(column: npt.NDArray[np.intp]) -> tuple[Floats, Floats, float]:
        """Of a pure choice: at devices, at sites, and the constant part."""
        at = device[rows, column]
        outside = out[rows, column]
        return (
            np.bincount(at, size, minlength=len(a)).astype(np.float64),
            np.bincount(sites[at[outside]], size[outside], minlength=len(site_a)).astype(np.float64),
            float(constant[rows, column].sum()),
        )

    load, site_load, fixed = loads(np.argmin(instance.rtt_s, axis=1))
    gap, cost = np.inf, 0.0
    for _ in range(MOST_STEPS):
        gradient = constant + size[:, None] * (2 * a * load)[device]
        if priced:
            gradient += np.where(out, size[:, None] * (2 * site_a * site_load)[sites[device]], 0.0)
        to, site_to, fixed_to = loads(np.argmin(gradient, axis=1))
        step, site_step = to - load, site_to - site_load
        cost = float((a * load**2).sum() + (site_a * site_load**2).sum()) + fixed
        slope = float((2 * a * load * step).sum() + (2 * site_a * site_load * site_step).sum()) + fixed_to - fixed
        gap = -slope
        if gap <= GAP * cost:
            break
        bend = float((a * step**2).sum() + (site_a * site_step**2).sum())
        share = min(1.0, gap / (2 * bend)) if bend > 0 else 1.0
        load, site_load, fixed = load + share * step, site_load + share * site_step, fixed + share * (fixed_to - fixed)
    return cost - gap, gap / cost
