"""The topology `forest` on simulated devices: whoever vanishes in the middle of a round, the next one comes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgefl.datasets import digits
from edgefl.learning.forest.coordinator import RECOVER_S
from edgefl.learning.forest.gathering import SETTLE_S
from edgefl.learning.forest.replication import REPLICA_TIMEOUT_S
from edgefl.overlay.rank import rank
from edgefl.sim.train.forest import ForestRun
from edgefl.sim.train.learner import Learner
from edgefl.sim.train.traces import synthetic
from edgefl.sim.train.tree import REPAIR_S, IdealTree
from edgefl.sim.train.world import Recipe, World, simulated_manifest

DEADLINE_S = 60.0


def fleet(nodes: int, seed: int = 1) -> ForestRun:
    x, y = digits()
    learner = Learner(64, 10)
    world = World(synthetic(nodes, seed), learner, Recipe(lr=0.3), seed)
    for part, device in zip(np.array_split(np.arange(len(y)), nodes), world.devices, strict=True):
        device.x, device.y = x[part], y[part]
    return ForestRun(world, simulated_manifest(learner, 1000, seed, deadline_s=DEADLINE_S, quorum=0.5))


def advance(run: ForestRun, until: Callable[[], bool], limit_s: float) -> bool:
    """Let time pass until the condition holds; False after limit_s."""
    clock = run.world.clock
    end = clock.now + limit_s
    while clock.now < end and not until():
        clock.run(clock.now + 0.1)
    return until()


def test_the_ideal_tree_is_a_rank_tree() -> None:
    world = fleet(200).world
    tree = IdealTree(world.devices, app=7, fan_out=4)
    for child, parent in tree.parents.items():
        assert rank(world.devices[parent].contact, 7) > rank(world.devices[child].contact, 7)
    assert len(tree.parents) == 199
    assert max(len(children) for children in tree.children.values()) == 4
    place = tree.place(tree.root)
    assert place is not None
    assert (place.members, place.is_root, place.parent) == (200, True, None)
    assert tree.depth() < 12
    assert sum(child.members for child in place.children) == 199


def test_a_tree_without_some_of_its_devices_is_repaired_and_the_rest_stays() -> None:
    world = fleet(60).world
    tree = IdealTree(world.devices, app=7)
    before, lost = dict(tree.parents), [world.devices[tree.root], *world.devices[:10]]
    gone = {device.index for device in lost}
    tree.forget(lost)
    moved = tree.repair()
    assert tree.root not in gone
    assert set(tree.parents) | {tree.root} == set(range(60)) - gone
    assert set(moved) == {child for child, parent in before.items() if parent in gone} - gone
    assert all(tree.parents[child] == before[child] for child in tree.parents if child not in moved)
    assert tree.place(world.devices[0].index) is None


@pytest.mark.parametrize("victim", ["root", "aggregator"])
@pytest.mark.parametrize("moment", range(12))
def test_who_vanishes_at_any_point_of_a_round_delays_it_by_a_bounded_time(victim: str, moment: int) -> None:
    """The bound: the deadline of the round that it spoils (nobody waits longer for a part of a tree), the repair of the
    tree, and for a root the report of the rest, the pause before a new round and a runner-up that does not answer."""
    run = fleet(40, seed=2)
    assert advance(run, lambda: run.furthest[0] >= 2, 200)
    started = run.world.clock.now
    assert advance(run, lambda: run.furthest[0] >= 3, 200)
    length = run.world.clock.now - started
    run.world.clock.run(run.world.clock.now + length * moment / 12)
    tree = run.tree
    inner = [child for child in tree.children[tree.root] if tree.children[child]]
    device = run.world.devices[tree.root if victim == "root" else inner[0]]
    device.alive = False
    run.on_lost([device])
    before = run.furthest[0]
    limit = DEADLINE_S + REPAIR_S + RECOVER_S + SETTLE_S + REPLICA_TIMEOUT_S + length
    assert advance(run, lambda: run.furthest[0] >= before + 1, limit)
    again = run.furthest[0]
    assert advance(run, lambda: run.furthest[0] >= again + 5, 5 * (2 * length + 1))  # as quick as before
