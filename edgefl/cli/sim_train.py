"""`edgefl sim train`: learning curves of the topologies without a server."""

from __future__ import annotations

from pathlib import Path

import click

from edgefl.cli.output import emit_json, emit_table, json_option, report_errors

TOPOLOGIES = ("sampled", "consensus", "d-psgd-one-peer", "d-psgd-regular", "gossip")


@click.command()
@click.option(
    "--topology",
    "topologies",
    multiple=True,
    type=click.Choice(TOPOLOGIES),
    help="A curve of this one; may be given several times (without it: all).",
)
@click.option("--nodes", default=100, type=click.IntRange(2, 5000), help="Devices.")
@click.option("--seconds", default=600.0, type=click.FloatRange(1), help="Virtual time.")
@click.option("--points", default=20, type=click.IntRange(1, 10_000), help="Of each curve, evenly in time.")
@click.option("--target", type=click.FloatRange(0, 1), help="End a curve once it reaches this accuracy.")
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A directory with MNIST's 10,000 test images (IDX, gzip) instead of the shipped digits.",
)
@click.option(
    "--traces",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Devices from a CSV file (step_s, uplink_bytes_s, downlink_bytes_s, delay_s) instead of synthetic ones.",
)
@click.option("--alpha", default=100.0, type=click.FloatRange(0.01), help="Dirichlet: small is non-IID, large is IID.")
@click.option("--hidden", default=0, type=click.IntRange(0, 4096), help="Hidden units; 0: softmax regression.")
@click.option("--local-steps", default=5, type=click.IntRange(1, 1000), help="SGD steps of one local training.")
@click.option("--batch", default=20, type=click.IntRange(1, 4096), help="Images of a step.")
@click.option("--lr", default=0.1, type=click.FloatRange(0.0001, 100), help="Learning rate.")
@click.option("--momentum", default=0.0, type=click.FloatRange(0, 0.99), help="Of local training.")
@click.option("--sample", default=13, type=click.IntRange(1, 100), help="sampled: devices of a round (s).")
@click.option("--success", default=0.8, type=click.FloatRange(0.01, 1), help="sampled: share waited for (sf).")
@click.option(
    "--links-down", default=0.0, type=click.FloatRange(0, 0.99), help="Share of the links that is down at any time."
)
@click.option("--seed", default=1, help="The same seed gives the same run.")
@json_option
@report_errors
def train(
    topologies: tuple[str, ...],
    nodes: int,
    seconds: float,
    points: int,
    target: float | None,
    data: Path | None,
    traces: Path | None,
    alpha: float,
    hidden: int,
    local_steps: int,
    batch: int,
    lr: float,
    momentum: float,
    sample: int,
    success: float,
    links_down: float,
    seed: int,
    as_json: bool,
) -> None:
    """Learning curves under virtual time, with real gradients: devices of different speed, delay and bandwidth."""
    from edgefl.errors import UsageError
    from edgefl.learning.sampled.options import SampledOptions
    from edgefl.sim.train.run import Bench, load
    from edgefl.sim.train.traces import read_csv, synthetic
    from edgefl.sim.train.world import Recipe

    options = SampledOptions(sample=sample, success=success)
    objection = options.objection()
    if objection is not None:
        raise UsageError(objection, hint="change --sample or --success")
    x, y = load(data)
    devices = synthetic(nodes, seed) if traces is None else read_csv(traces, nodes)
    recipe = Recipe(local_steps, batch, lr, momentum)
    bench = Bench(devices, x, y, hidden=hidden, recipe=recipe, alpha=alpha, seed=seed, links_down=links_down)
    curves = [
        bench.curve(topology, seconds=seconds, points=points, target=target, options=options)
        for topology in topologies or TOPOLOGIES
    ]
    if as_json:
        emit_json({"train": {"nodes": nodes, "seed": seed, "curves": curves}})
        return
    emit_table(
        [
            (
                curve["topology"],
                f"{curve['time_s'][-1]:.0f} s",
                f"{curve['accuracy'][-1]:.4f}",
                f"{curve['bytes'][-1] / 1e6:.1f}",
                f"{curve['device_seconds'][-1]:.0f}",
            )
            for curve in curves
        ],
        ("topology", "time", "accuracy", "MB", "device seconds"),
    )
