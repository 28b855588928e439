"""`edgefl sim together`: several models that share one fleet's training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgefl.cli.output import emit_json, emit_pairs, emit_table, json_option, report_errors
from edgefl.cli.progress import end_progress, reporter


@click.command()
@click.option("--nodes", default=32, type=click.IntRange(4, 1000), help="Devices; each trains all four models.")
@click.option(
    "--target",
    "targets",
    nargs=4,
    default=(0.92, 0.92, 0.93, 0.9),
    type=click.FloatRange(0, 1),
    help="Accuracy that each of the four models has to reach on images that no device has.",
)
@click.option("--pace", default="buffered", help="Of all applications: buffered[:goal=0.8,…].")
@click.option("--local-steps", default=20, type=click.IntRange(1, 10_000), help="SGD steps of one local training.")
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A directory with MNIST's 10,000 test images (IDX, gzip) instead of the shipped digits.",
)
@click.option("--seed", default=1, help="The same seed gives the same run.")
@json_option
@report_errors
def together(
    nodes: int,
    targets: tuple[float, float, float, float],
    pace: str,
    local_steps: int,
    data: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """How soon are four models good that share one fleet: one after the other, all at once, or with --together?

    The overlay, the learning layer and the scheduler of training are those that run on devices, and gradients are real:
    small or large, odd or even, and which digit, the last one twice (once from devices that have few digits each).
    """
    from edgefl.sim.apps.run import Setting, median_links
    from edgefl.sim.apps.together import compare_ways, tasks
    from edgefl.sim.train.run import load
    from edgefl.sim.train.traces import synthetic

    setting = Setting(nodes=nodes, steps=local_steps, quorum=0.5, deadline_s=120.0, seed=seed)
    devices = median_links(synthetic(nodes, seed))
    found = compare_ways(setting, devices, *load(data), tasks(targets), pace, report=reporter())
    end_progress()
    if as_json:
        emit_json(found)
    else:
        show(found)


def show(found: dict[str, Any]) -> None:
    """The document of a run, for people."""
    emit_pairs(
        [
            ("simulated", "overlay, learning and scheduler as shipped; gradients are real"),
            ("devices", f"{found['nodes']}, seed {found['seed']}"),
            ("pace", found["pace"]),
        ]
    )
    click.echo()
    names = [model["name"].upper() for model in found["models"]]
    emit_table(
        [
            (
                row["way"],
                f"{row['all_s']:.0f}",
                f"{row['in_turn_over_this']:.2f}",
                f"{row['device_seconds']:.0f}",
                *(f"{task['seconds']:.0f} ({task['rounds']} × {task['participants']:.0f})" for task in row["tasks"]),
            )
            for row in found["ways"]
        ],
        ("WAY", "ALL GOOD S", "IN TURN X", "DEVICE S", *names),
    )
    click.echo()
    click.echo("ALL GOOD: when the last model is as good as wanted. IN TURN X: how many times sooner than one after")
    click.echo(
        "the other. DEVICE S: seconds of training of all devices. Each model: seconds (rounds × devices in one)."
    )
