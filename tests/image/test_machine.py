"""The emulator as a process of ours; a shell script plays it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.processes import is_there, wait_gone

from edgefl.image import machine

STARTER = """
import sys, time
from pathlib import Path
from edgefl.image import machine
machine.PC_FIRMWARE = machine.PC_VARIABLES = (sys.argv[1],)
one = machine.Machine(Path(sys.argv[1]), "pc", Path(sys.argv[2]))
one.start()
print(one._process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_no_machine_outlives_the_trial(how: int, tmp_path: Path) -> None:
    program = tmp_path / "qemu-system-x86_64"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    (tmp_path / "image").touch()
    surroundings = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [sys.executable, "-c", STARTER, str(tmp_path / "image"), str(tmp_path / "console")]
    with subprocess.Popen(command, env=surroundings, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        assert is_there(pid)
        starter.send_signal(how)
    assert wait_gone(pid)


def test_how_far_a_machine_has_come_is_counted_from_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "qemu-system-x86_64"
    program.write_text("#!/bin/sh\nwhile :; do :; done\n")
    program.chmod(0o755)
    (tmp_path / "image").touch()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name in ("PC_FIRMWARE", "PC_VARIABLES"):
        monkeypatch.setattr(machine, name, (str(tmp_path / "image"),))
    with machine.Machine(tmp_path / "image", "pc", tmp_path / "console") as one:
        assert one.processor_s() == 0.0
        one.start()
        while one.processor_s() < 0.2:
            assert one.running()
        one.cut_power()
        assert one.processor_s() == 0.0
