"""The topology `consensus` on five real daemons: as good as in the simulator, also when devices are killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.real_fleet import Task, wait_for
from support.simulated import simulated_world

from edgefl.learning.consensus.graph import Fixed
from edgefl.learning.consensus.options import ConsensusOptions
from edgefl.sim.train.consensus import start_consensus
from edgefl.sim.train.world import simulated_manifest

pytestmark = pytest.mark.e2e

NODES = 5
ROUNDS = 12
HELD_BACK = 0.1


def simulated_accuracy(task: Task, graph: Fixed) -> float:
    """The mean over devices, for the same data, model and graph."""
    learner, world = simulated_world(task, HELD_BACK)
    options = ConsensusOptions(sync_slots=0)
    machines = start_consensus(world, simulated_manifest(learner, ROUNDS, 1), options, graph, same_start=True)
    world.clock.run(10_000)
    assert all(machine.round == ROUNDS for machine in machines)
    test = task.division.test
    return float(np.mean([learner.accuracy(machine.vector, test.x, test.y) for machine in machines]))


@pytest.fixture
def task(tmp_path: Path) -> Iterator[Task]:
    task = Task(tmp_path, NODES)
    with task.fleet:
        task.fleet.start()
        yield task


def test_every_device_ends_as_good_as_in_the_simulator(task: Task) -> None:
    task.create(topology="consensus", rounds=ROUNDS, held_back=HELD_BACK)
    task.wait_finished(120)
    statuses = task.fleet.statuses()
    apps = task.apps()
    assert {app["round"] for app in apps.values()} == {ROUNDS}
    assert {app["topology"] for app in apps.values()} == {"consensus"}
    number_of = {status["node"]: number for number, status in statuses.items()}
    near = {number: tuple(sorted(number_of[name] for name in app["partners"])) for number, app in apps.items()}
    assert all(number in near[other] for number, others in near.items() for other in others)
    accuracies = [task.accuracy(number) for number in range(NODES)]
    simulated = simulated_accuracy(task, Fixed(tuple(near[number] for number in range(NODES))))
    assert abs(float(np.mean(accuracies)) - simulated) <= 0.02
    history = task.fleet.client(task.root()).call("app.history", app=task.id)
    assert [record["round"] for record in history] == list(range(ROUNDS + 1))
    assert all(record["participants"] == NODES for record in history[1:])
    assert all("accuracy" in record for record in history)


def slowest(task: Task) -> int:
    """The round of the device that is furthest behind."""
    return min((app["round"] for app in task.apps().values()), default=0)


@pytest.mark.parametrize("which", ["a member", "the root"])
def test_kill_9_of_a_device(task: Task, which: str) -> None:
    task.create(topology="consensus:merge=1,slot_s=5", rounds=100_000)
    wait_for(lambda: slowest(task) >= 3, "three rounds")
    root = task.root()
    victim = root if which == "the root" else next(number for number in range(NODES) if number != root)
    task.fleet.kill(victim)
    before = slowest(task)
    wait_for(lambda: slowest(task) >= before + 3, "rounds without it")
    task.fleet.launch(victim)
    task.fleet.wait_ready(victim)
    before = slowest(task)
    wait_for(lambda: int(task.app(victim).get("round", 0)) >= before + 3, "the device that is back, and on")
    task.stop()
    task.wait_finished()
    assert len({task.accuracy(number) for number in range(NODES)}) == 1
    assert task.accuracy(0) >= 0.9


def test_a_power_cut_of_everybody(task: Task) -> None:
    task.create(topology="consensus:merge=1,slot_s=5", rounds=100_000)
    wait_for(lambda: slowest(task) >= 10, "ten rounds")
    for number in range(NODES):
        task.fleet.kill(number)
    for number in range(NODES):
        task.fleet.launch(number)
    for number in range(NODES):
        task.fleet.wait_ready(number)
    wait_for(lambda: len(task.apps()) == NODES and slowest(task) > 0, "what was saved, everywhere")
    before = slowest(task)
    wait_for(lambda: slowest(task) >= before + 12, "rounds after the power cut")
    task.stop()
    task.wait_finished()
    assert len({task.accuracy(number) for number in range(NODES)}) == 1
    assert task.accuracy(0) >= 0.9
