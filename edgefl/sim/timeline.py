"""A simulated fleet over time: what an onlooker sees every few seconds, and what becomes of questions asked then.

The time series of `edgefl sim fleet`. Samples are calls of the virtual clock, so they are part of the run whether or
not anybody draws them. From the failure on each sample also asks for random keys; the answers count for the moment of
asking. Their number grows with the fleet and stays far below what repairs it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

from edgefl.sim.world import Member, World

STEP_S = 5.0
"""Between samples."""

DEVICES_PER_LOOKUP = 20
LEAST_LOOKUPS, MOST_LOOKUPS = 20, 50
"""Lookups of one sample: one for each twenty devices, but enough for a share."""

ANSWER_S = 12.0
"""A lookup ends before that: two tries of 5 s, answers under way."""


class Timeline:
    """Samples of one run, from its creation on. `apps` may grow meanwhile."""

    def __init__(self, fleet: World, apps: Sequence[int], seed: int) -> None:
        self._fleet = fleet
        self._apps = apps
        self._random = Random(f"timeline {seed}")
        self._bytes = fleet.network.bytes
        self._failed_at: float | None = None
        self._faults_end = 0.0
        self._rows: list[dict[str, Any]] = []
        fleet.clock.at(fleet.clock.now + STEP_S, self._sample)

    def failing(self, faults_s: float) -> None:
        """The faults begin now, and last that long: time 0 of the series."""
        self._failed_at, self._faults_end = self._fleet.clock.now, faults_s
        self._rows.append({"time_s": self._failed_at})
        self._fleet.clock.at(self._failed_at, self._ask, self._rows[-1])  # before anybody can have noticed

    def _sample(self) -> None:
        fleet = self._fleet
        fleet.clock.at(fleet.clock.now + STEP_S, self._sample)
        alive = fleet.alive()
        trees = fleet.trees(self._apps)
        members = sum(tree.members for tree in trees)
        depths = [depth for tree in trees for depth in tree.depths]
        row = {
            "time_s": fleet.clock.now,
            "alive": len(alive),
            "bytes_per_node_s": round((fleet.network.bytes - self._bytes) / max(1, len(alive)) / STEP_S, 2),
            "trees_whole": round(sum(tree.whole for tree in trees) / len(trees), 4) if trees else None,
            "attached": round(sum(tree.attached for tree in trees) / members, 4) if members else None,
            "depth_mean": round(sum(depths) / len(depths), 3) if depths else None,
            "depth_max": max(depths, default=None),
        }
        self._bytes = fleet.network.bytes
        self._rows.append(row)
        if self._failed_at is not None:
            self._ask(row)

    def _ask(self, row: dict[str, Any]) -> None:
        fleet, random = self._fleet, self._random
        alive = fleet.alive()
        asked = []
        for _ in range(min(MOST_LOOKUPS, max(LEAST_LOOKUPS, len(alive) // DEVICES_PER_LOOKUP)) if alive else 0):
            member, key = random.choice(alive), random.getrandbits(64)
            asked.append((member, member.overlay.lookup(key, member.now), key))
        if asked:
            fleet.clock.at(fleet.clock.now + ANSWER_S, self._judge, row, asked)

    def _judge(self, row: dict[str, Any], asked: list[tuple[Member, int, int]]) -> None:
        survivors = [question for question in asked if question[0].node.alive]
        if survivors:
            row["lookups_correct"] = round(self._fleet.right(survivors) / len(survivors), 4)

    def document(self) -> dict[str, Any]:
        """Columns of equal length, times in seconds since the faults began (since the run did, without faults)."""
        zero = 0.0 if self._failed_at is None else self._failed_at
        names = ("alive", "bytes_per_node_s", "trees_whole", "attached", "depth_mean", "depth_max", "lookups_correct")
        return {
            "step_s": STEP_S,
            "faults_s": round(self._faults_end, 1),
            "time_s": [round(row["time_s"] - zero, 1) for row in self._rows],
            **{name: [row.get(name) for row in self._rows] for name in names},
        }


def load_document(fleet: World, sent_before: dict[int, int], seconds: float) -> dict[str, Any]:
    """How the work is spread over the live devices: children over all trees (how many devices have 0, 1, 2 …), and
    bytes sent per second since `sent_before` was noted."""
    children: Counter[int] = Counter()
    rates = []
    for member in fleet.alive():
        views = [view for app in member.overlay.trees() if (view := member.overlay.tree(app)) is not None]
        children[sum(len(view.children) for view in views)] += 1
        rates.append((member.node.sent_bytes - sent_before.get(member.node_id, 0)) / seconds)
    rates.sort()
    return {
        "children_histogram": [children[count] for count in range(max(children, default=0) + 1)],
        "sent_bytes_s": {
            "mean": round(sum(rates) / max(1, len(rates)), 2),
            "p99": round(rates[len(rates) * 99 // 100], 2) if rates else 0.0,
            "max": round(max(rates, default=0.0), 2),
        },
    }
