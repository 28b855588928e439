"""`edgefl wait ready` right after `edgefl join &`: the daemon is not there yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgefl.cli import main
from edgefl.control import ControlClient
from edgefl.errors import EXIT_UNREACHABLE, UnreachableError


def answer_after(looks: int, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A daemon that is there from that look on; what it was asked."""
    asked: list[dict[str, Any]] = []

    def call(self: ControlClient, verb: str, **arguments: Any) -> dict[str, Any]:
        asked.append({"verb": verb, **arguments})
        if len(asked) <= looks:
            raise UnreachableError("no daemon answers", hint="start it")
        return {"ready": True}

    monkeypatch.setattr(ControlClient, "call", call)
    monkeypatch.setattr("edgefl.cli.status.APPEAR_S", 0.0)
    return asked


def wait(*arguments: str, state: Path) -> int:
    return CliRunner().invoke(main, ["wait", *arguments, "--state", str(state)]).exit_code


def test_it_waits_for_a_daemon_that_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answer_after(3, monkeypatch)
    assert wait("ready", state=tmp_path / "none yet") == 0
    assert len(asked) == 4
    assert 0 < asked[-1]["timeout_s"] <= asked[0]["timeout_s"] <= 60


def test_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_after(10**9, monkeypatch)
    assert wait("ready", "--timeout", "0.05", state=tmp_path) == EXIT_UNREACHABLE


def test_rounds_are_of_a_daemon_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answer_after(1, monkeypatch)
    assert wait("round", "3", state=tmp_path) == EXIT_UNREACHABLE
    assert len(asked) == 1
