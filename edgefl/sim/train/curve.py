"""How a run becomes a curve: time passes, and every now and then somebody looks."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgefl.sim.train.learner import Vector
    from edgefl.sim.train.world import Device, World

LOOK_S = 0.1
"""How often the round is looked at where that matters: the times of rounds are known as finely as this."""

COLUMNS = ("time_s", "accuracy", "bytes", "device_seconds")


@dataclass(frozen=True, slots=True)
class Failure:
    """Once round `round` is done, this share of the devices falls silent."""

    round: int
    share: float


@dataclass(frozen=True, slots=True)
class Run:
    """A topology at work: the newest round that is done (the median over devices where each has its own), the models
    that accuracy is measured of, and what has to hear of devices that were switched off."""

    round: Callable[[], int]
    models: Callable[[], list[Vector]]
    on_lost: Callable[[list[Device]], None] = lambda lost: None


@dataclass(slots=True)
class Curve:
    """What a run has shown so far. `round_s[k]`: when round k + 1 was seen to be done."""

    topology: str
    strategy: str
    time_s: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    bytes: list[float] = field(default_factory=list)
    device_seconds: list[float] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    round_s: list[float] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """As in the JSON output of `edgefl sim train`."""
        columns = {name: getattr(self, name) for name in (*COLUMNS, "rounds")}
        return {"topology": self.topology, "strategy": self.strategy, **columns}

    def cost_at(self, accuracy: float, column: str, steady: int = 1) -> float | None:
        """Time, bytes or device-seconds when this accuracy was first reached, by the median of the last `steady`
        points; None if it never was."""
        for at, cost in enumerate(getattr(self, column)):
            if self.reached(accuracy, steady, at + 1):
                return float(cost)
        return None

    def reached(self, accuracy: float, steady: int = 1, points: int | None = None) -> bool:
        """Whether the median of the last `steady` of the first `points` points has this accuracy."""
        last = self.accuracy[:points][-steady:]
        return len(last) == steady and statistics.median(last) >= accuracy


def follow(
    curve: Curve,
    world: World,
    run: Run,
    accuracy: Callable[[], float],
    *,
    seconds: float,
    points: int,
    target: float | None = None,
    failures: tuple[Failure, ...] = (),
    rounds: int | None = None,
    steady: int = 1,
) -> None:
    """Let time pass, and write down what is seen; until `seconds`, or `target` accuracy at `steady` points (see
    Curve.reached), or `rounds` rounds."""
    coming = sorted(failures, key=lambda failure: failure.round)
    look_s = LOOK_S if failures or rounds is not None else seconds
    for point in range(1, points + 1):
        end = seconds * point / points
        while world.clock.now < end and (rounds is None or len(curve.round_s) < rounds):
            world.clock.run(min(end, world.clock.now + look_s))
            done = run.round()
            curve.round_s += [round(world.clock.now, 4)] * (done - len(curve.round_s))
            while coming and done >= coming[0].round:
                run.on_lost(world.fail(coming.pop(0).share))
        row = (world.clock.now, accuracy(), world.bytes, world.device_seconds)
        for name, value in zip(COLUMNS, row, strict=True):
            getattr(curve, name).append(round(value, 4))
        curve.rounds.append(len(curve.round_s))
        if (target is not None and curve.reached(target, steady)) or (
            rounds is not None and len(curve.round_s) >= rounds
        ):
            return
