"""What the scripts under tools/ decide, without running them."""

from __future__ import annotations

import json
import signal
from importlib import import_module
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).resolve().parent.parent / "tools")


def line(model: str, *losses: float) -> str:
    return json.dumps({"model": model, "machine": "aarch64", "losses": losses, "seconds": 1.0}) + "\n"


@pytest.mark.parametrize(
    ("output", "code", "errors", "verdicts"),
    [
        (line("a", 2.0, 1.0, 1.0) + line("b", 2.0, 1.0, 1.00009), 0, "", ["ok", "ok"]),
        (line("a", 2.0, 1.0, 1.0) + line("b", 2.0, 1.0, 1.00011), 0, "", ["ok", "more than 0.0001"]),
        (line("a", 2.0, 1.0, 1.0), -signal.SIGSEGV, "", ["ok", "SIGSEGV"]),
        (line("a", 2.0, 1.0, 1.0) + line("b", 2.0, 1.0, 1.0), -signal.SIGABRT, "", ["ok", "SIGABRT"]),
        ("", 1, "Traceback\nImportError: no numpy\n", ["ImportError: no numpy", "not reached"]),
    ],
    ids=["same", "different", "crash", "crash at the end", "nothing"],
)
def test_aarch64_finds_what_differs_and_what_crashed(output: str, code: int, errors: str, verdicts: list[str]) -> None:
    verdict = import_module("aarch64_check.verdict")
    here = verdict.Run("x86_64", [2.0, 1.0, 1.0], 1.0)
    there = verdict.answers(output, verdict.describe(code, errors), ["a", "b"])
    rows = [verdict.judge(model, "cortex-a53", "1.22.0", here, there[model]) for model in ("a", "b")]
    assert [row["verdict"] for row in rows] == verdicts


def test_aarch64_names_the_instruction_that_a_processor_lacks() -> None:
    assert "instruction" in import_module("aarch64_check.verdict").describe(-signal.SIGILL, "")


def test_aarch64_asks_the_machines_own_mirrors_for_another_release() -> None:
    targets = [
        "http://a/debian/ bookworm main",
        "http://a/debian/ bookworm-updates main",
        "http://b/ nodistro extra",
        "http://c/ bookworm main",
    ]
    assert import_module("aarch64_check.emulator").mirrors(targets) == ["http://a/debian/", "http://c/"]


def test_the_bench_of_learning_tells_what_was_kept(capsys: pytest.CaptureFixture[str]) -> None:
    report = import_module("learning_rows.report").Report()
    report.judge("a", 1.0, 2.0, unit="s")
    report.judge("b", 1.0, 2.0, below=False)
    assert report.failed == ["b"]
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["ok", "FAIL"]


def test_the_forest_is_the_weighted_mean_over_chains_stars_and_trees() -> None:
    """The quick row of `tools/bench learning averaging`."""
    rows = import_module("learning_rows.report")
    report = rows.Report()
    import_module("learning_rows.averaging").measure_averaging(rows.Settings(None, quick=True), report)
    assert report.failed == []
