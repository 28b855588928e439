"""`edgefl sim`: the shipped overlay and learning code under virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgefl.cli.output import emit_json, emit_pairs, emit_table, json_option, note, report_errors
from edgefl.cli.progress import end_progress, reporter
from edgefl.cli.sim_apps import apps as apps_command
from edgefl.cli.sim_fleet import show_fleet
from edgefl.cli.sim_game import game
from edgefl.cli.sim_repair import repair_run
from edgefl.cli.sim_together import together
from edgefl.cli.sim_train import train

rtt_option = click.option(
    "--rtt",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A square matrix of city RTTs (comma-separated milliseconds) instead of synthetic cities.",
)


@click.group()
def sim() -> None:
    """The shipped overlay and learning code under virtual time (simulations, and labelled so)."""


sim.add_command(apps_command)
sim.add_command(game)
sim.add_command(together)
sim.add_command(train)


@sim.command()
@click.option("--nodes", default=300, type=click.IntRange(2, 20_000), help="Devices.")
@click.option("--apps", default=3, type=click.IntRange(0, 1000), help="Applications.")
@click.option(
    "--members", default=60, type=click.IntRange(1, 20_000), help="Devices that take part in each application."
)
@click.option(
    "--rounds", default=20, type=click.IntRange(0, 10_000), help="Rounds of each application; 0: trees alone."
)
@click.option(
    "--churn", type=click.FloatRange(0, 0.9), help="Share of all devices that vanish at once (without --scenario: 0.5)."
)
@click.option("--loss", default=0.0, type=click.FloatRange(0, 0.5), help="Share of packets that are lost throughout.")
@click.option(
    "--scenario",
    "scenario_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What happens instead: a TOML file of phases (docs/scenario.toml shows every kind).",
)
@click.option(
    "--repair",
    is_flag=True,
    help="Instead: how fast trees are whole again when a share of each (--churn, without it 0.05) vanishes at once.",
)
@rtt_option
@click.option("--seed", default=1, help="The same seed gives the same run.")
@click.option("--plot", type=click.Path(file_okay=False, path_type=Path), help="Draw the figures into a directory.")
@json_option
@report_errors
def fleet(
    nodes: int,
    apps: int,
    members: int,
    rounds: int,
    churn: float | None,
    loss: float,
    scenario_file: Path | None,
    repair: bool,
    rtt: Path | None,
    seed: int,
    plot: Path | None,
    as_json: bool,
) -> None:
    """A fleet joins, applications train, a share of the devices vanishes, the rest repairs itself and trains on.

    Training itself is a stand-in with a known answer; everything else is the code that runs on devices.
    """
    from edgefl.errors import UsageError
    from edgefl.pictures import draw_fleet, figures
    from edgefl.sim import run_fleet
    from edgefl.sim.scenario import read_scenario

    if scenario_file is not None and churn is not None:
        raise UsageError("--churn and --scenario exclude each other", hint='a phase of kind "crash" does the same')
    if repair:
        repair_run(nodes, apps, members, churn, loss, scenario_file, _matrix(rtt), seed, as_json)
        return
    if plot is not None:
        figures()  # an error now rather than after the run
    document = run_fleet(
        nodes=nodes,
        apps=apps,
        members=members,
        rounds=rounds,
        churn=0.5 if churn is None else churn,
        loss=loss,
        scenario=None if scenario_file is None else read_scenario(scenario_file),
        matrix=_matrix(rtt),
        seed=seed,
        report=reporter(),
    )
    end_progress()
    if plot is not None:
        for path in draw_fleet(document, plot):
            note(f"drawn: {path}")
    if as_json:
        emit_json(document)
    else:
        show_fleet(document)


@sim.command()
@click.option("--nodes", default=1_000_000, type=click.IntRange(10, 4_000_000), help="Devices.")
@click.option("--apps", default=300, type=click.IntRange(1, 20_000), help="Applications whose trees are grown.")
@click.option("--routes", default=10_000, type=click.IntRange(100, 200_000), help="Requests that are routed.")
@click.option("--candidates", default=8, type=click.IntRange(3, 64), help="Devices measured for each table slot.")
@rtt_option
@click.option("--seed", default=1, type=click.IntRange(min=0), help="The same seed gives the same figures.")
@click.option("--plot", type=click.Path(file_okay=False, path_type=Path), help="Draw the figures into a directory.")
@click.option("--cross-check", is_flag=True, help="Beside the event simulator instead (up to 5,000 devices).")
@json_option
@report_errors
def scale(
    nodes: int,
    apps: int,
    routes: int,
    candidates: int,
    rtt: Path | None,
    seed: int,
    plot: Path | None,
    cross_check: bool,
    as_json: bool,
) -> None:
    """A vectorised model of the overlay at scale: hops, stretch, state, tree shape, load, roots, zones.

    No message is sent and no device is real: slots are ranges of sorted ids, trees grow by the rules of the shipped
    code. With --cross-check the same fleet also runs in the event simulator, and both are shown side by side.
    """
    if cross_check:
        _show_cross_check(nodes, seed, as_json)
        return
    from edgefl.pictures import draw_scale, figures
    from edgefl.sim.scale import run_scale

    if plot is not None:
        figures()  # an error now rather than after the run
    document = run_scale(
        nodes=nodes,
        apps=apps,
        routes=routes,
        candidates=candidates,
        seed=seed,
        matrix=_matrix(rtt),
        report=reporter(),
    )
    end_progress()
    if plot is not None:
        for path in draw_scale(document, plot):
            note(f"drawn: {path}")
    if as_json:
        emit_json(document)
    else:
        _show_scale(document)


@sim.command()
@click.option("--nodes", default=2000, type=click.IntRange(20, 20_000), help="Devices.")
@click.option("--tau", "tau_ms", default=40.0, type=click.FloatRange(1, 1000), help="Radius of a zone, in ms.")
@rtt_option
@click.option("--seed", default=1, type=click.IntRange(min=0), help="The same seed gives the same figures.")
@json_option
@report_errors
def zones(nodes: int, tau_ms: float, rtt: Path | None, seed: int, as_json: bool) -> None:
    """A model of finding zones by RTT: anchor adoption beside landmark binning, when all devices measure again."""
    from edgefl.sim.scale import run_zones

    document = run_zones(nodes=nodes, tau_s=tau_ms / 1000, seed=seed, matrix=_matrix(rtt))
    if as_json:
        emit_json(document)
    else:
        emit_pairs([("devices", f"{nodes:,}, seed {seed}"), ("radius", f"{tau_ms:g} ms")])
        click.echo()
        _show_zones(document)


def _matrix(path: Path | None) -> list[list[float]] | None:
    from edgefl.errors import DataError
    from edgefl.sim.rtt_model import read_matrix

    try:
        return None if path is None else read_matrix(path)
    except ValueError as error:
        raise DataError(str(error), hint="give as many rows as columns, numbers alone") from None


def _show_scale(document: dict[str, Any]) -> None:
    hops, stretch, contacts = document["hops"], document["stretch"], document["contacts"]
    spares, inside, failure = contacts["with_spares"], document["in_zone"], document["failure"]
    by_candidates = ", ".join(
        f"{row['mean']:.2f} with {row['candidates']}" for row in document["stretch_by_candidates"]
    )
    emit_pairs(
        [
            ("model", "vectorised: no device is real, nothing is sent (`edgefl sim fleet` runs the shipped code)"),
            ("devices", f"{document['nodes']:,} in {document['zones_filled']} zones, seed {document['seed']}"),
            ("routes", f"{document['routes']:,}, {document['right']:.2%} reach the owner of their key"),
            ("hops", f"{hops['mean']:.2f} mean, {hops['p99']} p99"),
            ("stretch", f"{stretch['mean']:.2f} mean, {stretch['p95']:.2f} p95, {stretch['of_totals']:.2f} of totals"),
            ("  by candidates", by_candidates),
            ("zone crossings", f"{document['zone_crossings']:.2f}"),
            ("in-zone routes", f"{inside['routes']:,}, {document['in_zone_leave']:.2%} leave the zone"),
            ("contacts", f"{contacts['mean']:.1f} mean, {contacts['max']} max: filled slots and leaf sets"),
            (
                "  with spares",
                f"{spares['mean']:.1f} mean, {spares['max']} max, {contacts['packed_bytes']['max']:,} B packed",
            ),
            (
                f"{failure['vanished']:.0%} vanish",
                f"{failure['right']:.1%} of lookups right before any repair, {failure['given_up']:.1%} given up",
            ),
        ]
    )
    click.echo()
    emit_table(
        [
            [
                f"{step['nodes']:,}",
                step["hops"]["mean"],
                step["hops"]["p99"],
                step["stretch"]["mean"],
                step["stretch"]["p95"],
                step["zone_crossings"],
                step["contacts"],
                step["failure_right"],
            ]
            for step in document["growth"]
        ],
        ["DEVICES", "HOPS", "P99", "STRETCH", "P95", "CROSSINGS", "CONTACTS", "RIGHT AFTER FAILURE"],
    )
    click.echo()
    _show_trees(document["trees"])
    click.echo()
    _show_roots(document["roots"])
    click.echo()
    _show_zones(document["zones"])
    click.echo()
    emit_pairs([("took", f"{document['seconds']} s, {document['peak_memory_bytes'] / 2**20:.0f} MiB at most")])


def _show_trees(trees: dict[str, Any]) -> None:
    fan_out = trees["fan_out"]
    emit_pairs(
        [
            ("trees", f"{trees['apps']:,} applications, {trees['memberships']:,} memberships"),
            ("zone crossings", f"{trees['zone_crossings_over_ideal']:.2f} of the ideal"),
            ("members only", f"{trees['members_only']:.2%} of all edges"),
            (
                "fan-out",
                f"at most {fan_out['zone_max']} of {fan_out['zone_budget']} in the zone, "
                f"{fan_out['other_max']} of {fan_out['other_budget']} across",
            ),
        ]
    )
    click.echo()
    emit_table(
        [
            [
                rule,
                row["depth"]["mean"],
                row["depth"]["p99"],
                row["depth"]["max"],
                row["edge_rtt_ms"],
                row["path_rtt_ms"]["mean"],
                row["children_worst_node"],
            ]
            for rule, row in (("as shipped", trees), ("nearest of 5", trees["nearest_of_five"]))
        ],
        ["PARENT CHOSEN", "DEPTH", "P99", "MAX", "EDGE MS", "PATH MS", "CHILDREN OF THE WORST NODE"],
    )


def _show_roots(roots: dict[str, Any]) -> None:
    emit_pairs(
        [
            ("roots", f"{roots['apps']} applications of all {roots['nodes']:,} devices"),
            (
                "all alike",
                f"{roots['alike']['at_most_3']:.1%} of devices root at most 3, none more than {roots['alike']['max']}",
            ),
            ("in classes", f"{roots['mixed']['at_most_3']:.1%} root at most 3, none more than {roots['mixed']['max']}"),
        ]
    )
    click.echo()
    emit_table(
        [
            [name, row["nodes"], f"{row['weight_share']:.1%}", f"{row['roots_share']:.1%}"]
            for name, row in roots["mixed"]["by_class"].items()
        ],
        ["CLASS", "DEVICES", "OF ALL WEIGHT", "OF ALL ROOTS"],
    )


def _show_zones(document: dict[str, Any]) -> None:
    emit_table(
        [
            [
                row["method"],
                row["zones"],
                row["largest"],
                row["alone"],
                None if row["rtt_inside_ms"] is None else row["rtt_inside_ms"]["mean"],
                row["pairs_kept"],
            ]
            for row in document["methods"]
        ],
        ["ZONES FOUND BY", "ZONES", "LARGEST", "ALONE", "RTT INSIDE MS", "PAIRS KEPT"],
    )


def _show_cross_check(nodes: int, seed: int, as_json: bool) -> None:
    from edgefl.errors import UsageError
    from edgefl.sim.scale.cross_check import MOST_DEVICES, cross_check

    if nodes > MOST_DEVICES:
        raise UsageError(
            f"the event simulator is for up to {MOST_DEVICES:,} devices",
            hint="edgefl sim scale --cross-check --nodes 300",
        )
    document = cross_check(nodes=nodes, seed=seed, report=reporter())
    end_progress()
    if as_json:
        emit_json(document)
        return
    emit_pairs([("devices", f"{nodes:,}, seed {seed}, {document['idle_s']:.0f} s after the last join")])
    click.echo()
    emit_table(
        [[name, value, document["model"][name]] for name, value in document["event"].items()],
        ["MEASURE", "EVENT SIMULATOR", "MODEL"],
    )
