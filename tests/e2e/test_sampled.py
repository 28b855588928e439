"""The topology `sampled` on five real daemons: it trains to the end, also when whoever works on a round is killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.real_fleet import Task, wait_for

pytestmark = pytest.mark.e2e

NODES = 5
TOPOLOGY = "sampled:sample=4,success=1,timeout_s=20"


@pytest.fixture
def task(tmp_path: Path) -> Iterator[Task]:
    task = Task(tmp_path, NODES)
    with task.fleet:
        task.fleet.start()
        yield task


def test_it_trains_to_the_end_and_everybody_can_pull_the_model(task: Task) -> None:
    task.create(topology=TOPOLOGY, rounds=30)
    task.wait_finished()
    apps = task.apps()
    assert {app["round"] for app in apps.values()} == {30}
    assert {app["topology"] for app in apps.values()} == {"sampled"}
    accuracies = {task.accuracy(number) for number in apps}
    assert len(accuracies) == 1
    assert accuracies.pop() >= 0.93
    history = task.fleet.client(0).call("app.history", app=task.id)
    assert [record["round"] for record in history if record["participants"]] == list(range(1, 31))
    assert all(record["participants"] == 4 and record["seconds"] > 0 for record in history[1:])


def test_kill_9_of_whoever_aggregates_and_of_everybody(task: Task) -> None:
    task.create(topology=TOPOLOGY, rounds=100_000, local_epochs=20)

    def round_now() -> int:
        return max((app["round"] for app in task.apps().values()), default=0)

    wait_for(lambda: round_now() >= 3, "three rounds")
    busy = wait_for(
        lambda: [number for number, app in task.apps().items() if app["phase"] == "aggregating"], "an aggregator"
    )
    before = round_now()
    task.fleet.kill(busy[0])
    wait_for(lambda: round_now() >= before + 3, "rounds without it", 120)
    task.fleet.launch(busy[0])
    task.fleet.wait_ready(busy[0])
    wait_for(lambda: task.app(busy[0]).get("round", 0) >= before + 3, "the news at the device that is back")

    before = round_now()
    for number in range(NODES):
        task.fleet.kill(number)
    for number in range(NODES):
        task.fleet.launch(number)
    for number in range(NODES):
        task.fleet.wait_ready(number)
    wait_for(lambda: round_now() >= before, "what was saved")
    wait_for(lambda: round_now() >= before + 3, "rounds after the power cut", 180)
    task.stop()
    task.wait_finished(120)
    assert task.accuracy(0) >= 0.9
