"""The emulator as a process of ours; a shell script plays it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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


def is_there(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


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
    deadline = time.monotonic() + 20
    while is_there(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_there(pid)
