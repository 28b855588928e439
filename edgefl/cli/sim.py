"""`edgefl sim`: the shipped overlay and learning code under virtual time."""

from __future__ import annotations

import sys
from typing import Any

import click

from edgefl.cli.output import emit_json, emit_pairs, emit_table, json_option, report_errors


@click.group()
def sim() -> None:
    """The shipped overlay and learning code under virtual time (simulations, and labelled so)."""


@sim.command()
@click.option("--nodes", default=300, type=click.IntRange(2, 20_000), help="Devices.")
@click.option("--apps", default=3, type=click.IntRange(0, 1000), help="Applications.")
@click.option(
    "--members", default=60, type=click.IntRange(1, 20_000), help="Devices that take part in each application."
)
@click.option(
    "--rounds", default=20, type=click.IntRange(0, 10_000), help="Rounds of each application; 0: trees alone."
)
@click.option("--churn", default=0.5, type=click.FloatRange(0, 0.9), help="Share of all devices that vanish at once.")
@click.option("--loss", default=0.0, type=click.FloatRange(0, 0.5), help="Share of packets that are lost throughout.")
@click.option("--seed", default=1, help="The same seed gives the same run.")
@json_option
@report_errors
def fleet(
    nodes: int, apps: int, members: int, rounds: int, churn: float, loss: float, seed: int, as_json: bool
) -> None:
    """A fleet joins, applications train, a share of the devices vanishes, the rest repairs itself and trains on.

    Training itself is a stand-in with a known answer; everything else is the code that runs on devices.
    """
    from edgefl.sim import run_fleet

    document = run_fleet(
        nodes=nodes,
        apps=apps,
        members=members,
        rounds=rounds,
        churn=churn,
        loss=loss,
        seed=seed,
        report=_progress if sys.stderr.isatty() else lambda what, share: None,
    )
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", err=True, nl=False)
    if as_json:
        emit_json(document)
    else:
        _show(document)


def _progress(what: str, share: float) -> None:
    click.echo(f"\r\x1b[K{share:4.0%}  {what}", err=True, nl=False)


def _show(document: dict[str, Any]) -> None:
    correct = document["lookups_correct"]
    emit_pairs(
        [
            ("devices", f"{document['nodes']} ({document['joined']} joined), seed {document['seed']}"),
            ("vanished", f"{document['churn']:.0%} at once, {document['loss']:.1%} of packets lost"),
            ("lookups correct", ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in correct.items())),
            ("hops of a lookup", document["lookup_hops_mean"]),
            ("cycles ever", document["cycles"]),
            (
                "traffic per device",
                f"{document['idle_bytes_per_node_s']} B/s idle, {document['bytes_per_node_s']} B/s with trees",
            ),
            (
                "simulated",
                f"{document['seconds']} s, {document['events']} events, {document['cpu_seconds']} s of processor",
            ),
        ]
    )
    if document["apps"]:
        click.echo()
        header = ["APPLICATION", "MEMBERS", "ATTACHED", "ROOTS", "DEPTH MEAN", "DEPTH MAX"]
        trained = "rounds" in document["apps"][0]
        emit_table(
            [
                [app["app"], app["members"], app["attached"], app["roots"], app["depth"]["mean"], app["depth"]["max"]]
                + (
                    [app["rounds"], app["finished"], app["backwards"], app["loss"]["first"], app["loss"]["last"]]
                    if trained
                    else []
                )
                for app in document["apps"]
            ],
            header + (["ROUNDS", "FINISHED", "BACKWARDS", "LOSS FIRST", "LOSS LAST"] if trained else []),
        )
