"""`edgefl doctor` as it is typed: for people, for programs, and its exit code."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgefl.cli import main


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr("os.geteuid", lambda: 1000)


def test_a_device_without_a_daemon(tmp_path: Path) -> None:
    config = tmp_path / "my.toml"
    config.write_text('listen = "127.0.0.1:0"\n')
    common = ["doctor", "--state", str(tmp_path / "state"), "--config", str(config)]
    done = CliRunner().invoke(main, [*common, "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert (document["edgefl"], document["verdict"]) == (1, "warn")
    names = [check["name"] for check in document["checks"]]
    assert names[0] == "python"
    assert {"onnxruntime", "disk", "memory", "clock", "ports", "daemon"} <= set(names)
    assert all(set(check) == {"name", "verdict", "says", "next"} for check in document["checks"])
    text = CliRunner().invoke(main, common).stdout
    assert "warn  daemon" in text
    assert "next: edgefl join" in text
    assert not (tmp_path / "state").exists(), "looking changes nothing"


def test_what_makes_it_impossible_to_work_is_exit_code_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        config = tmp_path / "my.toml"
        config.write_text(f'listen = "127.0.0.1:{server.getsockname()[1]}"\n')
        arguments = ["doctor", "--state", str(tmp_path), "--config", str(config), "--token", "edgefl1-x", "--json"]
        done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    failed = {check["name"] for check in json.loads(done.stdout)["checks"] if check["verdict"] == "fail"}
    assert failed == {"ports", "token"}
