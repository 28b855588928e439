"""A device that is busy with other work: real daemons, and a real hog beside one of them.

On one machine every process sees the same processor. So the one device is pinned to a core of its own, and the hog to
the same one; all others share the other cores. A daemon's sensor looks at the cores that it may run on (load.py), so it
sees the hog and the others do not. Links are not limited: what a byte costs is the processor's time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from edgefl.datasets import models
from edgefl.demo import digits
from edgefl.demo.local_fleet import LocalFleet
from edgefl.errors import EdgeflError, TryAgainError
from edgefl.trainer import build

DEVICES, HOGS = 10, 31
"""Processes that burn the core, each as eager as the daemon. The devices on the other core have a ninth of it each, so
that fewer would leave this one the fastest of all."""

HIDDEN = 327_680
"""Units of the one hidden layer: 98 MB a model, so that a round takes longer than sensors need to notice (a sample
every 5 s, a half-life of 20 s)."""

EPOCHS = 1
BEFORE, BUSY, AFTER = 4, 6, 8
"""Rounds without the hog, with it, and without it again."""

PATIENCE_S = 1200.0

BURN = "while True: pass"


@dataclass(frozen=True, slots=True)
class Look:
    """One round, as it was over: its time, children and background load of the busy device."""

    round: int
    seconds: float
    children: int
    background: float
    since_s: float
    """Since the hog came or went."""


@dataclass(frozen=True, slots=True)
class Measured:
    before: tuple[Look, ...]
    busy: tuple[Look, ...]
    after: tuple[Look, ...]
    lost_rounds: int

    @property
    def rounds_to_shed(self) -> int | None:
        """Rounds under the hog until the device has fewer than half of its children (none, if it had one)."""
        had = self.before[-1].children
        return next((number for number, look in enumerate(self.busy, 1) if 2 * look.children < had), None)

    @property
    def came_back(self) -> int:
        """The most children that it has had since."""
        return max(look.children for look in self.after)

    @staticmethod
    def seconds(looks: Iterable[Look]) -> float:
        return median(look.seconds for look in looks)


def measure(seed: int) -> Measured:
    """Raises TryAgainError on a machine with one core, or when nothing comes of it."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise TryAgainError("a hog needs a core beside the others", hint="measure on a machine with two")
    with tempfile.TemporaryDirectory(prefix="edgefl-hog-") as place:
        directory = Path(place)
        division = digits.divide(DEVICES, seed)
        model = models.mlp(hidden=HIDDEN, seed=seed).SerializeToString()
        build(model, loss="cross-entropy", optimizer="sgd", out=directory / "artifacts")
        with LocalFleet(directory, DEVICES, digits.write_parts(division, directory)) as fleet:
            fleet.start()
            return Trial(fleet, cores, seed).run()


class Trial:
    def __init__(self, fleet: LocalFleet, cores: list[int], seed: int) -> None:
        self._fleet, self._cores = fleet, cores
        self._attempts: dict[int, int] = {}
        created = fleet.client(0).call(
            "app.create",
            directory=str(fleet.directory / "artifacts"),
            name="hog",
            data="digits",
            rounds=10_000,
            local_epochs=EPOCHS,
            batch=32,
            learning_rate=0.01,
            held_back=0.1,
            deadline_s=300.0,
            min_members=DEVICES,
            seed=seed,
        )
        self._app = created["id"]

    def run(self) -> Measured:
        self._watch(2, None)
        self._busy = self._choose()
        for number, process in self._fleet.processes.items():
            pin(process.pid, self._cores[-1:] if number == self._busy else self._cores[:-1])
        before = self._watch(BEFORE, self._busy)
        # Sessions of their own: the kernel may divide a core between sessions first (sched_autogroup).
        hogs = [subprocess.Popen([sys.executable, "-c", BURN], start_new_session=True) for _ in range(HOGS)]
        try:
            for hog in hogs:
                os.sched_setaffinity(hog.pid, self._cores[-1:])
            busy = self._watch(BUSY, self._busy)
        finally:
            for hog in hogs:
                hog.kill()
                hog.wait()
        after = self._watch(AFTER, self._busy)
        played = [look.round for look in (*before, *busy, *after)]
        return Measured(before, busy, after, sum(self._attempts[number] > 1 for number in played))

    def _choose(self) -> int:
        """The device with the most children that is not the root."""
        found = {number: self._application(status) for number, status in self._fleet.statuses().items()}
        return max((n for n in found if not found[n]["is_root"]), key=lambda n: len(found[n]["children"]))

    def _application(self, status: dict[str, Any]) -> dict[str, Any]:
        return next(one for one in status["applications"] if one["id"] == self._app)

    def _watch(self, rounds: int, busy: int | None) -> tuple[Look, ...]:
        """So many rounds, each looked at when it is over."""
        looks: list[Look] = []
        began, last = time.monotonic(), None
        while len(looks) < rounds and time.monotonic() < began + PATIENCE_S:
            time.sleep(0.25)
            try:
                newest = self._fleet.client(0).call("app.show", app=self._app)["newest"]
                if newest is None or newest["round"] == last:
                    continue
                status = self._fleet.status(0 if busy is None else busy)
            except EdgeflError:
                continue
            if last is not None:  # the round that was going on when we began belongs to nobody
                self._attempts[newest["round"]] = newest["attempts"]
                looks.append(
                    Look(
                        newest["round"],
                        newest["seconds"],
                        len(self._application(status)["children"]),
                        0.0 if status["load"] is None else round(status["load"]["background_cpu"], 2),
                        round(time.monotonic() - began, 1),
                    )
                )
            last = newest["round"]
        if len(looks) < rounds:
            raise TryAgainError(f"{rounds} rounds were not done in {PATIENCE_S:g} s", hint="this machine is too busy")
        return tuple(looks)


def pin(process: int, cores: list[int]) -> None:
    """All threads of a process; those to come inherit it."""
    for task in Path(f"/proc/{process}/task").iterdir():
        os.sched_setaffinity(int(task.name), cores)
