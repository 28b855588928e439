"""docs/api.md as it stands: its first program on three real devices, which agree on the mean, also without their root;
its second beside three daemons."""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.real_fleet import WAIT_S, Task, edgefl, wait_ended, wait_for

from edgefl.demo import digits

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

DOCS = Path(__file__).resolve().parents[2] / "docs" / "api.md"


def program(number: int) -> str:
    """A program of the guide."""
    found: list[str] = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    return found[number]


class Programs:
    """Processes of temperature.py in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        (directory / "temperature.py").write_text(program(0))
        (directory / "edgefl.toml").write_text('listen = "127.0.0.1:0"\n')

    def start(self, name: str, degrees: float, *token: str) -> None:
        (self.directory / f"thermometer-{name}").write_text(str(degrees))
        with (self.directory / f"{name}.out").open("ab") as out, (self.directory / f"{name}.err").open("ab") as err:
            self.running[name] = subprocess.Popen(
                [sys.executable, "temperature.py", name, f"thermometer-{name}", *token],
                cwd=self.directory,
                stdout=out,
                stderr=err,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
            )

    def lines(self, name: str) -> list[str]:
        for one, process in self.running.items():
            assert process.poll() is None, (self.directory / f"{one}.err").read_text()
        return (self.directory / f"{name}.out").read_text().splitlines()

    def stop(self) -> None:
        for process in self.running.values():
            if process.poll() is None:
                process.kill()
            process.wait()


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    programs = Programs(tmp_path)
    yield programs
    programs.stop()


def test_the_program_of_the_guide(programs: Programs) -> None:
    here = programs.directory
    edgefl("fleet", "new", "--out", "fleet", cwd=here)
    programs.start("a", 21.0)
    assert edgefl("wait", "ready", "--timeout", str(WAIT_S), "--state", "a", cwd=here).returncode == 0
    invited = edgefl("fleet", "invite", "--fleet", "fleet", "--state", "a", cwd=here)
    assert invited.returncode == 0, invited.stderr
    (here / "token").write_text(invited.stdout)
    programs.start("b", 23.0, "token")
    programs.start("c", 25.0, "token")

    def all_say(text: str, *names: str) -> bool:
        return all(any(line.endswith(text) for line in programs.lines(name)) for name in names)

    wait_for(lambda: all_say(": 23.00 °C of 3 devices", "a", "b", "c"), "the mean of three devices")
    (here / "thermometer-c").write_text("31.0")
    wait_for(lambda: all_say(": 25.00 °C of 3 devices", "a", "b", "c"), "the mean after a change")

    # The same rounds say the same everywhere.
    spoken: dict[str, set[str]] = {}
    for name in ("a", "b", "c"):
        for line in programs.lines(name):
            spoken.setdefault(line.partition(":")[0], set()).add(line)
    assert all(len(lines) == 1 for lines in spoken.values()), spoken

    trees = {name: edgefl("status", "--json", "--state", name, cwd=here).stdout for name in ("a", "b", "c")}
    (root,) = [name for name, text in trees.items() if '"is_root": true' in text.partition('"trees"')[2]]
    programs.running.pop(root).kill()
    left = {"a": 21.0, "b": 23.0, "c": 31.0}
    del left[root]
    mean = sum(left.values()) / 2
    wait_for(lambda: all_say(f": {mean:.2f} °C of 2 devices", *left), "the mean without the root", 90.0)

    for process in programs.running.values():  # Ctrl-C says goodbye
        process.send_signal(signal.SIGINT)
    for name, process in programs.running.items():
        assert wait_ended(process, 20.0) == 0, (here / f"{name}.err").read_text()
        assert "Task was destroyed" not in (here / f"{name}.err").read_text()


def test_the_program_that_trains(tmp_path: Path) -> None:
    task = Task(tmp_path, 3)
    (tmp_path / "mlp.onnx").write_bytes(digits.make_model("mlp", 0))
    (tmp_path / "train.py").write_text(program(1))
    shutil.rmtree(tmp_path / "artifacts")  # the program makes them itself
    with task.fleet:
        task.fleet.start()
        command = [sys.executable, "train.py", str(task.fleet.state(0)), "mlp.onnx", "3"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120.0)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    models = [line for line in lines if line.startswith("model ")]
    assert lines[0].startswith("round 0 ")
    assert 2 <= len(models) <= 21
    found = {
        int(number): float(accuracy) for number, accuracy in re.findall(r"model (\d+): .* accuracy (.+)", done.stdout)
    }
    pulled = ast.literal_eval(lines[-1])
    assert found[pulled["round"]] == max(found.values())
    assert found[pulled["round"]] >= 0.9 or len(models) == 21
    assert pulled["finished"]
    assert digits.accuracy_of_file(tmp_path / "trained.onnx", task.division.test) >= 0.85
