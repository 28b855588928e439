"""Learning-rate schedules: what the learning rate is multiplied by, a pure function of the step (or the round).

    constant                  1
    step:30                   a tenth of it after every 30 steps
    step:30:0.5               half of it after every 30 steps
    cosine:100                down to 0 along half a cosine within 100 steps, and 0 from then on
    cosine:100:0.05           down to 0.05
    warmup:5+cosine:100       first 5 steps up to it, 1/6, 2/6, … 5/6; the cosine's 100 steps come after them
    warmup:5                  and then constant

As a grammar:

    schedule = [ "warmup:" steps "+" ] course | "warmup:" steps
    course   = "constant" | "step:" steps [ ":" factor ] | "cosine:" steps [ ":" floor ]

steps is a whole number from 1, factor and floor are numbers from 0 to 1. Warming up starts above 0, since a step at
learning rate 0 teaches nothing. str() of a schedule can be read again.

Source of the cosine: I. Loshchilov and F. Hutter, SGDR, 2017, equation 5 without restarts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NoReturn

from edgefl.errors import ConfigError

MAX_STEPS = 10**9
"""More than any training takes; a number of more digits is a mistake."""

HINT = "constant, step:EVERY[:FACTOR], cosine:STEPS[:FLOOR], warmup:STEPS, or warmup:STEPS+ before one of the others"


@dataclass(frozen=True, slots=True)
class Constant:
    def factor(self, step: int) -> float:
        return 1.0

    def __str__(self) -> str:
        return "constant"


@dataclass(frozen=True, slots=True)
class Step:
    """shareᵏ after k · every steps."""

    every: int
    share: float = 0.1

    def __post_init__(self) -> None:
        _require_steps(self.every)
        _require_share(self.share)

    def factor(self, step: int) -> float:
        return float(self.share ** (step // self.every))

    def __str__(self) -> str:
        return f"step:{self.every}:{self.share!r}"


@dataclass(frozen=True, slots=True)
class Cosine:
    """floor + (1 − floor) (1 + cos πs) / 2, s being the part of `steps` that is over."""

    steps: int
    floor: float = 0.0

    def __post_init__(self) -> None:
        _require_steps(self.steps)
        _require_share(self.floor)

    def factor(self, step: int) -> float:
        part = min(step, self.steps) / self.steps
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * part)) / 2

    def __str__(self) -> str:
        return f"cosine:{self.steps}:{self.floor!r}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """A linear warm-up of `warmup` steps, and a course behind it that begins when it is over. Raises ConfigError."""

    course: Constant | Step | Cosine = field(default_factory=Constant)
    warmup: int = 0

    def __post_init__(self) -> None:
        if self.warmup:
            _require_steps(self.warmup)

    def factor(self, step: int) -> float:
        """0..1, for steps counted from 0."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        return self.course.factor(step - self.warmup)

    def __str__(self) -> str:
        return f"warmup:{self.warmup}+{self.course}" if self.warmup else str(self.course)


def parse_schedule(text: str) -> Schedule:
    """The schedule that a user named. Raises ConfigError."""
    first, *rest = text.split("+")
    name, *numbers = first.split(":")
    if name != "warmup":
        return Schedule(_course(first)) if not rest else _refuse(text)
    if len(numbers) != 1 or len(rest) > 1:
        return _refuse(text)
    return Schedule(_course(rest[0]) if rest else Constant(), _whole(numbers[0]))


def _course(text: str) -> Constant | Step | Cosine:
    name, *numbers = text.split(":")
    if name == "constant" and not numbers:
        return Constant()
    if name in ("step", "cosine") and 1 <= len(numbers) <= 2:
        shares = [_number(number) for number in numbers[1:]]
        return (Step if name == "step" else Cosine)(_whole(numbers[0]), *shares)
    return _refuse(text)


def _whole(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(MAX_STEPS)) else _refuse(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return _refuse(text)


def _require_steps(steps: int) -> None:
    if not 1 <= steps <= MAX_STEPS:
        raise ConfigError(f"a learning-rate schedule over {steps} steps", hint=f"at least 1, at most {MAX_STEPS}")


def _require_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise ConfigError(f"a learning rate times {share} in a schedule", hint="factor and floor are from 0 to 1")


def _refuse(text: str) -> NoReturn:
    raise ConfigError(f"no learning-rate schedule: {text!r:.80}", hint=HINT)
