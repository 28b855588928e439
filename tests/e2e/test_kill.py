"""kill -9 of workers, interior devices and the root in mid-round: real processes, real sockets, real training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.real_fleet import Task, wait_for

pytestmark = pytest.mark.e2e

NODES = 6
SLOW_EPOCHS = 20
"""Local epochs that make a round last long enough to be struck in its middle."""


@pytest.fixture
def task(tmp_path: Path) -> Iterator[Task]:
    task = Task(tmp_path, NODES)
    with task.fleet:
        task.fleet.start()
        yield task


class Rounds:
    """What every device has shown as its round: it must never decrease."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._highest: dict[str, int] = {}

    def look(self) -> int:
        """The highest round that any running device shows now."""
        now = 0
        for number, app in self._task.apps().items():
            name = f"device {number}"
            assert app["round"] >= self._highest.get(name, 0), f"{name} went back from {self._highest[name]}"
            self._highest[name] = app["round"]
            now = max(now, app["round"])
        return now

    def restarted(self, number: int) -> None:
        self._highest.pop(f"device {number}", None)


def strike(task: Task, rounds: Rounds, victim: int) -> None:
    """Kill a device while a round is under way."""

    def under_way() -> bool:
        rounds.look()
        root = next((app for app in task.apps().values() if app["is_root"]), None)
        return root is not None and root["phase"] == "running"

    wait_for(under_way, "a round under way")
    task.fleet.kill(victim)


def interior(task: Task) -> int | None:
    """A device with children that is not the root, if the tree has one."""
    for number, app in task.apps().items():
        if app["children"] and not app["is_root"]:
            return number
    return None


def finish(task: Task, rounds: Rounds) -> None:
    def done() -> bool:
        rounds.look()
        apps = task.apps()
        return bool(apps) and all(app["finished"] for app in apps.values())

    wait_for(done, "the application's end", 90)
    task.wait_finished()


def test_the_application_survives_worker_interior_and_root(task: Task) -> None:
    """One after the other, each in mid-round; all come back by themselves, and the accuracy is that of a quiet run."""
    task.create(rounds=100_000, local_epochs=SLOW_EPOCHS)
    rounds = Rounds(task)
    root = task.root()
    wait_for(lambda: rounds.look() >= 1, "the first round")
    ids = {number: status["node"] for number, status in task.fleet.statuses().items()}

    leaf = next(number for number, app in task.apps().items() if not app["children"] and number != root)
    strike(task, rounds, leaf)
    task.fleet.launch(leaf)
    task.fleet.wait_ready(leaf)
    rounds.restarted(leaf)
    assert task.fleet.status(leaf)["node"] == ids[leaf]

    middle = interior(task)
    if middle is not None:
        strike(task, rounds, middle)
        task.fleet.launch(middle)
        task.fleet.wait_ready(middle)
        rounds.restarted(middle)

    root = task.root()
    strike(task, rounds, root)
    before = rounds.look()
    wait_for(lambda: rounds.look() > before, "progress without the root")
    task.fleet.launch(root)
    task.fleet.wait_ready(root)
    rounds.restarted(root)
    assert task.fleet.status(root)["node"] == ids[root]

    wait_for(lambda: len(task.apps()) == NODES, "every device back in its application")
    before = rounds.look()
    wait_for(lambda: rounds.look() > before + 8, "progress with everybody back")
    task.stop()
    finish(task, rounds)
    wait_for(lambda: len({app["round"] for app in task.apps().values()}) == 1, "one end for all")
    assert {task.accuracy(number) for number in (leaf, root)} == {task.accuracy(0)}
    assert task.accuracy(0) >= 0.93
    for number, status in task.fleet.statuses().items():
        assert status["problems"] == [], f"device {number}"


def test_the_whole_fleet_loses_power_at_once(task: Task) -> None:
    task.create(rounds=5, local_epochs=SLOW_EPOCHS)
    rounds = Rounds(task)
    wait_for(lambda: rounds.look() >= 2, "two rounds")
    for number in range(NODES):
        task.fleet.kill(number)
    for number in range(NODES):
        task.fleet.launch(number)
        rounds.restarted(number)
    for number in range(NODES):
        task.fleet.wait_ready(number)
    task.wait_finished(90)
    history = task.fleet.client(task.root()).call("app.history", app=task.id)
    assert [record["round"] for record in history] == [0, 1, 2, 3, 4, 5]
    assert task.accuracy(0) >= 0.9
