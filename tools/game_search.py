"""The best static tree that a search finds for a simulated fleet: what the routing game is measured against.

A tree is judged by when the root has the sum, by the physics of edgefl/sim/training.py: a model takes its time through
each link on its way down, a device trains, and its update goes up in chunks as soon as those of its children have come,
which its parent takes in one after the other at its own rate. The search knows all of that; no device does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from edgefl.overlay.children import ZONE_CHILDREN
from edgefl.overlay.rank import rank
from edgefl.sim.training import BANDWIDTH_BYTES_S, FETCH_RETRY_S, TRAIN_S
from edgefl.sim.unequal import PARAMETERS, UnequalFleet

SIZE_BYTES = 4 * PARAMETERS
CHUNK_S = 0.1
"""From the last chunk of a device's last child to its own: one chunk through its link."""

RESTARTS, STEPS = 12, 3000
HEAT, COOLING = 1.0, 0.9985
"""Seconds that a step may be worse at first, and what is left of them after each step (Kirkpatrick et al. 1983)."""


@dataclass(frozen=True, slots=True)
class Device:
    """What the search knows of one: its identity, how long it trains, what it takes in."""

    node_id: int
    train_s: float
    bytes_s: float


class Search:
    """Devices in the order of their rank: 0 is the root, a parent's number is lower than its child's."""

    def __init__(self, fleet: UnequalFleet) -> None:
        learners = sorted(
            fleet.learners.values(), key=lambda one: rank(one.member.overlay.contact, fleet.app), reverse=True
        )
        self.devices = [
            Device(one.member.node_id, TRAIN_S * one._speed, one.serving_bytes_s or math.inf) for one in learners
        ]
        places = [one.member.node.place for one in learners]
        self._rtt_s = [[fleet.world.model.rtt_s(a, b) for b in places] for a in places]

    def round_s(self, parents: list[int]) -> float:
        """From the start of a round to the sum at the root. `parents[0]` is not looked at."""
        count, link_s = len(parents), SIZE_BYTES / BANDWIDTH_BYTES_S
        started, children = [0.0] * count, [[] for _ in range(count)]
        for at in range(1, count):
            above = parents[at]
            children[above].append(at)
            started[at] = started[above] + FETCH_RETRY_S / 2 + self._rtt_s[at][above] + link_s
        first, last = [0.0] * count, [0.0] * count
        for at in range(count - 1, -1, -1):
            device = self.devices[at]
            first[at] = last[at] = started[at] + device.train_s
            taken = 0.0
            for child in sorted(children[at], key=lambda one: first[one]):
                half_s = self._rtt_s[child][at] / 2
                sent = max(first[child] + link_s, last[child] + CHUNK_S) + half_s
                taken = max(sent, max(taken, first[child] + half_s) + SIZE_BYTES / device.bytes_s)
                first[at] = max(first[at], first[child] + half_s + CHUNK_S)
            last[at] = max(last[at], taken)
        return last[0]

    def best(self, random: Random, count: int) -> list[dict[int, int | None]]:
        """The `count` best of what simulated annealing finds, as node ids."""
        return [
            {one.node_id: None if at == 0 else self.devices[tree[at]].node_id for at, one in enumerate(self.devices)}
            for _, tree in best_trees(len(self.devices), self.round_s, random, count)
        ]


def best_trees(
    devices: int, round_s: Callable[[list[int]], float], random: Random, count: int
) -> list[tuple[float, list[int]]]:
    """The `count` best of what simulated annealing finds from random trees: (seconds, the number of each device's
    parent). Devices are numbered in the order of their rank; `round_s` judges a tree, whose first entry means
    nothing."""
    return sorted((_anneal(devices, round_s, random) for _ in range(RESTARTS)), key=lambda one: one[0])[:count]


def _anneal(devices: int, round_s: Callable[[list[int]], float], random: Random) -> tuple[float, list[int]]:
    parents = [max(0, at - 1) for at in range(devices)]
    for at in range(1, devices):
        parents[at] = _parent(at, parents, random)
    now_s, heat = round_s(parents), HEAT
    best_s, best = now_s, list(parents)
    for _ in range(STEPS):
        at = random.randrange(1, devices)
        old, parents[at] = parents[at], _parent(at, parents, random)
        then_s = round_s(parents)
        if then_s <= now_s or random.random() < math.exp((now_s - then_s) / heat):
            now_s = then_s
            if now_s < best_s:
                best_s, best = now_s, list(parents)
        else:
            parents[at] = old
        heat *= COOLING
    return best_s, best


def _parent(at: int, parents: list[int], random: Random) -> int:
    """One of higher rank that has a place."""
    others = [above for number, above in enumerate(parents) if number > 0 and number != at]
    return random.choice([above for above in range(at) if others.count(above) < ZONE_CHILDREN])
