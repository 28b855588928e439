"""What people type. One small file per verb group; each is imported only when its verb is used.

    output.py     tables, JSON documents, errors: the one place that prints
    artifacts.py  artifacts build | check | show
    doctor.py     doctor
    image.py      image build | customize | check | test | flash | package
    manual.py     the manual page and shell completions, made from all of them

The contract for verbs, options and JSON keys: add freely, rename nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

import click

from edgefl import __version__

# verb -> (module, attribute, one-line help). The help stands here so that `edgefl --help` imports no verb.
VERBS: dict[str, tuple[str, str, str]] = {
    "demo": ("edgefl.cli.demo", "demo", "The main job on this machine: a throw-away fleet trains the digits."),
    "fleet": ("edgefl.cli.fleet", "fleet", "Make a fleet; invite, approve and revoke its devices."),
    "join": ("edgefl.cli.join", "join", "Run this device's daemon: join a fleet and take part."),
    "status": ("edgefl.cli.status", "status", "Identity, neighbours, applications, load and problems of this device."),
    "zones": ("edgefl.cli.status", "zones", "The zones that this device knows."),
    "doctor": ("edgefl.cli.doctor", "doctor", "Is this device fit? How do others reach it, and which side blocks?"),
    "peers": ("edgefl.cli.status", "peers", "The devices that this one knows."),
    "members": ("edgefl.cli.status", "members", "The neighbours of this device in the rings, and how they are."),
    "rtt": ("edgefl.cli.status", "rtt", "Measure the round-trip time to a device, now."),
    "lookup": ("edgefl.cli.status", "lookup", "Which device is responsible for a key?"),
    "tree": ("edgefl.cli.status", "tree", "This device's place in an application's tree."),
    "wait": ("edgefl.cli.status", "wait", "Wait until the daemon, a round or an application is there."),
    "artifacts": ("edgefl.cli.artifacts", "artifacts", "Make an ONNX model trainable on stock ONNX Runtime."),
    "app": ("edgefl.cli.app", "app", "Create, watch, steer and pull applications."),
    "sim": ("edgefl.cli.sim", "sim", "The shipped overlay and learning code under virtual time, and models of it."),
    "image": ("edgefl.cli.image", "image", "Build, customise, check, test and flash images; build the Debian package."),
    "token": ("edgefl.cli.about", "token", "What a join token says."),
    "paths": ("edgefl.cli.about", "paths", "Where edgefl keeps things on this machine."),
    "version": ("edgefl.cli.about", "version", "Versions of edgefl and what it stands on."),
}


class LazyGroup(click.Group):
    """A click group whose commands are imported when they are called, not when help is shown."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, attribute, _ = VERBS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(verb, text) for verb, (_, _, text) in VERBS.items()])


CONTEXT_SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "auto_envvar_prefix": "EDGEFL",
    "show_default": True,
}


@click.group(cls=LazyGroup, context_settings=CONTEXT_SETTINGS)
@click.version_option(__version__, prog_name="edgefl")
def main() -> None:
    """Federated learning with no server, for the devices people already have."""
