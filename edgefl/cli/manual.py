"""The manual page and the shell completions, made from the commands themselves: nothing is described twice."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import click
from click.shell_completion import get_completion_class

from edgefl import __version__
from edgefl.cli import CONTEXT_SETTINGS, main
from edgefl.errors import UsageError

COMPLETION_FILES = {
    "bash": "usr/share/bash-completion/completions/edgefl",
    "zsh": "usr/share/zsh/vendor-completions/_edgefl",
    "fish": "usr/share/fish/vendor_completions.d/edgefl.fish",
}
"""Where Debian's shells look for them."""

MANUAL_FILE = "usr/share/man/man1/edgefl.1.gz"

FILES = (
    (
        "/etc/edgefl/edgefl.toml",
        "settings of this device: bootstrap, site, [data] and the other options of edgefl join",
    ),
    ("/etc/edgefl/token", "the join token, 0600: systemd hands it to the service"),
    ("/var/lib/edgefl", "the state: the device's key, its certificate, applications and models"),
    ("/run/edgefl/edgefl.sock", "where the commands find the daemon"),
)

EXIT_CODES = (
    "0 ok, 1 failed, 2 usage, 69 daemon or peer unreachable, 75 try again, 76 protocol, 77 not admitted, "
    "78 configuration"
)


def manual() -> bytes:
    """The page edgefl(1), compressed, the same bytes each time."""
    return gzip.compress("\n".join(_page()).encode() + b"\n", 9, mtime=0)


def completion(shell: str) -> str:
    """What `shell` sources. Raises UsageError for a shell that click does not know."""
    kind = get_completion_class(shell)
    if kind is None:
        raise UsageError(f"no completions for {shell!r}", hint=f"there are some for {', '.join(COMPLETION_FILES)}")
    # source() of bash asks the installed bash for its version: the text is wanted, whatever is installed here.
    completer = kind(main, {}, "edgefl", "_EDGEFL_COMPLETE")
    text: str = completer.source_template % completer.source_vars()
    return text


def _page() -> Iterator[str]:
    yield f'.TH EDGEFL 1 "" "edgefl {__version__}" "User Commands"'
    yield from (".SH NAME", r"edgefl \- federated learning with no server, for edge devices")
    yield from (".SH SYNOPSIS", ".B edgefl", r"\fICOMMAND\fR [\fIOPTION\fR ...]", ".SH DESCRIPTION")
    yield _escape(main.help or "")
    yield ".SH COMMANDS"
    with click.Context(main, info_name="edgefl", **CONTEXT_SETTINGS) as context:
        for path, command, inner in _commands(main, context):
            yield from _command(path, command, inner)
    yield ".SH FILES"
    for name, text in FILES:
        yield from (".TP", f".I {_escape(name)}", _escape(text))
    yield from (".SH EXIT STATUS", EXIT_CODES)


def _commands(group: click.Group, context: click.Context) -> Iterator[tuple[str, click.Command, click.Context]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        inner = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            yield from _commands(command, inner)
        else:
            yield inner.command_path, command, inner


def _command(path: str, command: click.Command, context: click.Context) -> Iterator[str]:
    arguments = " ".join(piece for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]")
    yield f'.SS "{_escape(f"{path} {arguments}".strip())}"'
    yield _escape(" ".join((command.help or "").replace("\b", "").split()))
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            yield from (".TP", f".B {_escape(record[0])}", _escape(record[1]))


def _escape(text: str) -> str:
    escaped = text.replace("\\", r"\e").replace("-", r"\-").replace("\n", " ").strip()
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
