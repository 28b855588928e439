"""The one place that prints: tables for people, one JSON document for programs, errors with their next step.

Standard output carries the answer alone; progress and errors go to standard error (CLI contract).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import click

from edgefl.errors import EdgeflError

JSON_SCHEMA_VERSION = 1
"""Value of the "edgefl" key in every JSON document; raised when a key changes meaning, never for additions."""

P = ParamSpec("P")
R = TypeVar("R")


def emit_json(document: Mapping[str, Any], *, stream: bool = False) -> None:
    """Print one JSON document; with `stream`, one compact line of a JSON-lines stream, flushed."""
    body = {"edgefl": JSON_SCHEMA_VERSION, **document}
    if stream:
        click.echo(json.dumps(body, separators=(",", ":"), allow_nan=False))
        sys.stdout.flush()
    else:
        click.echo(json.dumps(body, indent=2, allow_nan=False))


def emit_table(rows: Sequence[Sequence[object]], header: Sequence[str]) -> None:
    """Print rows under a header, columns padded to their widest cell."""
    cells = [[str(c) for c in header], *[[("-" if c is None else str(c)) for c in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    for n, row in enumerate(cells):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        click.echo(click.style(line, bold=True) if n == 0 and colour() else line)


def emit_pairs(pairs: Sequence[tuple[str, object]]) -> None:
    """Print `name  value` lines, values aligned."""
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        click.echo(f"{name.ljust(width)}  {'-' if value is None else value}")


def note(text: str) -> None:
    """Chatter for people: standard error, so that `--json` output stays one document."""
    click.echo(text, err=True)


def colour() -> bool:
    """Whether standard output may carry colour (https://no-color.org, and a terminal)."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def report_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator of every command: an EdgeflError becomes its name, cause, next step and exit code."""

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except EdgeflError as error:
            click.echo(f"edgefl: {error.name}: {error.cause}", err=True)
            if error.hint:
                click.echo(f"  next: {error.hint}", err=True)
            raise SystemExit(error.exit_code) from None

    return wrapper


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document for programs.")
