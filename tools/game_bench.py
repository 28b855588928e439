"""The routing game beside what it is judged by: the best static tree, and the nearest parent, in the same run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent))

from game_search import Search

from edgefl.overlay.game.rules import Rule
from edgefl.sim.unequal import UnequalFleet
from edgefl.wire.learning import RoundRecord

DEVICES, ROUNDS, LAST = 16, 24, 6
"""A round time is the median of the last rounds: by then nobody moves much."""

TREES = 4
"""Of those that the search finds best, so many are simulated, and the best of them is the yardstick."""

ARRANGED_S = 120.0


def last_s(history: tuple[RoundRecord, ...]) -> float:
    return median(record.seconds for record in history[-LAST:])


@dataclass(frozen=True, slots=True)
class Simulated:
    """Seconds of a round under each, and moves of all devices: in the first half of the rounds, and after."""

    seed: int
    nearest_s: float
    static_s: float
    model_s: float
    game_s: float
    game_model_s: float
    early_moves: int
    late_moves: int


def simulate(seeds: range) -> Iterator[Simulated]:
    for seed in seeds:
        nearest = UnequalFleet(Rule.RTT, seed, DEVICES, ROUNDS)
        nearest_s = last_s(nearest.train())
        search = Search(nearest)
        numbers = {device.node_id: at for at, device in enumerate(search.devices)}

        def as_list(parents: dict[int, int | None], numbers: dict[int, int] = numbers) -> list[int]:
            return [0 if (above := parents[node_id]) is None else numbers[above] for node_id in numbers]

        trees = search.best(Random(seed), TREES)
        static_s, model_s = min((static(seed, tree), search.round_s(as_list(tree))) for tree in trees)
        game = UnequalFleet(Rule.ACBR, seed, DEVICES, ROUNDS)
        game.train(until=ROUNDS // 2)
        early = game.moves()
        game_s = last_s(game.train())
        game_model_s = search.round_s(as_list(game.parents()))
        yield Simulated(seed, nearest_s, static_s, model_s, game_s, game_model_s, early, game.moves() - early)


def static(seed: int, parents: dict[int, int | None]) -> float:
    """A round's time when everybody is where this tree says."""
    fleet = UnequalFleet(Rule.RTT, seed, DEVICES, ROUNDS)
    fleet.train(until=1)
    deadline = fleet.world.clock.now + ARRANGED_S
    while fleet.parents() != parents:
        if fleet.world.clock.now > deadline:
            return float("inf")  # its root is not the root, or a place was taken
        fleet.arrange(parents)
        fleet.world.run(2.0)
    return last_s(fleet.train())
