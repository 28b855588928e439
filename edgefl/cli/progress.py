"""One line of progress on a terminal, on stderr; nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click


def reporter() -> Callable[[str, float], None]:
    """What a long run calls with what it does and the share that is done."""
    return _progress if sys.stderr.isatty() else lambda what, share: None


def end_progress() -> None:
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", err=True, nl=False)


def _progress(what: str, share: float) -> None:
    click.echo(f"\r\x1b[K{share:4.0%}  {what}", err=True, nl=False)
