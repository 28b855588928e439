"""Policies of three devices' owners: used in every round, named where they are missing, survived where they fail."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.real_fleet import Task, edgefl, wait_for

pytestmark = pytest.mark.e2e

OWNER = """
import os, pathlib
import numpy as np

NOTES = pathlib.Path(os.environ["OWNERS_NOTES"])


def note(line):
    with NOTES.open("a") as file:
        file.write(line + "\\n")


def screen(delta, context):
    note(f"privacy {context.round}")
    norm = np.linalg.norm(delta)
    return delta * min(1.0, 5.0 / norm)


def select(manifest, facts):
    note(f"select {facts['round']} {'on_mains' in facts}")
    return True


def never(manifest, facts):
    return False


def aggregate(model, mean, state):
    state["rounds"] = state.get("rounds", 0) + 1
    note(f"aggregate {state['rounds']}")
    return model + mean


def broken(delta, context):
    raise SystemExit("the owner made a mistake")
"""

TABLE = """
[policies]
screen = "owner:screen"
on_demand = "owner:{select}"
step = "owner:aggregate"
noise = "{noise}"
"""


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Task]:
    """Devices 0 and 1 have policies; those of 1 differ behind the same names. Device 2 has none yet."""
    (tmp_path / "owner.py").write_text(OWNER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OWNERS_NOTES", str(tmp_path / "notes"))
    task = Task(tmp_path, 3)
    noises = ("edgefl.policies:clip_and_noise:clip=5,noise=0.001", "owner:broken")
    for number, (noise, select) in enumerate(zip(noises, ("select", "never"), strict=True)):
        task.fleet.configs[number] = tmp_path / f"policies-{number}.toml"
        task.fleet.configs[number].write_text(TABLE.format(noise=noise, select=select))
    task.fleet.configs[2] = tmp_path / "policies-2.toml"
    task.fleet.configs[2].write_text("")
    with task.fleet:
        task.fleet.start()
        yield task


def row(task: Task, number: int) -> dict[str, Any]:
    """The application in `edgefl app list` of a device."""
    found = [row for row in task.fleet.client(number).call("app.list") if row["id"] == task.id]
    return found[0] if found else {}


def finished(task: Task, *numbers: int) -> None:
    wait_for(lambda: all(row(task, number).get("finished") for number in numbers), "the end")


def test_policies_in_every_round_and_the_reason_where_one_is_missing(task: Task, tmp_path: Path) -> None:
    task.create(rounds=3, min_members=2, policies="privacy=screen,aggregate=step")
    finished(task, 0, 1)
    notes = (tmp_path / "notes").read_text().splitlines()
    assert sorted(note for note in notes if note.startswith("privacy")) == sorted(
        f"privacy {round_}" for round_ in (1, 2, 3) for _ in range(2)
    )
    assert [note for note in notes if note.startswith("aggregate")] == ["aggregate 1", "aggregate 2", "aggregate 3"]
    assert task.accuracy(0) > 0.5
    wait_for(lambda: row(task, 2), "the application in the list of the device that takes no part")
    found = row(task, 2)
    assert found["stage"] == "ignored"
    assert "no policy named" in found["problem"]
    shown = edgefl("app", "list", "--state", str(task.fleet.state(2)))
    assert "no policy named" in shown.stdout
    # Its owner adds them, and it takes part: here in what is left of it, the final model.
    task.fleet.configs[2].write_text(TABLE.format(noise="owner:broken", select="never"))
    task.fleet.processes[2].send_signal(signal.SIGHUP)
    finished(task, 2)
    assert row(task, 2)["stage"] == "member"
    # The creating device is asked before anything is announced.
    refused = edgefl(
        "app", "create", str(tmp_path / "artifacts"), "--name", "x", "--data", "digits", "--policies",
        "privacy=theirs", "--state", str(task.fleet.state(0)),
    )  # fmt: skip
    assert refused.returncode == 78
    assert "'theirs'" in refused.stderr
    assert "next:" in refused.stderr


def test_a_policy_that_fails_costs_its_device_a_round_and_the_daemon_nothing(task: Task) -> None:
    task.create(rounds=10_000, min_members=2, quorum=0.5, policies="privacy=noise")

    def shown() -> bool:
        return any("the owner made a mistake" in problem for problem in task.fleet.status(1)["problems"])

    wait_for(shown, "the error in the status of the device whose policy fails")
    wait_for(lambda: row(task, 1)["counters"].get("training_failed", 0) >= 3, "three rounds without it")
    wait_for(lambda: row(task, 0).get("round", 0) >= 3, "three rounds of the other one")
    task.stop()
    finished(task, 0, 1)
    history = task.fleet.client(0).call("app.history", app=task.id)
    assert {record["participants"] for record in history[1:]} == {1}


def test_a_device_that_its_owner_does_not_select_delivers_nothing(task: Task, tmp_path: Path) -> None:
    task.create(rounds=2, min_members=2, quorum=0.5, policies="select=on_demand")
    finished(task, 0, 1)
    history = task.fleet.client(0).call("app.history", app=task.id)
    assert [record["participants"] for record in history[1:]] == [1, 1]
    notes = (tmp_path / "notes").read_text().splitlines()
    assert [note.split()[:2] for note in notes] == [["select", "1"], ["select", "2"]]
    assert task.fleet.status(1)["problems"] == []
    assert row(task, 1)["counters"]["training_declined"] == 2
    assert "training_failed" not in row(task, 1)["counters"]


def test_privacy_holds_where_there_is_no_root_either(task: Task, tmp_path: Path) -> None:
    task.create(topology="sampled", rounds=4, min_members=2, policies="privacy=screen")
    finished(task, 0, 1)
    notes = (tmp_path / "notes").read_text().splitlines()
    assert {note for note in notes if note.startswith("privacy")} == {f"privacy {round_}" for round_ in (1, 2, 3, 4)}
