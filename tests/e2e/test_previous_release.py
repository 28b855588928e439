"""Field updates: devices with the previous release and with this one are one fleet, and train together.

EDGEFL_PREVIOUS names the interpreter of a virtual environment with the previous release:

    python3 -m venv /tmp/previous && /tmp/previous/bin/pip install edgefl==PREVIOUS
    EDGEFL_PREVIOUS=/tmp/previous/bin/python ./tools/test tests/e2e/test_previous_release.py
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support.real_fleet import Task

import edgefl

PREVIOUS = os.environ.get("EDGEFL_PREVIOUS", "")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not PREVIOUS, reason="EDGEFL_PREVIOUS names no interpreter with the previous release"),
]


def test_the_previous_release_is_another_one() -> None:
    told = "import edgefl; print(edgefl.__file__)"
    done = subprocess.run([PREVIOUS, "-I", "-c", told], capture_output=True, text=True, timeout=60, check=True)
    assert Path(done.stdout.strip()).resolve() != Path(edgefl.__file__).resolve()


@pytest.mark.parametrize("old", [(1, 2), (0,)], ids=["old workers", "old first device"])
def test_the_previous_release_and_this_one_train_together(old: tuple[int, ...], tmp_path: Path) -> None:
    task = Task(tmp_path, 4)
    task.fleet.pythons = dict.fromkeys(old, PREVIOUS)
    with task.fleet:
        task.fleet.start()
        task.create(rounds=6)
        task.wait_finished()
        history = task.fleet.client(3).call("app.history", app=task.id)
        assert all(record["participants"] == 4 for record in history[1:]), history
        assert {task.accuracy(number) for number in old} == {task.accuracy(3)}
        nodes = {number: status["node"] for number, status in task.fleet.statuses().items()}
        for number in old:  # a device is updated in place: its state directory is the old release's
            task.fleet.kill(number)
            task.fleet.pythons.pop(number)
            task.fleet.launch(number)
            task.fleet.wait_ready(number)
            assert task.fleet.status(number)["node"] == nodes[number]
        assert all(status["problems"] == [] for status in task.fleet.statuses().values())
