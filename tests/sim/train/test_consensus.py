"""The topology `consensus` on simulated devices."""

from __future__ import annotations

from random import Random

import numpy as np

from edgefl.datasets import digits
from edgefl.learning.consensus.device import ConsensusDevice, ConsensusOptions, Stage
from edgefl.learning.consensus.graph import erdos_renyi
from edgefl.sim.train.consensus import start_consensus
from edgefl.sim.train.learner import Learner
from edgefl.sim.train.traces import synthetic
from edgefl.sim.train.world import Recipe, World, simulated_manifest


def fleet(nodes: int, rounds: int, options: ConsensusOptions, degree: int = 6) -> tuple[World, list[ConsensusDevice]]:
    x, y = digits()
    learner = Learner(64, 10)
    world = World(synthetic(nodes, 1), learner, Recipe(lr=0.3), 1)
    parts = np.array_split(np.random.default_rng(1).permutation(len(y)), nodes)
    for part, device in zip(parts, world.devices, strict=True):
        device.x, device.y = x[part], y[part]
    graph = erdos_renyi(nodes, degree, Random(1))
    return world, start_consensus(world, simulated_manifest(learner, rounds, 1), options, graph)


def test_all_devices_learn_and_end() -> None:
    world, machines = fleet(20, 40, ConsensusOptions(steps=2))
    world.clock.run(2000)
    x, y = digits()
    assert all(machine.stage is Stage.DONE for machine in machines)
    assert (
        min(world.learner.accuracy(machine.vector, x, y) for machine in machines if machine.vector is not None) > 0.85
    )


def test_the_start_with_the_largest_norm_is_everybodys() -> None:
    options = ConsensusOptions(sync_slots=11)
    world, machines = fleet(20, 0, options, degree=0)  # a ring: ten hops
    world.clock.run(60)
    starts = [world.learner.initial(1 + index) for index in range(20)]
    largest = max(starts, key=lambda start: float(np.linalg.norm(start)))
    assert all(np.array_equal(machine.vector, largest) for machine in machines if machine.vector is not None)


def test_silent_neighbours_cost_a_slot_and_no_more() -> None:
    world, machines = fleet(20, 20, ConsensusOptions(slot_s=5.0))
    for device in world.devices[::3]:
        device.alive = False
    world.clock.run(500)
    assert all(m.stage is Stage.DONE for m, d in zip(machines, world.devices, strict=True) if d.alive)


def test_a_device_that_starts_late_copies_a_trained_neighbour() -> None:
    world, machines = fleet(10, 30, ConsensusOptions(slot_s=3.0))
    late = machines[0]
    late.stage, late.vector = Stage.WAITING, None
    world.clock.run(8)
    assert late.round > 0
    assert late.vector is not None
