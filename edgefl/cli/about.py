"""Small verbs about edgefl itself: token inspect, paths, version."""

from __future__ import annotations

from pathlib import Path

import click

from edgefl.cli.daemon_option import state_option
from edgefl.cli.output import emit_json, emit_pairs, json_option, report_errors


@click.group()
def token() -> None:
    """What a join token says."""


@token.command()
@click.argument("text", metavar="TEXT|file:PATH")
@json_option
@report_errors
def inspect(text: str, as_json: bool) -> None:
    """Show which fleet a token is for and which doors it names; never its secret."""
    from edgefl.daemon.membership import read_token
    from edgefl.identity.token import describe, parse

    found = describe(parse(read_token(text)))
    if as_json:
        emit_json(found)
    else:
        emit_pairs(list(found.items()))


@click.command()
@state_option
@json_option
@report_errors
def paths(state: Path | None, as_json: bool) -> None:
    """Where edgefl keeps things on this machine."""
    from edgefl.config import control_socket, default_config, default_state

    found = {
        "state": str(state or default_state()),
        "control_socket": str(control_socket(state)),
        "configuration": str(default_config() / "edgefl.toml"),
        "fleet_key": str(default_config() / "fleet.key"),
    }
    if as_json:
        emit_json(found)
    else:
        emit_pairs(list(found.items()))


@click.command()
@json_option
@report_errors
def version(as_json: bool) -> None:
    """Versions of edgefl and of what it stands on."""
    import platform
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    from edgefl import __version__
    from edgefl.wire.link import PROTOCOL_OLDEST, PROTOCOL_VERSION

    found: dict[str, object] = {
        "version": __version__,
        "protocol": {"oldest": PROTOCOL_OLDEST, "newest": PROTOCOL_VERSION},
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    for package in ("pyzmq", "onnxruntime", "numpy", "cbor2", "psutil", "click", "PyNaCl", "onnx"):
        try:
            found[package] = installed(package)
        except PackageNotFoundError:
            found[package] = None
    if as_json:
        emit_json(found)
    else:
        emit_pairs(
            [(name, f"{v['oldest']} to {v['newest']}" if isinstance(v, dict) else v) for name, v in found.items()]
        )
