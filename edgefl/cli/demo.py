"""`edgefl demo`: the main job on real input, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgefl.cli.output import emit_json, json_option, note, report_errors


@click.command()
@click.option("--nodes", default=8, type=click.IntRange(2, 64), help="Devices: one daemon process each.")
@click.option("--rounds", default=12, type=click.IntRange(1, 1000), help="Rounds of training.")
@click.option("--apps", default=1, type=click.IntRange(1, 16), help="Applications at the same time.")
@click.option(
    "--topology",
    default="forest",
    help="How the devices work together: forest, sampled[:sample=13,...], consensus[:steps=1,...].",
)
@click.option("--model", default="mlp", type=click.Choice(["mlp", "cnn"]), help="What is trained.")
@click.option("--compress", default="none", metavar="HOW", help="How updates travel (edgefl app create --help).")
@click.option("--seed", default=0, help="Seed of the division of the data and of the initial weights.")
@click.option(
    "--files",
    type=click.Path(file_okay=False, path_type=Path),
    help="Only write its data and model to this directory, to go through the steps by hand.",
)
@json_option
@report_errors
def demo(
    nodes: int,
    rounds: int,
    apps: int,
    topology: str,
    model: str,
    compress: str,
    seed: int,
    files: Path | None,
    as_json: bool,
) -> None:
    """Start a throw-away fleet of real daemons on this machine and train handwritten digits with it.

    Every device has a different part of the digits (most of them only a few of the ten). The result is judged on digits
    that no device has seen, beside two yardsticks: the same model trained on all data in one place, and the mean of the
    devices when each trains alone. Nothing is left behind, also after Ctrl-C.
    """
    if files is not None:
        _write_files(files, model, nodes, seed, as_json)
        return
    from edgefl.demo.run import Wishes, run_demo

    try:
        document = run_demo(Wishes(nodes, rounds, apps, topology, model, seed, compress), note)
    except KeyboardInterrupt:
        note("stopped; nothing is left behind")
        raise SystemExit(130) from None
    if as_json:
        emit_json(document)
    else:
        _show(document)
    if document["errors"]:
        raise SystemExit(1)


def _write_files(directory: Path, model: str, nodes: int, seed: int, as_json: bool) -> None:
    from edgefl.demo.digits import write_files

    directory.mkdir(parents=True, exist_ok=True)
    paths = [str(path) for path in write_files(model, nodes, seed, directory)]
    if as_json:
        emit_json({"files": paths})
    else:
        for path in paths:
            click.echo(path)


def _show(document: dict[str, Any]) -> None:
    click.echo()
    for app in document["applications"]:
        accuracy = app["accuracy"]
        click.echo(f"{app['name']}: {app['rounds']} rounds, root {app['root']}, tree depth {app['depth']}")
        for name, label in (
            ("federated", "federated, data stays on the devices"),
            ("centralised", "all data in one place"),
            ("local_mean", "each device alone, mean"),
        ):
            click.echo(f"  {label:<38}{accuracy[name]:7.1%}  {'█' * round(40 * accuracy[name])}")
    click.echo(
        f"{document['nodes']} devices, {document['bytes_per_node'] / 1024:.0f} KB sent per device, "
        f"{document['seconds']:.1f} s in all ({document['training_seconds']:.1f} s of training)"
    )
    for error in document["errors"]:
        click.echo(f"problem: {error}", err=True)
