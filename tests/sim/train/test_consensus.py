"""The topology `consensus` on simulated devices."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from edgefl.datasets import digits
from edgefl.learning.consensus.device import ConsensusDevice, Stage
from edgefl.learning.consensus.graph import OnePeerExponential, erdos_renyi
from edgefl.learning.consensus.options import ConsensusOptions
from edgefl.sim.train.consensus import start_consensus
from edgefl.sim.train.learner import Learner
from edgefl.sim.train.traces import synthetic
from edgefl.sim.train.world import Device, Recipe, World, simulated_manifest
from edgefl.wire import Contact, Message
from edgefl.wire.consensus import NeighbourModel


def fleet(
    nodes: int, rounds: int, options: ConsensusOptions, degree: int = 6, lr: float = 0.3
) -> tuple[World, list[ConsensusDevice]]:
    x, y = digits()
    learner = Learner(64, 10)
    world = World(synthetic(nodes, 1), learner, Recipe(lr=lr), 1)
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


@pytest.mark.parametrize("mixing", ["samples", "push-sum"])
def test_in_the_last_rounds_devices_only_come_together(mixing: str) -> None:
    """A ring without any settling ends with models as far apart as training drives them."""

    def apart(settle: int) -> tuple[float, float]:
        options = ConsensusOptions(mixing=mixing, settle=settle, slot_s=20.0)
        world, machines = fleet(12, 20 + settle, options, degree=0)
        world.clock.run(4000)
        assert all(machine.stage is Stage.DONE for machine in machines)
        models = np.array([machine.vector for machine in machines])
        return float(np.linalg.norm(models - models.mean(0), axis=1).max()), world.device_seconds

    (before, trained), (after, still) = apart(0), apart(30)
    assert after < before / 5
    assert still == pytest.approx(trained)


def test_momentum_between_rounds_learns_more_in_as_many() -> None:
    x, y = digits()

    def accuracy(momentum: float) -> float:
        world, machines = fleet(16, 12, ConsensusOptions(momentum=momentum), lr=0.05)
        world.clock.run(1000)
        assert all(machine.stage is Stage.DONE for machine in machines)
        return float(np.mean([world.learner.accuracy(m.vector, x, y) for m in machines if m.vector is not None]))

    assert accuracy(0.8) > accuracy(0.0) + 0.05


def test_silent_neighbours_cost_a_slot_and_no_more() -> None:
    world, machines = fleet(20, 20, ConsensusOptions(slot_s=5.0))
    for device in world.devices[::3]:
        device.alive = False
    world.clock.run(500)
    assert all(m.stage is Stage.DONE for m, d in zip(machines, world.devices, strict=True) if d.alive)


def test_a_device_that_starts_late_copies_a_trained_neighbour() -> None:
    world, machines = fleet(10, 30, ConsensusOptions(slot_s=3.0))
    late = machines[0]
    late.wait(0.0)
    world.clock.run(16)
    assert late.round > 0
    assert late.vector is not None


def lossy(world: World, loss: float) -> None:
    """Lose that share of all messages."""
    random = Random(7)
    for device in world.devices:

        def send(to: Contact, message: Message, sender: Device = device) -> None:
            if random.random() >= loss:
                Device.send(sender, to, message)

        device.send = send  # type: ignore[method-assign]


def test_push_sum_agrees_on_the_mean_by_samples_though_messages_are_lost() -> None:
    """Nobody learns (a rate of almost 0), so the mean of the starts is what all must end at, to float32."""
    x, y = digits()
    learner = Learner(64, 10)
    world = World(synthetic(12, 1), learner, Recipe(steps=1, lr=1e-12), 1)
    sizes = [10 + 5 * index for index in range(12)]
    for size, device in zip(sizes, world.devices, strict=True):
        device.x, device.y = x[:size], y[:size]
    lossy(world, 0.2)
    options = ConsensusOptions(steps=4, mixing="push-sum", sync_slots=0, slot_s=2.0)
    graph = erdos_renyi(12, 3, Random(1))
    machines = start_consensus(world, simulated_manifest(learner, 40, 1), options, graph)
    world.clock.run(2000)
    assert all(machine.stage is Stage.DONE for machine in machines)
    flying = 0.0
    by_id = {device.contact.node_id: machine for device, machine in zip(world.devices, machines, strict=True)}
    for device, machine in zip(world.devices, machines, strict=True):
        for giver, key in machine.mass.claims.items():
            flying += by_id[giver].mass.on_claim(device.contact.node_id, key, None)
    assert sum(machine.mass.total for machine in machines) + flying == pytest.approx(sum(sizes))
    mean = np.average([learner.initial(1 + index) for index in range(12)], axis=0, weights=sizes)
    for machine in machines:
        assert machine.vector is not None
        assert np.max(np.abs(machine.vector - mean)) < 1e-3


def test_push_sum_learns_on_directed_graphs() -> None:
    x, y = digits()
    learner = Learner(64, 10)
    world = World(synthetic(16, 1), learner, Recipe(lr=0.3), 1)
    parts = np.array_split(np.random.default_rng(1).permutation(len(y)), 16)
    for part, device in zip(parts, world.devices, strict=True):
        device.x, device.y = x[part], y[part]
    options = ConsensusOptions(mixing="push-sum", slot_s=5.0)
    machines = start_consensus(world, simulated_manifest(learner, 40, 1), options, OnePeerExponential(16))
    world.clock.run(2000)
    assert all(machine.stage is Stage.DONE for machine in machines)
    scores = [learner.accuracy(machine.vector, x, y) for machine in machines if machine.vector is not None]
    assert min(scores) > 0.85


def test_a_silent_neighbour_costs_one_slot_not_one_for_each_step() -> None:
    world, machines = fleet(20, 20, ConsensusOptions(slot_s=50.0, steps=4))
    world.devices[3].alive = False
    world.clock.run(400)
    assert all(m.stage is Stage.DONE for m, d in zip(machines, world.devices, strict=True) if d.alive)


def test_models_of_strangers_are_refused() -> None:
    world, machines = fleet(12, 5, ConsensusOptions(), degree=0)  # a ring
    stranger, victim = world.devices[6], machines[0]
    blob = stranger.hold(np.full(world.learner.parameters, 9.0, "<f4").tobytes())
    stranger.send(world.devices[0].contact, NeighbourModel(victim.app, 1, 0, blob, 10, 2))
    world.clock.run(1.0)
    assert victim.counters["not_a_neighbour"] == 1


def test_a_device_that_fell_far_behind_goes_on_in_its_neighbours_round() -> None:
    world, machines = fleet(10, 60, ConsensusOptions(slot_s=1.0))
    world.clock.run(10)
    late = machines[0]
    assert late.vector is not None
    world.devices[0].alive = False
    before = late.round
    world.clock.run(30)
    world.devices[0].alive = True
    late.resume(before, late.vector, world.clock.now)
    world.clock.run(36)
    assert late.counters["caught_up"] == 1
    assert abs(late.round - machines[1].round) < 10


def test_a_device_that_waits_begins_with_the_others() -> None:
    world, machines = fleet(8, 10, ConsensusOptions(slot_s=2.0))
    for machine in machines[1:]:
        machine.wait(0.0)
    world.clock.run(200)
    assert all(machine.stage is Stage.DONE for machine in machines)
    assert all("copied" not in machine.counters for machine in machines)


def test_who_comes_when_all_is_over_gets_the_model() -> None:
    world, machines = fleet(8, 10, ConsensusOptions(slot_s=2.0))
    world.devices[0].alive = False
    world.clock.run(200)
    world.devices[0].alive = True
    machines[0].wait(world.clock.now)
    world.clock.run(230)
    assert machines[0].stage is Stage.DONE
    assert machines[0].counters["copied"] == 1


def test_an_owner_can_pause_and_end_the_rounds() -> None:
    world, machines = fleet(8, 1000, ConsensusOptions(slot_s=2.0))
    world.clock.run(20)
    for machine in machines:
        machine.pause()
    world.clock.run(40)
    assert {machine.stage for machine in machines} == {Stage.PAUSED}
    held = [machine.round for machine in machines]
    for machine in machines[:4]:
        machine.unpause(world.clock.now)
    world.clock.run(60)
    assert all(machine.round > before for machine, before in zip(machines[:4], held, strict=False))
    for machine in machines:
        machine.finish(world.clock.now)
    world.clock.run(61)
    assert {machine.stage for machine in machines} == {Stage.DONE}
