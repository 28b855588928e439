"""What importing edgefl does to a process: little, and nothing behind the user's back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("numpy", "onnxruntime", "onnx", "zmq", "psutil", "nacl", "cbor2", "asyncio", "sqlite3", "matplotlib")


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment or None, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def imported_by(code: str) -> set[str]:
    listed = run(f"{code}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])")
    return set(listed.splitlines()[-1].split()) if listed.strip() else set()


@pytest.mark.parametrize("arguments", [["--help"], ["join", "--help"], ["app", "--help"], ["app", "create", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import contextlib, io\nfrom edgefl.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        f"    main({arguments!r})"
    )
    assert imported_by(code) == set()


def test_an_idle_daemon_holds_neither_numpy_nor_onnxruntime() -> None:
    assert imported_by("import edgefl.daemon.daemon, edgefl.daemon.verbs") & {"numpy", "onnxruntime", "onnx"} == set()


def test_the_start_of_a_daemon_reads_no_record_that_it_does_not_use() -> None:
    code = "import edgefl.daemon.daemon\nfrom edgefl.wire import codec\nprint(len(codec._records), len(codec._fields))"
    declared, used = map(int, run(code).split())
    assert declared > 80
    assert used == 0


COMPILED = """
import sys
def note(event, arguments):
    if event == "compile" and arguments[1] == "<string>" and "self" in str(arguments[0]):
        frame = sys._getframe(1)
        written = frame.f_globals["__name__"] == "dataclasses"
        while frame.f_globals["__name__"] in ("dataclasses", "edgefl.declared"):
            frame = frame.f_back
        if written and frame.f_globals["__name__"].startswith("edgefl"):
            print(frame.f_globals["__name__"])
sys.addaudithook(note)
"""
"""Says which modules had methods of their classes written."""


def test_the_start_of_a_daemon_writes_no_method_of_a_class() -> None:
    declare = "from dataclasses import dataclass\n@dataclass\nclass Usual:\n    name: str"
    assert run(COMPILED + "__name__ = 'edgefl.example'\n" + declare).split()[0] == "edgefl.example"
    assert run(COMPILED + "import edgefl.daemon.daemon, edgefl.daemon.membership, edgefl.cli.join").split() == []


def test_the_start_of_a_daemon_waits_only_for_what_it_needs() -> None:
    modules = "edgefl.daemon.daemon, edgefl.daemon.membership, edgefl.cli.join"
    code = f"import sys\nbefore = set(sys.modules)\nimport {modules}\nprint(*(set(sys.modules) - before))"
    assert {"statistics", "fractions", "shutil", "tempfile"}.isdisjoint(run(code).split())


@pytest.mark.parametrize(
    ("modules", "spared"),
    [
        ("edgefl.firstboot.__main__", {"edgefl.firstboot.steps", "edgefl.config", "subprocess", "hashlib", "tempfile"}),
        ("edgefl.firstboot.steps, edgefl.firstboot.host", {"subprocess", "hashlib", "tempfile"}),
    ],
)
def test_a_boot_waits_only_for_what_it_needs_of_first_boot(modules: str, spared: set[str]) -> None:
    code = f"import sys\nbefore = set(sys.modules)\nimport {modules}\nprint(*(set(sys.modules) - before))"
    assert spared.isdisjoint(run(code).split())


def test_the_trainer_is_there_without_the_rest() -> None:
    assert imported_by("import edgefl.trainer") == set()
    loaded = imported_by("from edgefl.trainer import Session")
    assert "onnxruntime" in loaded
    assert "onnx" not in loaded
    assert "zmq" not in loaded


def test_onnxruntime_does_not_phone_home(tmp_path: Path) -> None:
    """Its identifier file is written with the first sign of life of its telemetry; from 1.29 on that is the default."""
    run("import edgefl, onnxruntime", TMPDIR=str(tmp_path), HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    assert list(tmp_path.iterdir()) == []
