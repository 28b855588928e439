"""The topology `sampled` on five real daemons: it trains to the end, also when whoever works on a round is killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.real_fleet import Task, wait_for
from support.simulated import simulated_world

from edgefl.learning.sampled.options import SampledOptions
from edgefl.sim.train.sampled import newest_model, start_sampled
from edgefl.sim.train.world import simulated_manifest

pytestmark = pytest.mark.e2e

NODES = 5
ROUNDS = 12
HELD_BACK = 0.1
TOPOLOGY = f"sampled:sample={NODES},success=1,timeout_s=20"
"""Everybody: a model of few devices is as good as those that chance has chosen."""


@pytest.fixture
def task(tmp_path: Path) -> Iterator[Task]:
    task = Task(tmp_path, NODES)
    with task.fleet:
        task.fleet.start()
        yield task


def simulated_accuracy(task: Task) -> float:
    """With everybody in the sample, so that nothing depends on ids, which are new in every run."""
    learner, world = simulated_world(task, HELD_BACK)
    machines = start_sampled(world, simulated_manifest(learner, ROUNDS, 1), SampledOptions(sample=NODES, success=1.0))
    world.clock.run(10_000)
    round_, model = newest_model(world, machines)
    assert round_ == ROUNDS
    return learner.accuracy(model, task.division.test.x, task.division.test.y)


def test_it_ends_everywhere_with_one_model_as_good_as_in_the_simulator(task: Task) -> None:
    task.create(topology=f"sampled:sample={NODES},success=1,timeout_s=60", rounds=ROUNDS, held_back=HELD_BACK)
    task.wait_finished()
    apps = task.apps()
    assert {app["round"] for app in apps.values()} == {ROUNDS}
    assert {app["topology"] for app in apps.values()} == {"sampled"}
    accuracies = {task.accuracy(number) for number in apps}
    assert len(accuracies) == 1
    assert abs(accuracies.pop() - simulated_accuracy(task)) <= 0.02
    history = task.fleet.client(0).call("app.history", app=task.id)
    assert [record["round"] for record in history if record["participants"]] == list(range(1, ROUNDS + 1))
    assert all(record["participants"] == NODES and record["seconds"] > 0 for record in history[1:])


def newest(task: Task) -> int:
    """The round of the newest model that any device knows of."""
    return max((app["round"] for app in task.apps().values()), default=0)


def newest_participants(task: Task) -> int:
    history = task.fleet.client(0).call("app.history", app=task.id)
    return next((record["participants"] for record in reversed(history) if record["participants"]), 0)


def finish(task: Task) -> None:
    wait_for(lambda: newest_participants(task) == NODES, "a round of everybody")
    task.stop()
    task.wait_finished(60)
    assert task.accuracy(0) >= 0.9


def test_kill_9_of_whoever_aggregates(task: Task) -> None:
    task.create(topology=TOPOLOGY, rounds=100_000, local_epochs=20)
    wait_for(lambda: newest(task) >= 3, "three rounds")
    (busy, *_) = wait_for(
        lambda: [number for number, app in task.apps().items() if app["phase"] == "aggregating"], "an aggregator"
    )
    before = newest(task)
    task.fleet.kill(busy)
    wait_for(lambda: newest(task) >= before + 3, "rounds without it", 60)
    task.fleet.launch(busy)
    task.fleet.wait_ready(busy)
    wait_for(lambda: task.app(busy).get("round", 0) >= before + 3, "the news at the device that is back")
    finish(task)


def test_a_power_cut_of_everybody(task: Task) -> None:
    task.create(topology=TOPOLOGY, rounds=100_000)
    wait_for(lambda: newest(task) >= 8, "eight rounds")
    before = newest(task)
    for number in range(NODES):
        task.fleet.kill(number)
    for number in range(NODES):
        task.fleet.launch(number)
    for number in range(NODES):
        task.fleet.wait_ready(number)
    wait_for(lambda: newest(task) >= before, "what was saved")
    wait_for(lambda: newest(task) >= before + 3, "rounds after the power cut", 60)
    finish(task)
