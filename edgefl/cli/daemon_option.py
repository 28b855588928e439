"""How commands find the daemon of this device: by its state directory."""

from __future__ import annotations

from pathlib import Path

import click

from edgefl.config import control_socket
from edgefl.control import ControlClient

state_option = click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="EDGEFL_STATE",
    show_envvar=True,
    help="State directory of the daemon.  [default: /var/lib/edgefl for root, ~/.local/state/edgefl otherwise]",
)


def client(state: Path | None) -> ControlClient:
    """A client of the daemon with this state directory."""
    return ControlClient(control_socket(state))
