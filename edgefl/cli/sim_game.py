"""`edgefl sim game`: the routing game as arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgefl.cli.output import emit_json, emit_pairs, emit_table, json_option, note, report_errors
from edgefl.cli.progress import end_progress, reporter

SHOWN = (0, 1, 2, 3, 4, 6, 8, 10, 15, 20, 40, 60, 80, 100, 150, 200)
"""Epochs in the table, and the last."""


@click.command()
@click.option("--players", default=34_000, type=click.IntRange(50, 400_000), help="(application, device) pairs.")
@click.option(
    "--rule", default="acbr", type=click.Choice(["acbr", "smooth", "rtt", "klucb", "exp3"]), help="How all choose."
)
@click.option("--epochs", default=100, type=click.IntRange(1, 10_000), help="Epochs: rounds, or 15 s each.")
@click.option(
    "--delay-weight",
    type=click.FloatRange(0, 1),
    help="lambda, how much the parent's own delay counts.  [default: 0.2]",
)
@click.option("--stale", default=2, type=click.IntRange(0, 50), help="Epochs that adverts are old.")
@click.option("--liars", default=0.0, type=click.FloatRange(0, 0.9), help="Devices that advertise an eighth.")
@click.option("--no-residuals", is_flag=True, help="Believe the adverts: what liars do to a fleet that does.")
@click.option("--sites", is_flag=True, help="The uplinks that devices of a site share have a price too.")
@click.option("--drift", is_flag=True, help="Devices and links get worse at epochs 60 and 120, better at 180.")
@click.option("--compare", is_flag=True, help="Every rule on the same instance, side by side.")
@click.option("--seed", default=1, type=click.IntRange(min=0), help="The same seed gives the same figures.")
@click.option("--plot", type=click.Path(file_okay=False, path_type=Path), help="Draw epsilon, cost and round time.")
@json_option
@report_errors
def game(
    players: int,
    rule: str,
    epochs: int,
    delay_weight: float | None,
    stale: int,
    liars: float,
    no_residuals: bool,
    sites: bool,
    drift: bool,
    compare: bool,
    seed: int,
    plot: Path | None,
    as_json: bool,
) -> None:
    """A vectorised model of the routing game: epsilon, cost beside the optimum, moves, time of a round, per epoch.

    Costs, rules and their numbers are those of the shipped code; no message is sent and no device is real.
    """
    from edgefl.errors import UsageError
    from edgefl.overlay.game.rules import DEFAULT, Rule
    from edgefl.pictures import draw_game, figures
    from edgefl.sim.game import run_comparison, run_game

    if plot is not None:
        figures()  # an error now rather than after the run
    if compare:
        if rule != "acbr" or delay_weight is not None or stale != 2 or liars or no_residuals or sites or drift:
            raise UsageError("--compare has settings of its own", hint="give --players, --epochs and --seed alone")
        document = run_comparison(players=players, epochs=epochs, seed=seed, report=reporter())
    else:
        document = run_game(
            players=players,
            rule=Rule(rule),
            epochs=epochs,
            seed=seed,
            delay_weight=DEFAULT.delay_weight if delay_weight is None else delay_weight,
            stale=stale,
            liars=liars,
            residuals=not no_residuals,
            sites=sites,
            drift=drift,
            report=reporter(),
        )
    end_progress()
    if plot is not None:
        for path in draw_game(document, plot):
            note(f"drawn: {path}")
    if as_json:
        emit_json(document)
    elif compare:
        _show_comparison(document)
    else:
        _show(document)


def _show(document: dict[str, Any]) -> None:
    settled = document["settled_epoch"]
    emit_pairs(
        [
            ("model", "vectorised: no device is real, nothing is sent"),
            (
                "players",
                f"{document['players']:,} of {document['devices']:,} devices in {document['applications']:,} "
                f"applications, seed {document['seed']}",
            ),
            (
                "rule",
                f"{document['rule']}, lambda {document['delay_weight']:g}, adverts {document['stale']} epochs old",
            ),
            ("epsilon below", ", ".join(f"{float(level):.0%} from epoch {at}" for level, at in settled.items())),
            ("moves", f"{document['moves_total_per_player']} per player in all"),
            ("optimum", f"fractional, known to {document['optimum_gap']:.1%}"),
            ("took", f"{document['cpu_seconds']} s of processor"),
        ]
    )
    click.echo()
    last = document["epochs"]
    emit_table(
        [
            [
                epoch,
                f"{document['eps_rel'][epoch]:.4f}",
                f"{document['eps_max_s'][epoch]:.2f}",
                f"{document['cost_over_optimum'][epoch]:.3f}",
                f"{document['moves_per_player'][epoch]:.4f}",
                f"{document['round_time_s'][epoch]:.1f}",
                f"{document['round_time_p95_s'][epoch]:.1f}",
            ]
            for epoch in sorted({*(shown for shown in SHOWN if shown < last), last})
        ],
        ["EPOCH", "EPSILON", "LARGEST GAIN S", "COST / OPTIMUM", "MOVES", "ROUND S", "P95"],
    )


def _show_comparison(document: dict[str, Any]) -> None:
    emit_pairs(
        [
            ("model", "vectorised: no device is real, nothing is sent"),
            ("players", f"{document['players']:,}, seed {document['seed']}, {document['epochs']} epochs"),
        ]
    )
    click.echo()
    emit_table(
        [
            [
                run["rule"],
                f"{run['delay_weight']:g}",
                f"{run['eps_rel'][-1]:.4f}",
                run["settled_epoch"]["0.05"],
                f"{run['cost_over_optimum'][-1]:.3f}",
                f"{run['moves_per_player'][-1]:.4f}",
                run["moves_total_per_player"],
                f"{run['round_time_s'][-1]:.1f}",
                f"{run['round_time_p95_s'][-1]:.1f}",
            ]
            for run in document["runs"]
        ],
        ["RULE", "LAMBDA", "EPSILON", "BELOW 5% FROM", "COST / OPTIMUM", "MOVES NOW", "IN ALL", "ROUND S", "P95"],
    )
