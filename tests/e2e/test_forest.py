"""The topology `forest` on five real daemons: as good as in the simulator."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.real_fleet import Task
from support.simulated import simulated_world

from edgefl.sim.train.forest import start_forest
from edgefl.sim.train.world import simulated_manifest

pytestmark = pytest.mark.e2e

NODES = 5
ROUNDS = 12
HELD_BACK = 0.1


def simulated_accuracy(task: Task) -> float:
    learner, world = simulated_world(task, HELD_BACK)
    run = start_forest(world, simulated_manifest(learner, ROUNDS, 1))
    world.clock.run(10_000)
    assert run.round() == ROUNDS
    return learner.accuracy(run.models()[0], task.division.test.x, task.division.test.y)


def test_it_ends_everywhere_with_one_model_as_good_as_in_the_simulator(tmp_path: Path) -> None:
    task = Task(tmp_path, NODES)
    with task.fleet:
        task.fleet.start()
        task.create(rounds=ROUNDS, held_back=HELD_BACK)
        task.wait_finished()
        accuracies = {task.accuracy(number) for number in range(NODES)}
    assert len(accuracies) == 1
    assert abs(accuracies.pop() - simulated_accuracy(task)) <= 0.02
