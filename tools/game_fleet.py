"""The routing game among real daemons: processes on this machine whose uplinks are limited to different rates.

One application on one fleet, so that root and rates are the same: some rounds under one rule, then all daemons
are stopped and started again under the other, and the application goes on.
"""

from __future__ import annotations

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

DEVICES, NEAREST_ROUNDS, GAME_ROUNDS, LAST = 12, 5, 10, 3
"""Rounds under each rule, of which the last count."""

HIDDEN = 8192
"""Units of the one hidden layer: 2.4 MB a model."""

SLOWEST, FASTEST = 6.0, 7.0
"""Powers of ten (log-uniform), bytes a second: 1 to 10 MB/s."""

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
            seconds: dict[int, tuple[float, int]] = {}
            _wait(fleet, app, NEAREST_ROUNDS, seconds)
            fleet.stop()
            _configure(fleet, rates, Rule.ACBR)
            for number in range(DEVICES):
                fleet.launch(number)
            for number in range(DEVICES):
                fleet.wait_ready(number)
            _wait(fleet, app, NEAREST_ROUNDS + GAME_ROUNDS, seconds)
            statuses = fleet.statuses()
    # The round in which the daemons stop and the one in which they come back belong to neither rule.
    nearest = tuple(seconds[number][0] for number in sorted(seconds) if 1 <= number < NEAREST_ROUNDS)
    game = tuple(seconds[number][0] for number in sorted(seconds) if number > NEAREST_ROUNDS + 2)
    root = next(number for number, status in statuses.items() if _application(status, app)["is_root"])
    return Measured(
        median(nearest[-LAST:]),
        median(game[-LAST:]),
        sum(status["counters"].get("game_moves", 0) for status in statuses.values()),
        sum(attempts > 1 for number, (_, attempts) in seconds.items() if number > NEAREST_ROUNDS + 2),
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
        rounds=NEAREST_ROUNDS + GAME_ROUNDS + 1,
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


def _wait(fleet: LocalFleet, app: str, rounds: int, seconds: dict[int, tuple[float, int]]) -> None:
    """Until so many rounds are done; of each its time and attempts are noted."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            found = fleet.client(0).call("app.show", app=app)
            seconds.update({one["round"]: (one["seconds"], one["attempts"]) for one in found["history"]})
            if found["round"] >= rounds:
                return
        except EdgeflError:
            pass  # it has not found its application again yet
        time.sleep(0.5)
    raise TryAgainError(f"{rounds} rounds were not done in {PATIENCE_S:g} s", hint="this machine may be too busy")
