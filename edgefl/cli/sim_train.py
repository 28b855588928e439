"""`edgefl sim train`: learning curves of the topologies without a server."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgefl.cli.output import emit_json, emit_table, json_option, note, report_errors

if TYPE_CHECKING:
    from edgefl.sim.train.curve import Curve, Failure
    from edgefl.sim.train.learner import LocalTraining

GRAPHS = ("erdos-renyi", "ring", "overlay")
TOPOLOGIES = ("forest", "sampled", "consensus", "d-psgd-one-peer", "d-psgd-regular", "gossip", "fedavg-server")


@click.command()
@click.option(
    "--topology",
    "topologies",
    multiple=True,
    type=click.Choice(TOPOLOGIES),
    help="A curve of this one; may be given several times (without it: all).",
)
@click.option(
    "--strategy",
    "strategies",
    multiple=True,
    default=("fedavg",),
    metavar="NAME[:KEY=VALUE,…]",
    help="A curve of this one, for topologies with a root (forest, fedavg-server); may be given several times.",
)
@click.option(
    "--pace",
    "paces",
    multiple=True,
    default=("sync",),
    metavar="NAME[:KEY=VALUE,…]",
    help="A curve of the forest at this one (sync, quantile, buffered); may be given several times.",
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
@click.option(
    "--trainer",
    default="numpy",
    type=click.Choice(["numpy", "ort"]),
    help="numpy: a small model (see --hidden), quick. ort: the trainer that ships, on --artifacts.",
)
@click.option(
    "--artifacts",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="ort: what `edgefl artifacts build` made; its optimizer takes the place of --momentum.",
)
@click.option(
    "--sample", default=13, type=click.IntRange(1, 100), help="sampled, fedavg-server: devices of a round (s)."
)
@click.option(
    "--success", default=0.8, type=click.FloatRange(0.01, 1), help="sampled, fedavg-server: share waited for (sf)."
)
@click.option(
    "--graph",
    default="erdos-renyi",
    type=click.Choice(GRAPHS),
    help="consensus: who exchanges with whom; overlay: the neighbours that the overlay, simulated first, finds.",
)
@click.option(
    "--links-down", default=0.0, type=click.FloatRange(0, 0.99), help="Share of the links that is down at any time."
)
@click.option(
    "--fail",
    "failures",
    multiple=True,
    metavar="ROUND:SHARE",
    help="Once that round is done, a share of the devices falls silent; may be given several times.",
)
@click.option("--plot", type=click.Path(file_okay=False, path_type=Path), help="Draw the figures into a directory.")
@click.option("--csv", "table", type=click.Path(dir_okay=False, path_type=Path), help="Write all points to a file.")
@click.option("--seed", default=1, help="The same seed gives the same run.")
@json_option
@report_errors
def train(
    topologies: tuple[str, ...],
    strategies: tuple[str, ...],
    paces: tuple[str, ...],
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
    trainer: str,
    artifacts: Path | None,
    sample: int,
    success: float,
    graph: str,
    links_down: float,
    failures: tuple[str, ...],
    plot: Path | None,
    table: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Learning curves under virtual time, with real gradients: devices of different speed, delay and bandwidth.

    fedavg-server is a baseline that nobody can build: a server with an unlimited link and processor.
    """
    from edgefl.errors import UsageError
    from edgefl.learning.pace import parse_pace
    from edgefl.learning.sampled.options import SampledOptions
    from edgefl.learning.strategies.spec import parse_strategy
    from edgefl.pictures import draw_curves, figures
    from edgefl.sim.train.run import WITH_STRATEGY, Bench, load
    from edgefl.sim.train.traces import read_csv, synthetic
    from edgefl.sim.train.world import Recipe

    if plot is not None:
        figures()  # before the work
    options = SampledOptions(sample=sample, success=success)
    objection = options.objection()
    if objection is not None:
        raise UsageError(objection, hint="change --sample or --success")
    for strategy in strategies:
        parse_strategy(strategy)
    for pace in paces:
        parse_pace(pace)
    losses = tuple(_failure(text) for text in failures)
    x, y = load(data)
    devices = synthetic(nodes, seed) if traces is None else read_csv(traces, nodes)
    bench = Bench(
        devices,
        x,
        y,
        hidden=hidden,
        recipe=Recipe(local_steps, batch, lr, momentum),
        alpha=alpha,
        seed=seed,
        links_down=links_down,
        learner=_learner(trainer, artifacts),
        graph=graph,
    )
    curves = [
        bench.curve(
            topology,
            seconds=seconds,
            points=points,
            target=target,
            options=options,
            strategy=strategy,
            pace=pace,
            failures=losses,
        )
        for topology in topologies or TOPOLOGIES
        for strategy in (strategies if topology in WITH_STRATEGY else ("fedavg",))
        for pace in (paces if topology == "forest" else ("sync",))
    ]
    document = {"nodes": nodes, "seed": seed, "curves": [curve.document() for curve in curves]}
    if table is not None:
        _write_table(table, curves)
    if plot is not None:
        for path in draw_curves(document, plot):
            note(f"drawn: {path}")
    if as_json:
        emit_json({"train": document})
        return
    emit_table(
        [
            (
                curve.topology,
                curve.strategy,
                f"{curve.time_s[-1]:.0f} s",
                str(curve.rounds[-1]),
                f"{curve.accuracy[-1]:.4f}",
                f"{curve.bytes[-1] / 1e6:.1f}",
                f"{curve.device_seconds[-1]:.0f}",
            )
            for curve in curves
        ],
        ("topology", "strategy", "time", "rounds", "accuracy", "MB", "device seconds"),
    )


def _failure(text: str) -> Failure:
    from edgefl.errors import UsageError
    from edgefl.sim.train.curve import Failure

    round_, _, share = text.partition(":")
    try:
        failure = Failure(int(round_), float(share))
    except ValueError:
        raise UsageError(f"--fail {text} is not ROUND:SHARE", hint="as in --fail 20:0.8") from None
    if failure.round < 0 or not 0 < failure.share < 1:
        raise UsageError(f"--fail {text} is out of range", hint="a round from 0 on, a share above 0 and below 1")
    return failure


def _learner(trainer: str, artifacts: Path | None) -> LocalTraining | None:
    """The trainer that ships, or None for the quick one."""
    from edgefl.errors import UsageError

    if (trainer == "ort") != (artifacts is not None):
        raise UsageError("--trainer ort and --artifacts belong together", hint="give both, or neither")
    if artifacts is None:
        return None
    from edgefl.trainer.running.flat import FlatSession

    return FlatSession(artifacts)


def _write_table(path: Path, curves: list[Curve]) -> None:
    """One row for each point of each curve. Raises ConfigError."""
    from edgefl.errors import ConfigError
    from edgefl.sim.train.curve import COLUMNS

    names = (*COLUMNS, "rounds")
    try:
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("topology", "strategy", *names))
            for curve in curves:
                for row in zip(*(getattr(curve, name) for name in names), strict=True):
                    writer.writerow((curve.topology, curve.strategy, *row))
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error}", hint="give a file in a directory that exists") from None
