"""The application's learning-rate schedule: what the devices' rate is multiplied by, a pure function of the round.

    constant                                 1
    cosine                                   along half a cosine from 1 in the first round towards 0 behind the last
    cosine:floor=0.05                        towards 0.05
    step:every=10                            a tenth of it after every 10 rounds
    step:every=10,factor=0.5                 half of it after every 10 rounds
    warmup:rounds=5                          1/6, 2/6, … 5/6 in the first 5 rounds, then 1
    warmup:rounds=5+cosine:floor=0.05        the course begins when the warm-up is over

Every device knows the round, so nothing travels, and a round that is tried again, or gone on with by another root, is
trained with the same rate. Without numpy. Source of the cosine: I. Loshchilov and F. Hutter, SGDR, 2017, equation 5
without restarts.
"""

from __future__ import annotations

import math
from typing import Protocol

from edgefl.declared import dataclass
from edgefl.errors import UsageError
from edgefl.learning.options import parse_options

MAX_SCHEDULE_BYTES = 128

MAX_EVERY = 1_000_000
"""Rounds; no application has more."""

LEAST_FACTOR = 1e-6
"""A learning rate of 0 would teach nothing, and SCAFFOLD divides by it."""

HINT = "constant, cosine[:floor=F], step:every=N[,factor=F], warmup:rounds=N, or warmup:rounds=N+ before one of them"


class Course(Protocol):
    def at(self, done: int, rounds: int) -> float:
        """After `done` of `rounds` rounds."""
        ...

    def objection(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Constant:
    def at(self, done: int, rounds: int) -> float:
        return 1.0

    def objection(self) -> str | None:
        return None


@dataclass(frozen=True, slots=True)
class Cosine:
    floor: float = 0.0

    def at(self, done: int, rounds: int) -> float:
        part = min(done, rounds) / max(1, rounds)
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * part)) / 2

    def objection(self) -> str | None:
        return None if 0 <= self.floor <= 1 else f"floor is {self.floor:g}, but must be 0 to 1"


@dataclass(frozen=True, slots=True)
class Step:
    every: int = 10
    factor: float = 0.1

    def at(self, done: int, rounds: int) -> float:
        return float(self.factor ** (done // self.every))

    def objection(self) -> str | None:
        if not 1 <= self.every <= MAX_EVERY:
            return f"every is {self.every:.0g}, but must be 1 to {MAX_EVERY}"
        return None if 0 < self.factor <= 1 else f"factor is {self.factor:g}, but must be above 0 and at most 1"


@dataclass(frozen=True, slots=True)
class Warmup:
    rounds: int = 5

    def objection(self) -> str | None:
        return None if 1 <= self.rounds <= MAX_EVERY else f"rounds is {self.rounds:.0g}, but must be 1 to {MAX_EVERY}"


@dataclass(frozen=True, slots=True)
class Rates:
    """A warm-up of so many rounds (0: none), and a course behind it."""

    course: Course
    warmup: int = 0

    def factor(self, round_: int, rounds: int) -> float:
        """Above 0 and at most 1, for rounds counted from 1 to `rounds`."""
        done = max(0, round_ - 1)
        if done < self.warmup:
            return (done + 1) / (self.warmup + 1)
        return max(LEAST_FACTOR, self.course.at(done - self.warmup, rounds - self.warmup))


def parse_rates(text: str) -> Rates:
    """The schedule that a manifest names. Raises UsageError."""
    if len(text.encode()) > MAX_SCHEDULE_BYTES:
        raise UsageError(f"the schedule takes more than {MAX_SCHEDULE_BYTES} bytes", hint="write shorter numbers")
    first, plus, rest = text.partition("+")
    name, _, options = first.partition(":")
    if name != "warmup":
        return Rates(_course(text))
    warmup = parse_options(Warmup, options, "warmup").rounds
    return Rates(_course(rest) if plus else Constant(), warmup)


def _course(text: str) -> Course:
    name, colon, options = text.partition(":")
    if name == "constant" and not colon:
        return Constant()
    if name == "cosine":
        return parse_options(Cosine, options, name)
    if name == "step":
        return parse_options(Step, options, name)
    raise UsageError(f"no learning-rate schedule is called {text!r:.60}", hint=HINT)


def learning_rate(schedule: str, lr: float, round_: int, rounds: int) -> float:
    """The devices' learning rate in a round. Raises UsageError."""
    return lr * parse_rates(schedule).factor(round_, rounds)
