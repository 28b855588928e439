"""`edgefl join`: run this device's daemon in the foreground."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edgefl.cli.daemon_option import state_option
from edgefl.cli.output import report_errors


def setting(
    name: str, metavar: str, text: str, *, multiple: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """An option that the configuration files and EDGEFL_… set as well."""
    return click.option(
        f"--{name}", metavar=metavar, multiple=multiple, envvar=f"EDGEFL_{name.upper()}", show_envvar=True, help=text
    )


@click.command()
@setting("bootstrap", "HOST:PORT", "Door of a device of the fleet.", multiple=True)
@setting("token", "TEXT|file:PATH", "Join token, as edgefl fleet invite prints it.")
@setting("listen", "HOST:PORT", "Door of this device; the next two ports are used too; 0: free ones. [0.0.0.0:7321]")
@setting("advertise", "HOST:PORT", "The door's address as others reach it, where it differs.")
@setting("site", "NAME", "Name of the place: devices of one site prefer each other.")
@setting("data", "NAME=SOURCE", "Local data to train on: a .npz or .csv file.", multiple=True)
@setting("mdns", "auto|on|off", "Look around on the local network; auto: only on a private one. [auto]")
@setting("provider", "cpu|cuda", "What ONNX Runtime trains on; cuda where this device's onnxruntime has it. [cpu]")
@setting(
    "capacity",
    "CLASS",
    "How much of others' work to carry: constrained, normal, strong, gateway; auto: as measured. [auto]",
)
@setting("profile", "NAME", "How many contacts to keep: tiny, node, gateway. [node]")
@setting("role", "ROLE", "leaf: ask nothing of this device; helper: let it carry others' models, too. [auto]")
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="EDGEFL_CONFIG",
    show_envvar=True,
    help="A TOML file with the same settings.",
)
@click.option("--first", is_flag=True, help="Start a fleet's first device, on the machine with the fleet's key.")
@click.option(
    "--fleet",
    type=click.Path(path_type=Path),
    envvar="EDGEFL_FLEET",
    show_envvar=True,
    help="Where the fleet's key is, for --first. [where edgefl fleet new puts it]",
)
@click.option("-v", "--verbose", is_flag=True, help="Say more on standard error.")
@state_option
@report_errors
def join(
    bootstrap: tuple[str, ...],
    token: str | None,
    listen: str | None,
    advertise: str | None,
    site: str | None,
    data: tuple[str, ...],
    mdns: str | None,
    provider: str | None,
    capacity: str | None,
    profile: str | None,
    role: str | None,
    config: Path | None,
    first: bool,
    fleet: Path | None,
    verbose: bool,
    state: Path | None,
) -> None:
    """Join a fleet and take part, in the foreground, until stopped (SIGTERM leaves cleanly).

    Runs this device's daemon. The state directory remembers all options: a second start needs none. Without a token the
    device asks to join and waits until the fleet's owner approves it (edgefl fleet approve). Without --bootstrap it
    looks around on a private network for a few seconds (needs the extra edgefl[mdns]).
    """
    import gc

    gc.disable()  # what is imported stays: to look for garbage in it again and again is a fortieth of the start
    import asyncio

    from edgefl.config import (
        Settings,
        control_socket,
        default_config,
        default_state,
        from_memory,
        merge,
        parse_data,
        read_files,
        service_token,
    )
    from edgefl.daemon.daemon import Daemon
    from edgefl.daemon.log import set_up_logging
    from edgefl.daemon.membership import become_member

    gc.freeze()
    gc.enable()
    set_up_logging(verbose=verbose)
    options = {
        "bootstrap": bootstrap,
        "token": token,
        "listen": listen,
        "advertise": advertise,
        "site": site,
        "data": parse_data(data),
        "mdns": mdns,
        "provider": provider,
        "capacity": capacity,
        "profile": profile,
        "role": role,
    }

    def settings(kept: bytes | None) -> Settings:
        return merge(from_memory(kept), service_token(), read_files(config), options)

    daemon = Daemon(state or default_state(), control_socket(state), settings)
    become_member(daemon, first=first, fleet=fleet or default_config())
    asyncio.run(daemon.run(first=first))
