"""The routing game among real daemons: processes on this machine whose uplinks are limited to different rates.

One application on one fleet, so that root and rates are the same: half of its rounds under one rule, then all daemons
are stopped and started again under the other, and the application goes on.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from edgefl.datasets import models
from edgefl.demo import digits
from edgefl.demo.local_fleet import LocalFleet
from edgefl.errors import EdgeflError, TryAgainError
from edgefl.overlay.game.rules import Rule
from edgefl.trainer import build

DEVICES, ROUNDS, LAST = 12, 10, 5
"""Rounds under each rule, of which the last count."""

HIDDEN = 8192
"""Units of the one hidden layer: 2.4 MB a model."""

SLOWEST, FASTEST = 5.7, 7.0
"""Powers of ten (log-uniform), bytes a second: 0.5 to 10 MB/s."""

PATIENCE_S = 600.0


@dataclass(frozen=True, slots=True)
class Measured:
    """Median seconds of a round under each rule, what moved, and the rates (bytes a second; the root's first)."""

    nearest_s: float
    game_s: float
    moves: int
    lost_rounds: int
    root_bytes_s: float
    nearest_rounds_s: tuple[float, ...]
    game_rounds_s: tuple[float, ...]


def measure(seed: int) -> Measured:
    random = Random(seed)
    rates = [10 ** random.uniform(SLOWEST, FASTEST) for _ in range(DEVICES)]
    with tempfile.TemporaryDirectory(prefix="edgefl-game-") as place:
        directory = Path(place)
        division = digits.divide(DEVICES, seed)
        model = models.mlp(hidden=HIDDEN, seed=seed).SerializeToString()
        build(model, loss="cross-entropy", optimizer="sgd", out=directory / "artifacts")
        with LocalFleet(directory, DEVICES, digits.write_parts(division, directory)) as fleet:
            _configure(fleet, rates, Rule.RTT)
            fleet.start()
            app = _create(fleet, seed)
            _wait(fleet, app, ROUNDS)
            fleet.stop()
            _configure(fleet, rates, Rule.ACBR)
            for number in range(DEVICES):
                fleet.launch(number)
            for number in range(DEVICES):
                fleet.wait_ready(number)
            history = _wait(fleet, app, 2 * ROUNDS)
            statuses = fleet.statuses()
    seconds = {record["round"]: record["seconds"] for record in history if record["round"]}
    nearest = tuple(seconds[number] for number in range(1, ROUNDS) if number in seconds)
    game = tuple(seconds[number] for number in range(ROUNDS + 2, 2 * ROUNDS + 1) if number in seconds)
    root = next(number for number, status in statuses.items() if _application(status, app)["is_root"])
    return Measured(
        median(nearest[-LAST:]),
        median(game[-LAST:]),
        sum(status["counters"].get("game_moves", 0) for status in statuses.values()),
        sum(record["attempts"] > 1 for record in history if record["round"] > ROUNDS + 1),
        rates[root],
        nearest,
        game,
    )


def _configure(fleet: LocalFleet, rates: list[float], rule: Rule) -> None:
    for number, rate in enumerate(rates):
        path = fleet.configs[number] = fleet.directory / f"device-{number}.toml"
        path.write_text(f'[overlay]\nrule = "{rule.value}"\n[limits]\nuplink = "{rate / 1000:.0f} kB/s"\n')


def _create(fleet: LocalFleet, seed: int) -> str:
    created = fleet.client(0).call(
        "app.create",
        directory=str(fleet.directory / "artifacts"),
        name="game",
        data="digits",
        rounds=2 * ROUNDS + 1,
        local_epochs=1,
        batch=32,
        learning_rate=0.01,
        held_back=0.1,
        deadline_s=300.0,
        min_members=DEVICES,
        seed=seed,
    )
    app: str = created["id"]
    return app


def _application(status: dict[str, Any], app: str) -> dict[str, Any]:
    return next((one for one in status["applications"] if one["id"] == app), {"is_root": False})


def _wait(fleet: LocalFleet, app: str, rounds: int) -> list[dict[str, Any]]:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            found = fleet.client(0).call("app.show", app=app)
            if found["round"] >= rounds:
                history: list[dict[str, Any]] = found["history"]
                return history
        except EdgeflError:
            pass  # it has not found its application again yet
        time.sleep(0.5)
    raise TryAgainError(f"{rounds} rounds were not done in {PATIENCE_S:g} s", hint="this machine may be too busy")


if __name__ == "__main__":
    print(measure(int(sys.argv[1])))
