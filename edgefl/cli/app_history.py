"""`edgefl app history`: every round of an application, as a table, a picture, a CSV file, for TensorBoard or MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgefl.cli.daemon_option import client, state_option
from edgefl.cli.output import emit_json, emit_table, json_option, note, report_errors

HEADER = ("ROUND", "DEVICES", "SAMPLES", "LOSS", "ACCURACY", "TRAIN LOSS", "SECONDS", "KB", "ATTEMPTS", "EPSILON")

COLUMNS = (
    "round",
    "epoch",
    "participants",
    "samples",
    "seconds",
    "bytes",
    "attempts",
    "loss",
    "accuracy",
    "train_loss",
    "epsilon",
    "members",
    "budget_s",
    "stalest",
    "dropped",
)
"""Of a CSV file, whether known or not; further metrics follow."""

TWICE = "train_epsilon"
"""The same as `epsilon`."""


def history_row(record: dict[str, Any]) -> tuple[object, ...]:
    """One round, for people."""

    def rounded(name: str) -> str | None:
        return f"{record[name]:.4f}" if name in record else None

    return (
        record["round"],
        record["participants"],
        record["samples"],
        rounded("loss"),
        rounded("accuracy"),
        rounded("train_loss"),
        f"{record['seconds']:.2f}",
        record["bytes"] // 1024,
        record["attempts"],
        rounded("epsilon"),
    )


def print_history(records: list[dict[str, Any]]) -> None:
    emit_table([history_row(record) for record in records], HEADER)


def columns_of(records: list[dict[str, Any]]) -> list[str]:
    """The columns of a CSV file of these records."""
    further = sorted({key for record in records for key in record} - set(COLUMNS) - {TWICE})
    return [*COLUMNS, *further]


def write_csv(records: list[dict[str, Any]], path: Path) -> None:
    """One line for each round; what is not known of a round is empty."""
    import csv

    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns_of(records), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(records)


@click.command()
@click.argument("name", metavar="APP")
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE|DIR",
    help="Draw all rounds into a .png, .svg or .pdf file, or history.png in a directory.",
)
@click.option("--csv", "table", type=click.Path(dir_okay=False, path_type=Path), help="Write the rounds as a CSV file.")
@click.option(
    "--tensorboard", type=click.Path(file_okay=False, path_type=Path), help="Write the rounds for TensorBoard."
)
@click.option("--mlflow", metavar="URI", help="Log the rounds as a run at an MLflow tracking server.")
@state_option
@json_option
@report_errors
def history(
    name: str,
    plot: Path | None,
    table: Path | None,
    tensorboard: Path | None,
    mlflow: str | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Loss, metrics, participants, bytes, seconds and epsilon of every round.

    Epsilon is what the devices could still gain by other parents in the tree, as a share of what their uplinks cost.
    The root and its runners-up know all rounds; another device those since it has joined.
    """
    from edgefl.cli.writers import MLflow, TensorBoard

    records = client(state).call("app.history", app=name)
    if plot is not None:
        from edgefl.pictures import draw_history

        note(f"drawn: {draw_history(records, name, plot)}")
    if table is not None:
        write_csv(records, table)
    if tensorboard is not None:
        with TensorBoard(tensorboard, name) as writer:
            writer.write(records, finished=True)
    if mlflow is not None:
        shown = client(state).call("app.show", app=name)
        with MLflow(mlflow, shown["name"], shown["id"]) as run:
            run.write(records, finished=bool(shown["finished"]))
    if as_json:
        emit_json({"history": records})
    else:
        print_history(records)
