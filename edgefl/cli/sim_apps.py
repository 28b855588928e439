"""`edgefl sim apps`: many applications on one fleet, beside a central server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgefl.cli.output import emit_json, emit_pairs, emit_table, json_option, report_errors
from edgefl.cli.progress import end_progress, reporter


@click.command()
@click.option("--nodes", default=64, type=click.IntRange(2, 1000), help="Devices.")
@click.option("--apps", "applications", default=20, type=click.IntRange(1, 64), help="Applications.")
@click.option(
    "--members",
    multiple=True,
    default=(3, 8),
    type=click.IntRange(2, 1000),
    help="Devices of each application; may be given several times, for a row each.",
)
@click.option("--rounds", default=5, type=click.IntRange(1, 1000), help="Rounds of each application.")
@click.option("--parameters", default=262_144, type=click.IntRange(1, 10**8), help="Of each model (4 bytes each).")
@click.option("--local-steps", default=20, type=click.IntRange(1, 10_000), help="Steps of one local training.")
@click.option("--at-random", is_flag=True, help="Draw the members anew for each application, instead of dealing them.")
@click.option(
    "--traces",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Devices from a CSV file (step_s, uplink_bytes_s, downlink_bytes_s, delay_s) instead of synthetic ones.",
)
@click.option("--alike", is_flag=True, help="All devices are as fast as the median one.")
@click.option("--unequal-links", is_flag=True, help="Links as in the traces, instead of the median one for all.")
@click.option(
    "--server-mbit", default=0.0, type=click.FloatRange(0), help="The server's link, both ways; 0: that of a device."
)
@click.option("--seed", default=1, help="The same seed gives the same run.")
@json_option
@report_errors
def apps(
    nodes: int,
    applications: int,
    members: tuple[int, ...],
    rounds: int,
    parameters: int,
    local_steps: int,
    at_random: bool,
    traces: Path | None,
    alike: bool,
    unequal_links: bool,
    server_mbit: float,
    seed: int,
    as_json: bool,
) -> None:
    """How much longer do many applications take together than alone: in trees, and below a central server?

    The overlay, the learning layer and the scheduler of training are those that run on devices; training itself is a
    stand-in that takes the time of its steps.
    """
    from edgefl.errors import UsageError
    from edgefl.sim.apps.run import Setting, median_links, median_steps, run_apps
    from edgefl.sim.train.traces import read_csv, synthetic

    if max(members) > nodes:
        raise UsageError(f"{max(members)} members of {nodes} devices", hint="use more --nodes, or fewer --members")
    devices = synthetic(nodes, seed) if traces is None else read_csv(traces, nodes)
    if not unequal_links:
        devices = median_links(devices)
    if alike:
        devices = median_steps(devices)
    server_bytes_s = server_mbit * 1e6 / 8
    rows = []
    for count in members:
        setting = Setting(
            nodes=nodes,
            apps=applications,
            members=count,
            rounds=rounds,
            parameters=parameters,
            steps=local_steps,
            server_uplink_bytes_s=server_bytes_s,
            server_downlink_bytes_s=server_bytes_s,
            at_random=at_random,
            seed=seed,
        )
        rows.append(run_apps(setting, devices, report=reporter()))
    end_progress()
    if as_json:
        emit_json({"apps": rows})
    else:
        show(rows)


HEADER = (
    "MEMBERS",
    "APPS/DEVICE",
    "ALONE S",
    "TOGETHER S",
    "MEAN X",
    "TOTAL X",
    "OVER BOUND",
    "SERVER IN TURN X",
    "SERVER TOGETHER X",
)


def show(rows: list[dict[str, Any]]) -> None:
    """The documents of some runs, for people."""
    first = rows[0]
    emit_pairs(
        [
            ("simulated", "overlay, learning and scheduler as shipped; training is a stand-in that takes its time"),
            ("devices", f"{first['nodes']}, seed {first['seed']}"),
            ("applications", f"{first['apps']}, {first['rounds']} rounds, {first['parameters']:,} parameters"),
        ]
    )
    click.echo()
    emit_table(
        [
            (
                row["members"],
                f"{row['apps'] * row['members'] / row['nodes']:.2f}",
                f"{row['one_s']['mean']:.1f} ({row['one_s']['longest']:.1f})",
                f"{row['together_s']['mean']:.1f} ({row['together_s']['longest']:.1f})",
                f"{row['over_one']['mean']:.3f}",
                f"{row['over_one']['longest']:.3f}",
                f"{row['over_bound']:.3f}",
                f"{row['server']['sequential_over_trees']:.2f}",
                f"{row['server']['parallel_over_trees']:.2f}",
            )
            for row in rows
        ],
        HEADER,
    )
    click.echo()
    click.echo(
        "ALONE, TOGETHER: mean of all applications (the longest). MEAN X: of an application's time together over"
    )
    click.echo(
        "alone. TOTAL X: all together over the longest alone. OVER BOUND: over what the busiest device has to do."
    )
    click.echo("SERVER: a central server's total time over that of the trees.")
