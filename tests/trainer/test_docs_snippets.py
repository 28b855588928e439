"""docs/trainer.md does what it says: its snippets run as they stand, from top to bottom, and it leaves nothing out.

```python run          run in one namespace, in one directory
```sh run              the lines that begin with edgefl, by the command line's own parser
```text                behind one of these: what it printed
```python needs=A,B    run by itself, where the packages A and B are installed
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from edgefl.cli import main
from edgefl.cli.artifacts import artifacts
from edgefl.trainer import Session
from edgefl.trainer.building.optimizers import OPTIMIZERS
from edgefl.trainer.files import manifest
from edgefl.trainer.files.loss_options import OPTIONS
from edgefl.trainer.reading.functions import MAX_NODES
from edgefl.trainer.reading.opset import NEWEST, OLDEST
from edgefl.trainer.running.data import MAX_SOURCE_BYTES
from edgefl.trainer.running.schedule import parse_schedule

PAGE = Path(__file__).resolve().parents[2] / "docs" / "trainer.md"
TEXT = PAGE.read_text()


@dataclass(frozen=True)
class Block:
    language: str
    flag: str
    code: str
    line: int

    def run(self, namespace: dict[str, Any]) -> str:
        """What it prints."""
        printed = io.StringIO()
        if self.language == "python":
            with contextlib.redirect_stdout(printed):
                exec(compile("\n" * self.line + self.code, str(PAGE), "exec"), namespace)  # noqa: S102 - our own page
            return printed.getvalue()
        for line in self.code.replace("\\\n", "").splitlines():
            program, *arguments = shlex.split(line)
            assert program == "edgefl"
            result = CliRunner().invoke(main, arguments)
            assert result.exit_code == 0, (line, result.output, result.exception)
            printed.write(result.stdout)
        return printed.getvalue()


def blocks() -> Iterator[Block]:
    for found in re.finditer(r"^```(\w+) ?(\S*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL):
        yield Block(*found.groups(), line=TEXT[: found.start()].count("\n") + 1)


BLOCKS = list(blocks())


def test_the_snippets_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    printed = ""
    for block in BLOCKS:
        if block.flag == "run":
            printed = block.run(namespace)
        elif block.language == "text":
            assert printed.strip() == block.code.strip(), f"line {block.line}"
    assert namespace["session"].evaluate({"x": namespace["test"].x, "target": namespace["test"].y})["accuracy"] > 0.9


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.flag.startswith("needs=")], ids=lambda block: block.flag)
def test_a_snippet_of_another_framework(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in block.flag.removeprefix("needs=").split(","):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    block.run({})
    assert (tmp_path / "trained.onnx").stat().st_size > 0


def test_every_snippet_is_run() -> None:
    assert {(block.language, block.flag) for block in BLOCKS if not block.flag.startswith("needs=")} == {
        ("python", "run"),
        ("sh", "run"),
        ("text", ""),
    }


def test_the_command_line_is_there_with_every_option() -> None:
    for name, command in artifacts.commands.items():
        assert f"edgefl artifacts {name}" in TEXT
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert all(f"`{option}" in TEXT for option in parameter.opts), parameter.opts


def test_losses_and_optimisers_are_there_with_every_option() -> None:
    for name, options in OPTIONS.items():
        row = next((line for line in TEXT.splitlines() if line.startswith(f"| `{name}` |")), "")
        assert row or name == manifest.OWN_LOSS
        for option, meaning in options.items():
            assert f"`{option}`" + (f" ({meaning.default})" if meaning.default is not None else "") in row
    for name, optimizer in OPTIMIZERS.items():
        row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{name}` |"))
        for option, default in optimizer.options.items():
            assert f"`{option}` ({default}" in row or name == "adamw"
    assert OPTIMIZERS["adamw"].options == {**OPTIMIZERS["adam"].options, "weight_decay": 0.01}


def test_every_method_of_a_session_is_there() -> None:
    for name in vars(Session):
        assert name.startswith("_") or f"`{name}(" in TEXT, name


def test_every_schedule_that_is_named_exists() -> None:
    names = re.findall(r"`((?:constant|step|cosine|warmup)[\w:.+]*)`", TEXT)
    assert len(names) >= 7
    for name in names:
        parse_schedule(name)


def test_files_and_limits_are_those_of_the_code() -> None:
    for name in (*manifest.FILES, manifest.MANIFEST):
        assert f"`{name}`" in TEXT
    for what, size in (
        ("a file of the artifacts, a model", f"{manifest.MAX_MODEL_BYTES >> 20} MiB"),
        ("nodes of a model, functions inlined", f"{MAX_NODES:,}"),
        ("tensors in a manifest", f"{manifest.MAX_TENSORS:,}"),
        ("dimensions of a tensor", f"{manifest.MAX_RANK}"),
        ("opset of a model", f"{OLDEST} to {NEWEST}, as far as the installed onnx package knows it"),
        ("a data source", f"{MAX_SOURCE_BYTES >> 30} GiB, uncompressed"),
    ):
        assert f"| {what} | {size} |" in TEXT
