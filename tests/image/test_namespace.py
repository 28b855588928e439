"""A namespace of one's own: what runs in it, and that it ends with the program that made it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.processes import wait_gone

from edgefl.image.namespace import run_inside
from edgefl.image.payload import BuildError


@pytest.fixture(autouse=True)
def _namespaces(tmp_path: Path) -> None:
    try:
        run_inside("true", log=tmp_path / "probe.log")
    except BuildError as error:
        pytest.skip(f"this machine gives no user namespaces: {error.cause[:200]}")


def test_root_in_there_with_many_users(tmp_path: Path) -> None:
    log = tmp_path / "log"
    run_inside("sh", "-c", 'id -u; touch "$0"; chown 1000:1000 "$0"; stat -c %u "$0"', str(tmp_path / "file"), log=log)
    assert log.read_text().split() == ["0", "1000"]


def test_a_failure_has_the_last_words(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"(?s)failed with 3.*out of paper"):
        run_inside("sh", "-c", "echo out of paper; exit 3", log=tmp_path / "log")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_in_there_outlives_the_build(how: int, tmp_path: Path) -> None:
    text = (
        "from pathlib import Path; from edgefl.image.namespace import run_inside; import sys\n"
        "run_inside('sh', '-c', 'sleep 600 & echo started; wait', log=Path(sys.argv[1]))"
    )
    log = tmp_path / "log"
    with subprocess.Popen([sys.executable, "-c", text, str(log)]) as build:
        deadline = time.monotonic() + 30
        while not (log.exists() and "started" in log.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        inside = [pid for pid in descendants(build.pid) if "sleep" in words(pid)]
        assert inside
        build.send_signal(how)
    assert all(wait_gone(pid) for pid in inside)


def descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [one for child in map(int, children) for one in (child, *descendants(child))]


def words(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
