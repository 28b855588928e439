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

from dataclasses import dataclass

from edgefl.errors import UsageError
from edgefl.learning.strategies.spec import Option

MAX_PACE_BYTES = 96

SLACK = Option(1.5, 1, 10, closed=True)
"""Times the quantile: devices are not equally quick in every round."""

FLOOR = Option(5.0, 0, 3600)
"""Seconds: below, a lost message would cost a device its part."""

PACES: dict[str, dict[str, Option]] = {
    "sync": {},
    "quantile": {"q": Option(0.9, 0, 1), "slack": SLACK, "floor": FLOOR},
    "buffered": {
        "goal": Option(0.8, 0, 1),
        "slack": SLACK,
        "floor": FLOOR,
        "exponent": Option(0.5, 0, 4, closed=True),
        "max_staleness": Option(20, 0, 1000, closed=True),
    },
}


@dataclass(frozen=True, slots=True)
class Pace:
    """A pace's name with the value of each of its options, defaults filled in."""

    name: str
    options: dict[str, float]

    @property
    def measured(self) -> bool:
        """Whether a round's time comes from how long devices take."""
        return self.name != "sync"

    @property
    def buffered(self) -> bool:
        """Whether training outlives the round that it began in."""
        return self.name == "buffered"

    @property
    def share(self) -> float:
        """The share of the devices whose time a round takes."""
        return self.options["goal" if self.buffered else "q"]

    @property
    def max_staleness(self) -> int:
        """Rounds; 0 where nothing may be stale."""
        return int(self.options.get("max_staleness", 0))

    def discount(self, staleness: int) -> float:
        """What a delta counts for when the model it was trained from is `staleness` rounds old."""
        return float((1 + staleness) ** -self.options.get("exponent", 0.0))


def parse_pace(text: str) -> Pace:
    """Take NAME[:key=value,…] apart. Raises UsageError for a name, a key or a value that no pace has."""
    name, colon, rest = text.partition(":")
    known = PACES.get(name)
    if known is None:
        raise UsageError(f"no pace is called {name!r}", hint=f"use one of {', '.join(PACES)}")
    if len(text.encode()) > MAX_PACE_BYTES:
        raise UsageError(f"the pace takes more than {MAX_PACE_BYTES} bytes", hint="write shorter numbers")
    hint = f"the options of {name} are {', '.join(known) or 'none'}"
    given: dict[str, float] = {}
    for part in rest.split(",") if colon else ():
        key, _, number = part.partition("=")
        option = known.get(key)
        if option is None:
            raise UsageError(f"{name} has no option {key!r}", hint=hint)
        if key in given:
            raise UsageError(f"{name} has {key} twice", hint="give each option once")
        try:
            given[key] = float(number)
        except ValueError:
            raise UsageError(f"{key} of {name} is {number!r}, but must be a number", hint=hint) from None
        if not option.fits(given[key]):
            raise UsageError(f"{key} of {name} is {number}, but must be {option.rule}", hint=hint)
    return Pace(name, {key: given.get(key, option.default) for key, option in known.items()})
