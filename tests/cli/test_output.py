"""What commands print: tables, one JSON document, errors with their next step."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from edgefl.cli import VERBS, main
from edgefl.cli.output import emit_json, emit_pairs, emit_table, report_errors
from edgefl.errors import (
    ConfigError,
    EdgeflError,
    NotAdmittedError,
    StorageError,
    UnreachableError,
    UsageError,
    WireError,
)


def test_tables_line_up(capsys: pytest.CaptureFixture[str]) -> None:
    emit_table([("a", 1, None), ("long name", 22, 3.5)], ("NAME", "N", "X"))
    assert capsys.readouterr().out.splitlines() == [
        "NAME       N   X",
        "a          1   -",
        "long name  22  3.5",
    ]
    emit_pairs([("key", "value"), ("longer", None)])
    assert capsys.readouterr().out.splitlines() == ["key     value", "longer  -"]


def test_documents_carry_the_schema_version(capsys: pytest.CaptureFixture[str]) -> None:
    emit_json({"a": 1})
    assert json.loads(capsys.readouterr().out) == {"edgefl": 1, "a": 1}
    emit_json({"a": [1, 2]}, stream=True)
    assert capsys.readouterr().out == '{"edgefl":1,"a":[1,2]}\n'
    with pytest.raises(ValueError, match="JSON"):
        emit_json({"a": float("nan")})


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError, 2),
        (UnreachableError, 69),
        (StorageError, 75),
        (WireError, 76),
        (NotAdmittedError, 77),
        (ConfigError, 78),
        (EdgeflError, 1),
    ],
)
def test_errors_become_name_cause_next_step_and_exit_code(error: type[EdgeflError], code: int) -> None:
    @click.command()
    @report_errors
    def command() -> None:
        raise error("it is so", hint="do this")

    result = CliRunner().invoke(command)
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr == f"edgefl: {error.name}: it is so\n  next: do this\n"


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_explains_itself(verb: str) -> None:
    result = CliRunner().invoke(main, [verb, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.stdout
    assert CliRunner().invoke(main, [verb, "-h"]).stdout == result.stdout


def test_an_unknown_verb_is_wrong_usage() -> None:
    result = CliRunner().invoke(main, ["fly"])
    assert result.exit_code == 2
    assert "fly" in result.stderr


def test_paths_and_versions(tmp_path: Path) -> None:
    paths = json.loads(CliRunner().invoke(main, ["paths", "--state", str(tmp_path), "--json"]).stdout)
    assert paths["control_socket"] == str(tmp_path / "edgefl.sock")
    version = json.loads(CliRunner().invoke(main, ["version", "--json"]).stdout)
    assert version["protocol"] == {"oldest": 1, "newest": 1}
    assert version["pyzmq"]


def test_targets_are_parsed() -> None:
    from edgefl.api.app import parse_target

    assert parse_target("accuracy>=0.95") == ("accuracy", 0.95)
    assert parse_target(None) is None
    for text in ("accuracy", ">=1", "accuracy>=high", "accuracy<0.5"):
        with pytest.raises(UsageError, match="no target"):
            parse_target(text)
