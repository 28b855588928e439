"""`edgefl app`: create, watch, steer and pull applications."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgefl.cli.app_history import history, print_history
from edgefl.cli.daemon_option import client, state_option
from edgefl.cli.output import emit_json, emit_pairs, emit_table, json_option, note, report_errors
from edgefl.cli.status import APPLICATION_HEADER, application_row
from edgefl.pictures import round_line


@click.group()
def app() -> None:
    """Create, watch, steer and pull applications."""


app.add_command(history)


@app.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--name", required=True, help="Name of the application.")
@click.option("--data", required=True, metavar="NAME", help="Data source that a device must have to take part.")
@click.option(
    "--topology",
    default="forest",
    help="How the devices work together: forest, sampled[:sample=13,...], consensus[:steps=1,...].",
)
@click.option(
    "--strategy",
    default="fedavg",
    metavar="NAME[:KEY=VALUE,…]",
    help="How updates become the next model: fedavg, fedprox, fedavgm, fedadagrad, fedadam, fedyogi, scaffold, "
    "fednova, qfedavg, trimmed or trimmed-zones, for example fedadam:lr=0.1,tau=0.01.",
)
@click.option(
    "--personal",
    multiple=True,
    metavar="GLOB",
    help="Tensors that stay on each device and never travel, such as the last layer (see edgefl artifacts show); again "
    "for more.",
)
@click.option("--rounds", default=10, help="Rounds of training.")
@click.option("--target", metavar="METRIC>=VALUE", help="Stop early, for example accuracy>=0.95.")
@click.option("--quorum", default=0.5, help="Share of the devices whose updates a round needs.")
@click.option("--deadline", "deadline_s", default=600.0, metavar="S", help="Seconds that a round may take.")
@click.option("--local-epochs", default=1, help="Passes over the local data per round.")
@click.option("--batch", default=32, help="Samples per step.")
@click.option("--lr", "learning_rate", default=0.05, help="Learning rate of the local optimizer.")
@click.option(
    "--lr-schedule",
    default="constant",
    metavar="HOW",
    help="How it changes from round to round: constant, cosine[:floor=F], step:every=N[,factor=F], warmup:rounds=N, or "
    "warmup:rounds=N+ before one of them.",
)
@click.option(
    "--patience",
    default=0,
    metavar="N",
    help="Stop when N rounds brought nothing better; 0: never. Keeps the best.",
)
@click.option("--keep-best", is_flag=True, help="Keep the best model beside the newest: edgefl app pull --best.")
@click.option(
    "--compress",
    default="none",
    metavar="HOW",
    help="How updates travel: none, fp16, bf16, int8, int4, topk:F, randk:F, lowrank:R, each with +zstd if wanted.",
)
@click.option(
    "--policies",
    default="",
    metavar="HOOK=NAME,…",
    help="Policies of the devices' owners that a device must have: select, privacy, compress, aggregate, for example "
    "privacy=clip_and_noise.",
)
@click.option("--select", default=0, metavar="N", help="Devices that train in a round, drawn by lot; 0: all.")
@click.option("--over-select", default=0.3, metavar="F", help="Share of devices asked beyond those, for who fails.")
@click.option(
    "--pace",
    default="sync",
    metavar="HOW",
    help="Whom a round waits for: sync (all), quantile:q=0.9, or buffered:goal=0.8 (late work enters a later round).",
)
@click.option(
    "--together",
    default="",
    metavar="NAME[:share=W]",
    help="Share the devices' training with your other applications of this NAME: each device works for one at a time, "
    "for each of them as it needs (or by fixed shares). With --pace buffered.",
)
@click.option("--zone-rounds", default=1, metavar="N", help="Rounds inside each zone between two of the whole fleet.")
@click.option("--held-back", default=0.2, help="Share of the local data kept for evaluation.")
@click.option("--min-members", default=1, help="Devices that must be there before the first round.")
@click.option(
    "--scope", type=click.Choice(["global", "zone"]), default="global", help="Whole fleet, or this device's zone alone."
)
@click.option("--seed", default=0, help="Seed of the local shuffling.")
@state_option
@json_option
@report_errors
def create(directory: Path, state: Path | None, as_json: bool, target: str | None, **options: Any) -> None:
    """Train the artifacts in DIRECTORY (edgefl artifacts build) on the devices that have the data."""
    from edgefl.api.app import parse_target

    found = client(state).call(
        "app.create", directory=str(directory.absolute()), target=parse_target(target), **options
    )
    if as_json:
        emit_json(found)
    else:
        click.echo(f"application {found['name']} ({found['id']}) is announced")
        note(f"next: edgefl app watch {found['name']}")


@app.command("list")
@state_option
@json_option
@report_errors
def list_applications(state: Path | None, as_json: bool) -> None:
    """Every application that this device has heard of, and what it does about it."""
    rows = client(state).call("app.list")
    if as_json:
        emit_json({"applications": rows})
    elif rows:
        emit_table([application_row(row) for row in rows], APPLICATION_HEADER)
    else:
        note("no applications")


@app.command()
@click.argument("name", metavar="APP")
@state_option
@json_option
@report_errors
def show(name: str, state: Path | None, as_json: bool) -> None:
    """One application: settings, place in its tree, history."""
    found = client(state).call("app.show", app=name)
    if as_json:
        emit_json(found)
        return
    if found.get("best"):
        found["best"] = f"round {found['best']['round']} ({found['best']['value']:.6g})"
    keys = (
        "id",
        "name",
        "owner",
        "data",
        "wanted",
        "stage",
        "phase",
        "problem",
        "round",
        "rounds",
        "best",
        "epoch",
        "root",
        "parent",
        "members",
    )
    pairs = [(key, found[key] if found[key] != "" else None) for key in keys]
    if found.get("partners"):
        pairs.append(("partners", ", ".join(found["partners"])))
    emit_pairs(pairs)
    click.echo()
    print_history(found["history"])


@app.command()
@click.argument("name", metavar="APP")
@click.option(
    "--tensorboard",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the rounds for TensorBoard as they come.",
)
@state_option
@json_option
@report_errors
def watch(name: str, tensorboard: Path | None, state: Path | None, as_json: bool) -> None:
    """Follow an application until it has finished. With --json one line per change."""
    from edgefl.cli.writers import TensorBoard

    said = ""
    printed: set[int] = set()
    writer = TensorBoard(tensorboard, name) if tensorboard is not None else None
    for event in client(state).stream("app.watch", app=name):
        if writer is not None:
            if not writer.next_round:  # the rounds before this command
                writer.write(client(state).call("app.history", app=name), finished=False)
            writer.write(event["history"], finished=event["finished"])
        if as_json:
            emit_json(event, stream=True)
            continue
        for record in event["history"]:
            if record["round"] not in printed and "loss" in record:
                printed.add(record["round"])
                click.echo(round_line(record, event["rounds"]))
        remark = event["problem"] or ("finished" if event["finished"] else "")
        if remark and remark != said:
            note(f"{event['name']}: {remark}")
        said = remark


def _set_state(name: str, wanted: str, state: Path | None, as_json: bool) -> None:
    found = client(state).call("app.state", app=name, state=wanted)
    if as_json:
        emit_json(found)
    else:
        click.echo(f"{found['name']}: {found['wanted']}")


@app.command()
@click.argument("name", metavar="APP")
@state_option
@json_option
@report_errors
def stop(name: str, state: Path | None, as_json: bool) -> None:
    """End an application of one's own after its current round; the model stays."""
    _set_state(name, "stopped", state, as_json)


@app.command()
@click.argument("name", metavar="APP")
@state_option
@json_option
@report_errors
def pause(name: str, state: Path | None, as_json: bool) -> None:
    """Start no further round until `edgefl app resume`."""
    _set_state(name, "paused", state, as_json)


@app.command()
@click.argument("name", metavar="APP")
@state_option
@json_option
@report_errors
def resume(name: str, state: Path | None, as_json: bool) -> None:
    """Go on with a paused application."""
    _set_state(name, "running", state, as_json)


@app.command()
@click.argument("name", metavar="APP")
@click.option(
    "-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="ONNX file to write."
)
@click.option("--best", is_flag=True, help="The best model that was evaluated, instead of the newest.")
@state_option
@json_option
@report_errors
def pull(name: str, output: Path, best: bool, state: Path | None, as_json: bool) -> None:
    """Write the application's newest model as a plain inference ONNX file, with this device's own personal tensors."""
    found = client(state).pull(name, output, best=best)
    if as_json:
        emit_json({"output": str(output), **found})
    else:
        click.echo(f"{output}: {found['size']} bytes, the model after round {found['round']}")
