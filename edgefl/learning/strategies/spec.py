"""The names of strategies and their options, as they stand in a manifest and behind `--strategy`."""

from __future__ import annotations

import math

from edgefl.declared import dataclass
from edgefl.errors import UsageError
from edgefl.learning.options import given_options, options_hint

MAX_STRATEGY_BYTES = 128
"""Four options with a dozen digits each, and their names."""


@dataclass(frozen=True, slots=True)
class Option:
    """A number with its default; `low` itself is allowed if `closed`, `high` always is."""

    default: float
    low: float
    high: float
    closed: bool = False

    def fits(self, value: float) -> bool:
        return math.isfinite(value) and value <= self.high and (value > self.low or (self.closed and value == self.low))

    @property
    def rule(self) -> str:
        return f"{self.low:g} to {self.high:g}" if self.closed else f"above {self.low:g} and at most {self.high:g}"


MAX_DECAY = 0.9999
"""Of a moving average: ten thousand rounds of memory. At 1 it would never move."""

RATE = Option(1.0, 0, 10)
ADAPTIVE_RATE = Option(0.03, 0, 10)
BETA1 = Option(0.9, 0, MAX_DECAY, closed=True)
BETA2 = Option(0.99, 0, MAX_DECAY, closed=True)
TAU = Option(1e-3, 1e-8, 1, closed=True)
"""Below 1e-8, tau squared vanishes beside any delta in float32."""

TRIM = Option(0.1, 0, 0.49)

STRATEGY_OPTIONS: dict[str, dict[str, Option]] = {
    "fedavg": {"lr": RATE},
    "fedprox": {"mu": Option(0.01, 0, 100), "lr": RATE},
    "fedavgm": {"lr": RATE, "momentum": BETA1},
    "fedadagrad": {"lr": ADAPTIVE_RATE, "beta1": Option(0.0, 0, MAX_DECAY, closed=True), "tau": TAU},
    "fedadam": {"lr": ADAPTIVE_RATE, "beta1": BETA1, "beta2": BETA2, "tau": TAU},
    "fedyogi": {"lr": ADAPTIVE_RATE, "beta1": BETA1, "beta2": BETA2, "tau": TAU},
    "scaffold": {"lr": RATE},
    "fednova": {"lr": RATE},
    "qfedavg": {"q": Option(1.0, 0, 5, closed=True), "lr": RATE},
    "trimmed": {"share": TRIM, "lr": RATE},
    "trimmed-zones": {"share": TRIM, "lr": RATE},
}


@dataclass(frozen=True, slots=True)
class StrategySpec:
    """A strategy's name with the value of each of its options, defaults filled in."""

    name: str
    options: dict[str, float]

    @property
    def proximal(self) -> float:
        """The weight of FedProx's proximal term in local training; 0 for the other strategies."""
        return self.options.get("mu", 0.0)

    @property
    def width(self) -> int:
        """How many vectors of the model's length travel, down and up, as one: SCAFFOLD's control variate is a second
        one behind the weights."""
        return 2 if self.name == "scaffold" else 1

    @property
    def trim(self) -> float:
        """The share that the root cuts off at either end (edgefl/learning/groups.py); 0 for the other strategies."""
        return self.options["share"] if self.name in ("trimmed", "trimmed-zones") else 0.0

    @property
    def by_zone(self) -> bool:
        """Whether it is cut off from zones, not from the root's children."""
        return self.name == "trimmed-zones"

    @property
    def controls(self) -> bool:
        """Whether every device keeps a vector of the model's length of its own (SCAFFOLD's c_i), which must belong to
        what it has sent."""
        return self.name == "scaffold"

    @property
    def discountable(self) -> bool:
        """Whether a delta may count for less than its samples because it is old: the step at the root knows of deltas
        and weights alone, not of what goes with each."""
        return self.name not in ("scaffold", "fednova", "qfedavg")


def parse_strategy(text: str) -> StrategySpec:
    """Take NAME[:key=value,…] apart. Raises UsageError for a name, a key or a value that no strategy has."""
    name, colon, rest = text.partition(":")
    known = STRATEGY_OPTIONS.get(name)
    if known is None:
        raise UsageError(f"no strategy is called {name!r}", hint=f"use one of {', '.join(STRATEGY_OPTIONS)}")
    if len(text.encode()) > MAX_STRATEGY_BYTES:
        raise UsageError(f"the strategy takes more than {MAX_STRATEGY_BYTES} bytes", hint="write shorter numbers")
    defaults = {key: option.default for key, option in known.items()}
    given: dict[str, float] = given_options(defaults, rest, name) if colon else {}
    for key, value in given.items():
        if not known[key].fits(value):
            cause = f"{key} of {name} is {value:g}, but must be {known[key].rule}"
            raise UsageError(cause, hint=options_hint(known, name))
    return StrategySpec(name, defaults | given)
