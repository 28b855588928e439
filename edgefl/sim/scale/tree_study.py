"""What is measured of trees, and of roots: shape, WAN crossings, and how the load lies on devices."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgefl.overlay.children import OTHER_CHILDREN, ZONE_CHILDREN
from edgefl.overlay.rank import WEIGHTS
from edgefl.sim.scale.applications import draw_groups, enrol, hashes, ranks
from edgefl.sim.scale.trees import NEAREST_OF_FIVE, NOBODY, SHIPPED, Forest, grow
from edgefl.sim.scale.world import Devices, Floats, Ints, generator, make_devices
from edgefl.wire.contact import Capacity

ROOTS_NODES, ROOTS_APPS = 1000, 500
FEW_ROOTS = 3
SIZES = (100, 300, 1000)
"""Applications are told apart by their members: fewer than 100, than 300, than 1,000, more."""


def tree_figures(devices: Devices, apps: int, seed: int) -> dict[str, Any]:
    """Trees of `apps` random applications by the shipped rule; `nearest_of_five` by another, on the same members."""
    random = generator(seed, 7, len(devices))
    members = enrol(devices, draw_groups(devices, apps, random))
    document = judge(devices, grow(devices, members, random, SHIPPED))
    other = judge(devices, grow(devices, members, random, NEAREST_OF_FIVE))
    document["nearest_of_five"] = {
        name: other[name] for name in ("depth", "children_worst_node", "edge_rtt_ms", "path_rtt_ms", "fan_out")
    }
    return document


def judge(devices: Devices, forest: Forest) -> dict[str, Any]:
    """Every figure of a forest. JSON types only."""
    members, parent = forest.members, forest.parent
    row = np.flatnonzero(parent != NOBODY)
    above = parent[row]
    depth = forest.depth()
    across = members.zone[row] != members.zone[above]
    children = np.bincount(above, minlength=len(members))
    served = np.bincount(members.device[above], minlength=len(devices))
    edge_s = devices.rtt_s(members.device[row], members.device[above])
    path_s = sum_to_root(parent, row, edge_s)
    apps = int(members.app.max()) + 1 if len(members) else 0
    zones = len(np.unique(np.stack([members.app, members.zone]), axis=1).T)
    size = np.bincount(members.app, minlength=apps)[members.app]
    return {
        "apps": apps,
        "memberships": len(members),
        "roots": int((parent == NOBODY).sum()),
        "rounds": forest.rounds,
        "outranked": float((members.rank[above] > members.rank[row]).mean()) if len(row) else 1.0,
        "members_only": float((members.app[above] == members.app[row]).mean()) if len(row) else 1.0,
        "zone_crossings_over_ideal": _ratio(int(across.sum()), zones - apps),
        "depth": {
            "mean": _mean(depth),
            "p99": int(np.percentile(depth, 99)) if len(depth) else 0,
            "max": int(depth.max(initial=0)),
            "histogram": np.bincount(depth).tolist(),
            "by_members": [
                {"members_below": below, "mean": _mean(depth[np.digitize(size, SIZES) == number])}
                for number, below in enumerate([*SIZES, None])
            ],
        },
        "fan_out": {
            "zone_max": int(np.bincount(above[~across], minlength=1).max()),
            "zone_budget": ZONE_CHILDREN,
            "other_max": int(np.bincount(above[across], minlength=1).max()),
            "other_budget": OTHER_CHILDREN,
        },
        "children_worst_node": int(served.max()),
        "children_p999": float(np.percentile(served, 99.9)),
        "children_histogram": np.bincount(served).tolist(),
        "children_per_membership": {
            capacity.name.lower(): _mean(children[devices.capacity[members.device] == capacity])
            for capacity in sorted(Capacity, key=WEIGHTS.__getitem__)
        },
        "roots_worst_node": int(np.bincount(members.device[parent == NOBODY], minlength=1).max()),
        "edge_rtt_ms": _mean(edge_s * 1e3),
        "path_rtt_ms": {"mean": _mean(path_s * 1e3), "max": round(float(path_s.max(initial=0.0)) * 1e3, 1)},
    }


def root_figures(seed: int) -> dict[str, Any]:
    """Who roots 500 applications that all of 1,000 devices take part in; all alike, and in classes of capacity."""
    devices = make_devices(ROOTS_NODES, seed)
    random = generator(seed, 8)
    names = [int(name) for name in random.integers(0, 1 << 64, ROOTS_APPS, dtype=np.uint64)]
    hashed = [hashes(devices.ids, name) for name in names]
    alike = np.full(ROOTS_NODES, int(Capacity.NORMAL), np.int8)
    mixed = devices.capacity
    weights = np.array([WEIGHTS[Capacity(capacity)] for capacity in mixed])
    by_class = {}
    roots = _roots(hashed, mixed)
    for capacity in sorted(Capacity, key=WEIGHTS.__getitem__):
        mine = mixed == capacity
        by_class[capacity.name.lower()] = {
            "nodes": int(mine.sum()),
            "weight_share": round(float(weights[mine].sum() / weights.sum()), 4),
            "roots_share": round(float(roots[mine].sum() / ROOTS_APPS), 4),
        }
    return {
        "nodes": ROOTS_NODES,
        "apps": ROOTS_APPS,
        "alike": _few(_roots(hashed, alike)),
        "mixed": {**_few(roots), "by_class": by_class},
    }


def _roots(hashed: list[npt.NDArray[np.uint64]], capacity: npt.NDArray[np.int8]) -> Ints:
    """How many applications each device roots."""
    return np.bincount([int(np.argmax(ranks(hashes, capacity))) for hashes in hashed], minlength=len(capacity))


def _few(roots: Ints) -> dict[str, Any]:
    return {
        "at_most_3": round(float((roots <= FEW_ROOTS).mean()), 4),
        "max": int(roots.max()),
        "histogram": np.bincount(roots).tolist(),
    }


def sum_to_root(parent: Ints, row: Ints, edge_s: Floats) -> Floats:
    """For each row the RTTs of all edges up to its root."""
    edge = np.zeros(len(parent))
    edge[row] = edge_s
    total, at = np.zeros(len(row)), row.copy()
    moving = np.arange(len(row))
    while len(moving):
        total[moving] += edge[at]
        at = parent[at]
        moving, at = moving[parent[at] != NOBODY], at[parent[at] != NOBODY]
    return total


def _mean(values: npt.NDArray[Any]) -> float | None:
    return round(float(np.mean(values)), 3) if len(values) else None


def _ratio(value: int, ideal: int) -> float:
    return round(value / ideal, 4) if ideal else 1.0
