"""`edgefl demo` as a user runs it: it ends with its result, and leaves nothing behind, however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from support.real_fleet import edgefl, wait_ended, wait_for

pytestmark = pytest.mark.e2e


def leftovers(place: Path) -> list[str]:
    """Directories below `place`, and processes that work there."""
    found = [str(path) for path in place.iterdir()]
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if str(place) in command and "demo" not in command.split():
            found.append(command)
    return found


def test_the_main_job(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = edgefl("demo", "--nodes", "4", "--rounds", "8", "--apps", "2", "--json", timeout_s=110, env=environment)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["errors"] == []
    assert (document["nodes"], document["apps"], document["rounds"]) == (4, 2, 8)
    accuracy = document["accuracy"]
    assert accuracy["federated"] >= 0.9
    assert accuracy["federated"] >= accuracy["local_mean"] + 0.15
    assert accuracy["federated"] >= accuracy["centralised"] - 0.07
    assert document["bytes_per_node"] > 10_000
    assert document["tree"]["root"] == document["applications"][0]["root"]
    for app in document["applications"]:
        assert app["root"] == app["expected_root"]
        assert [record["round"] for record in app["history"]] == list(range(9))
        assert all(record["participants"] == 4 for record in app["history"][1:])
    assert "round   8/8" in done.stderr
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_demonstration_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "edgefl", "demo", "--nodes", "3", "--rounds", "1000"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        assert demo.stderr is not None
        for line in demo.stderr:
            if "round" in line:
                break
        demo.send_signal(number)
        wait_ended(demo, 30)
    if number is signal.SIGKILL:  # nobody is left to remove the directory, but the kernel ends the daemons
        wait_for(lambda: not [found for found in leftovers(tmp_path) if "python" in found], "the daemons' end")
    else:
        assert demo.returncode == 130
        assert leftovers(tmp_path) == []
