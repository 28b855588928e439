"""Everything that can be wrong gets a clear error with the next step and its exit code, and the fleet goes on."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.real_fleet import Task, edgefl, wait_ended, wait_for

from edgefl.config import split_address
from edgefl.control import ControlError
from edgefl.demo import digits
from edgefl.demo.local_fleet import LocalFleet
from edgefl.identity.fleet import FleetKey
from edgefl.identity.token import Bootstrap

pytestmark = pytest.mark.e2e


@pytest.fixture
def task(tmp_path: Path) -> Iterator[Task]:
    """Three devices, ready."""
    task = Task(tmp_path, 3)
    with task.fleet:
        task.fleet.start()
        yield task


def trains_to_the_end(task: Task) -> None:
    """The proof that the fleet goes on."""
    task.create(rounds=2, min_members=1)
    task.wait_finished()


def door(task: Task) -> tuple[str, int]:
    return split_address(task.fleet.status(0)["address"])


def test_the_door_stays_shut_for_strangers(task: Task, tmp_path: Path) -> None:
    address = task.fleet.status(0)["address"]
    (tmp_path / "other").mkdir()
    other = FleetKey.create(tmp_path / "other").invite([Bootstrap(*door(task))])

    def join(state: str, *options: str) -> subprocess.CompletedProcess[str]:
        return edgefl("join", "--state", str(tmp_path / state), "--listen", "127.0.0.1:0", *options)

    wrong_fleet = join("x1", "--token", other.text)
    assert wrong_fleet.returncode == 77
    assert "wrong fleet" in wrong_fleet.stderr
    assert "next:" in wrong_fleet.stderr
    wait_for(lambda: "wrong fleet" in task.fleet.log(0), "the door's own word about it")

    token = (tmp_path / "token").read_text()
    cut_off = join("x2", "--token", token[:-9])
    assert (cut_off.returncode, "cut off" in cut_off.stderr) == (2, True)
    mistyped = join("x3", "--token", token[:40] + ("A" if token[40] != "A" else "B") + token[41:])
    assert mistyped.returncode in (2, 77)
    no_token_at_all = join("x4", "--token", "hunter2")
    assert no_token_at_all.returncode == 2
    assert "edgefl1-" in no_token_at_all.stderr
    missing = join("x5", "--token", f"file:{tmp_path / 'missing'}")
    assert missing.returncode == 78
    nowhere = join("x6")
    assert nowhere.returncode == 2
    assert "--bootstrap" in nowhere.stderr
    no_key = join("x7", "--first", "--fleet", str(tmp_path / "nothing"))
    assert no_key.returncode == 78
    assert "edgefl fleet new" in no_key.stderr

    with subprocess.Popen(
        [sys.executable, "-m", "edgefl", "join", "--state", str(tmp_path / "x8"), "--bootstrap", address,
         "--listen", "127.0.0.1:0"],
        stderr=subprocess.PIPE, text=True,
    ) as waiting:  # fmt: skip
        assert waiting.stderr is not None
        for line in waiting.stderr:
            if "waiting for approval" in line:
                break
        waiting.terminate()
        assert wait_ended(waiting, 10) == 0
    assert len(task.fleet.client(0).call("fleet.pending")) == 1
    trains_to_the_end(task)


def test_a_token_can_be_used_up(task: Task, tmp_path: Path) -> None:
    key = FleetKey.load(tmp_path)
    text = key.invite([Bootstrap(*door(task))], uses=1).text
    with LocalFleet(tmp_path, 5, [{}] * 5) as guests:
        guests.launch(3, "--token", text)
        guests.wait_ready(3)
        guests.launch(4, "--token", text)
        wait_for(lambda: guests.processes[4].poll() is not None, "the second guest to be refused")
        assert guests.processes[4].returncode == 77
        assert "token used up" in guests.log(4)


def test_garbage_on_every_port(task: Task) -> None:
    """Random bytes, broken greetings, silence and oversized frames, on the door and on both ZeroMQ ports."""
    host, _ = door(task)
    chance = secrets.token_bytes
    ports = sorted({connection.laddr.port for connection in _listening(task.fleet.processes[0].pid)})
    assert len(ports) == 3
    payloads = [
        chance(10),
        chance(100_000),
        b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48),  # a ZMTP greeting without encryption
        b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x01CURVE" + bytes(15) + b"\x00" * 31 + chance(300),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"edgefl door\0" + chance(500),
        b"",
    ]
    silent = []
    for port in ports:
        for payload in payloads * 3:
            with contextlib.suppress(OSError):
                connection = socket.create_connection((host, port), timeout=5)
                silent.append(connection)
                connection.sendall(payload)
    trains_to_the_end(task)
    for connection in silent:
        connection.close()
    status = task.fleet.status(0)
    assert status["problems"] == []
    assert any(name.startswith("refused.") for name in status["traffic"])


def _listening(pid: int) -> list[object]:
    import psutil

    return [c for c in psutil.Process(pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN]


def test_data_that_does_not_fit(task: Task, tmp_path: Path) -> None:
    """Refused where the application is created, and by every other device for itself; the others train."""
    bad = tmp_path / "bad.npz"
    np.savez(bad, x=np.zeros((20, 63), np.float32), y=np.zeros(20, np.int64))
    with LocalFleet(tmp_path, 4, [{}, {}, {}, {"digits": str(bad)}]) as guest:
        guest.launch(3, "--token", f"file:{tmp_path / 'token'}")
        guest.wait_ready(3)
        with pytest.raises(ControlError, match="63") as caught:
            guest.client(3).call("app.create", directory=str(tmp_path / "artifacts"), name="digits", data="digits")
        assert caught.value.hint
        trains_to_the_end(task)

        def refusal() -> str:
            rows = guest.client(3).call("app.list")
            return next((row["problem"] for row in rows if row["stage"] == "refused"), "")

        assert "[63], the model takes [64]" in wait_for(refusal, "the refusal to be shown")
    labels = tmp_path / "labels.npz"
    np.savez(labels, x=np.zeros((20, 64), np.float32), y=np.full(20, 10))
    missing = edgefl("app", "create", str(tmp_path / "nothing"), "--name", "a", "--data", "digits",
                     "--state", str(task.fleet.state(0)))  # fmt: skip
    assert missing.returncode == 78
    assert "artifacts build" in missing.stderr


def test_models_that_cannot_be_used(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    (tmp_path / "text.onnx").write_text("this is no model")
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0])
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Asinh", ["h"], ["y"], name="mine")]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "odd.onnx")

    def build(name: str) -> subprocess.CompletedProcess[str]:
        return edgefl("artifacts", "build", str(tmp_path / name), "--loss", "mse", "-o", str(tmp_path / "out"))

    for name, words in (
        ("text.onnx", ["text.onnx"]),
        ("missing.onnx", ["missing.onnx"]),
        ("odd.onnx", ["'mine'", "Asinh", "opset 21", "--frozen"]),
    ):
        done = build(name)
        assert done.returncode == 78, done.stderr
        assert "next:" in done.stderr
        assert "Traceback" not in done.stderr
        for word in words:
            assert word in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk(tmp_path: Path) -> None:
    """The state of one device is on a disk of 1.5 MB that fills up in mid-training: the device says so, the daemon and
    the fleet go on, and when there is room again everything is saved."""
    task = Task(tmp_path, 3)
    small = task.fleet.state(1)
    small.mkdir()
    subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", "size=1500k,mode=700", "tmpfs", str(small)], check=True)
    try:
        with task.fleet:
            task.fleet.start()
            task.create(rounds=100_000, local_epochs=30)
            wait_for(lambda: task.app(1).get("round", 0) >= 1, "the first round on the small disk")
            filler = small / "filler"
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))

            def complains() -> list[str]:
                problems: list[str] = task.fleet.status(1)["problems"]
                return [problem for problem in problems if "full" in problem or "No space" in problem]

            # Only the root and its runners-up write; device 1 of three is always one of them.
            problem = wait_for(complains, "the small disk's complaint")[0]
            assert "free some space" in problem
            reached = task.app(1)["round"]
            wait_for(lambda: task.app(1)["round"] > reached + 1, "the device going on")
            filler.unlink()
            wait_for(lambda: not complains(), "the complaint to end")
            task.stop()
            task.wait_finished()
            assert task.accuracy(1) == task.accuracy(0)
            assert all(status["problems"] == [] for status in task.fleet.statuses().values())
    finally:
        subprocess.run(["/bin/umount", "-l", str(small)], check=True)


def test_a_port_that_is_taken_and_a_directory_in_use(task: Task, tmp_path: Path) -> None:
    _, port = door(task)
    taken = edgefl("join", "--state", str(tmp_path / "y1"), "--first", "--fleet", str(tmp_path),
                   "--listen", f"127.0.0.1:{port}")  # fmt: skip
    assert taken.returncode == 78
    assert "--listen" in taken.stderr
    in_use = edgefl("join", "--state", str(task.fleet.state(0)))
    assert in_use.returncode == 78
    assert "another edgefl daemon" in in_use.stderr


def test_no_daemon_here() -> None:
    for verb in (
        ["status"],
        ["app", "list"],
        ["peers"],
        ["members"],
        ["rtt", "ab"],
        ["wait", "ready", "--timeout", "1"],
    ):
        done = edgefl(*verb, "--state", "/nonexistent")
        assert done.returncode == 69
        assert "edgefl join" in done.stderr


def test_errors_leave_standard_output_to_the_answer(task: Task) -> None:
    done = edgefl("app", "show", "nothing", "--json", "--state", str(task.fleet.state(0)))
    assert (done.returncode, done.stdout) == (2, "")
    assert "edgefl app list" in done.stderr
    listed = edgefl("app", "list", "--json", "--state", str(task.fleet.state(0)))
    assert json.loads(listed.stdout) == {"edgefl": 1, "applications": []}


def test_manifests_that_no_device_would_run(task: Task) -> None:
    directory = str(task.directory / "artifacts")
    for options, field in (
        ({"quorum": 1.5}, "quorum"),
        ({"rounds": 0}, "rounds"),
        ({"strategy": "magic"}, "strategy"),
        ({"strategy": "fedadam:beta1=1"}, "strategy"),
        ({"topology": "ring"}, "topology"),
        ({"topology": "consensus:steps=0"}, "steps"),
        ({"lr_schedule": "cosine:floor=2"}, "lr_schedule"),
        ({"patience": 10**9}, "patience"),
        ({"personal": ["heads.*"]}, "no tensor of the model is called 'heads"),
        ({"personal": ["*"]}, "share nothing"),
        ({"deadline_s": 0.0}, "deadline_s"),
    ):
        with pytest.raises(ControlError, match=field):
            task.fleet.client(0).call("app.create", directory=directory, name="bad", data="digits", **options)
    assert digits.RECIPES
    assert task.fleet.client(0).call("app.list") == []
