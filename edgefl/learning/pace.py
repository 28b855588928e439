"""How rounds follow each other, as it stands in a manifest and behind `--pace`:

    sync       a round waits for every device, at most until the deadline
    quantile   a round waits as long as a quantile of the devices takes; who is slower misses it
    buffered   the same, but who is slower goes on training, and what comes of it enters the round that is open then,
               with a weight that falls with its age

Sources: asynchronous aggregation in a buffer with weights by staleness is FedBuff (Nguyen et al., Federated Learning
with Buffered Asynchronous Aggregation, AISTATS 2022) and Papaya (Huba et al., MLSys 2022). There a server's buffer has
a fixed size; here a round of the tree is the buffer.
"""

from __future__ import annotations

from typing import ClassVar

from edgefl.declared import dataclass
from edgefl.errors import UsageError
from edgefl.learning.options import parse_options

MAX_SLACK = 10.0
MAX_FLOOR_S = 3600.0
MAX_EXPONENT = 4.0
MAX_STALENESS = 1000


@dataclass(frozen=True, slots=True)
class Sync:
    """Wait for everybody."""

    measured: ClassVar[bool] = False
    """Whether a round's time comes from how long devices take."""
    buffered: ClassVar[bool] = False
    """Whether training outlives the round that it began in."""
    max_staleness: ClassVar[int] = 0

    def discount(self, staleness: int) -> float:
        """What a delta counts for when the model it was trained from is `staleness` rounds old."""
        return 1.0


@dataclass(frozen=True, slots=True)
class Quantile:
    """`q`: the share of the devices that a round waits for; `slack`: times what they took so far; `floor`: seconds that
    a device has at least, since below a lost message would cost it its part."""

    q: float = 0.9
    slack: float = 1.5
    floor: float = 5.0

    measured: ClassVar[bool] = True
    buffered: ClassVar[bool] = False
    max_staleness: ClassVar[int] = 0

    @property
    def share(self) -> float:
        return self.q

    def discount(self, staleness: int) -> float:
        return 1.0

    def objection(self) -> str | None:
        """Why no device could run this, or None."""
        return _objection("q", self.q, self.slack, self.floor)


@dataclass(frozen=True, slots=True)
class Buffered:
    """`goal`, `slack` and `floor` as in Quantile; a delta that is s rounds old counts for (1 + s) to the minus
    `exponent`, and for nothing when it is older than `max_staleness`."""

    goal: float = 0.8
    slack: float = 1.5
    floor: float = 5.0
    exponent: float = 0.5
    max_staleness: int = 20

    measured: ClassVar[bool] = True
    buffered: ClassVar[bool] = True

    @property
    def share(self) -> float:
        return self.goal

    def discount(self, staleness: int) -> float:
        return float((1 + staleness) ** -self.exponent)

    def objection(self) -> str | None:
        """Why no device could run this, or None."""
        if not 0 <= self.exponent <= MAX_EXPONENT:
            return f"exponent is {self.exponent:g}, but must be 0 to {MAX_EXPONENT:g}"
        if not 0 <= self.max_staleness <= MAX_STALENESS:
            return f"max_staleness is {self.max_staleness}, but must be 0 to {MAX_STALENESS}"
        return _objection("goal", self.goal, self.slack, self.floor)


Pace = Sync | Quantile | Buffered
PACES = ("sync", "quantile", "buffered")


def _objection(name: str, share: float, slack: float, floor: float) -> str | None:
    if not 0 < share <= 1:
        return f"{name} is {share:g}, but must be a fraction above 0 and at most 1"
    if not 1 <= slack <= MAX_SLACK:
        return f"slack is {slack:g}, but must be 1 to {MAX_SLACK:g}"
    if not 0 < floor <= MAX_FLOOR_S:
        return f"floor is {floor:g}, but must be above 0 and at most {MAX_FLOOR_S:g} seconds"
    return None


def parse_pace(text: str) -> Pace:
    """Take NAME[:key=value,…] apart. Raises UsageError for a name, a key or a value that no pace has."""
    name, _, options = text.partition(":")
    if name == "quantile":
        return parse_options(Quantile, options, name)
    if name == "buffered":
        return parse_options(Buffered, options, name)
    if text != "sync":
        raise UsageError(f"no pace is called {text!r}", hint=f"use one of {', '.join(PACES)}; sync has no options")
    return Sync()
