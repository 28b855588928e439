"""What an application may choose for the topology `consensus`, by name: `steps=2,mixing=metropolis`."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from edgefl.errors import UsageError
from edgefl.learning.consensus.mixing import RULES

MAX_STEPS = 64
"""Consensus steps of one round. A step costs a model to every neighbour; a long ring wants many."""

MAX_SYNC_SLOTS = 256
"""Exchanges of 30 bytes: the diameter of the largest ring that agrees on one start."""

MAX_SLOT_S = 24 * 3600.0
MAX_DEGREE = 16
MAX_OPTIONS_BYTES = 192

STARTS = ("shared", "own")


@dataclass(frozen=True, slots=True)
class ConsensusOptions:
    """`steps`: consensus steps of a round (S); `mixing`: one of mixing.RULES; `sync_slots`: exchanges at the start, 0
    for none; `slot_s`: longest wait for neighbours; `sync_slot_s`: seconds between two exchanges at the start;
    `pace_s`: shortest length of a round (gossip); `merge`: after the last round all models are averaged once;
    `degree`: neighbours that a device looks for in the overlay; `start`: `shared`, the artifacts' weights, or `own`,
    drawn by each device, of which the one with the largest norm wins."""

    steps: int = 1
    mixing: str = "samples"
    sync_slots: int = 3
    slot_s: float = 60.0
    sync_slot_s: float = 2.0
    pace_s: float = 0.0
    merge: bool = False
    degree: int = 4
    start: str = "shared"

    def objection(self) -> str | None:
        """Why no device could run this, or None."""
        if not 1 <= self.steps <= MAX_STEPS:
            return f"steps is {self.steps}, but must be 1 to {MAX_STEPS}"
        if self.mixing not in RULES:
            return f"mixing is {self.mixing!r}, but must be one of {', '.join(RULES)}"
        if not 0 <= self.sync_slots <= MAX_SYNC_SLOTS:
            return f"sync_slots is {self.sync_slots}, but must be 0 to {MAX_SYNC_SLOTS}"
        for name in ("slot_s", "sync_slot_s"):
            if not 0 < getattr(self, name) <= MAX_SLOT_S:
                return f"{name} is {getattr(self, name):g}, but must be above 0 and at most {MAX_SLOT_S:g} seconds"
        if not 0 <= self.pace_s <= MAX_SLOT_S:
            return f"pace_s is {self.pace_s:g}, but must be 0 to {MAX_SLOT_S:g} seconds"
        if not 2 <= self.degree <= MAX_DEGREE:
            return f"degree is {self.degree}, but must be 2 to {MAX_DEGREE}"
        if self.start not in STARTS:
            return f"start is {self.start!r}, but must be one of {', '.join(STARTS)}"
        return None

    @classmethod
    def parse(cls, text: str) -> ConsensusOptions:
        """Options as they stand behind `consensus:`. Raises UsageError for a key or a value that is none."""
        known = {field.name: field for field in dataclasses.fields(cls)}
        hint = f"the options of consensus are {', '.join(known)}, written as consensus:steps=2,mixing=metropolis"
        if len(text.encode()) > MAX_OPTIONS_BYTES:
            raise UsageError(f"the options take more than {MAX_OPTIONS_BYTES} bytes", hint="write shorter numbers")
        given: dict[str, object] = {}
        for part in text.split(",") if text else ():
            key, _, value = part.partition("=")
            if key not in known:
                raise UsageError(f"consensus has no option {key!r}", hint=hint)
            if key in given:
                raise UsageError(f"consensus has {key} twice", hint="give each option once")
            given[key] = _read(key, value, known[key].default, hint)
        options = cls(**given)  # type: ignore[arg-type]
        objection = options.objection()
        if objection is not None:
            raise UsageError(objection, hint=hint)
        return options


def _read(key: str, value: str, default: object, hint: str) -> object:
    """A value of the default's type."""
    if isinstance(default, str):
        return value
    try:
        if isinstance(default, bool):
            return {"0": False, "1": True}[value]
        if isinstance(default, int):
            return int(value)
        number = float(value)
    except (ValueError, KeyError):
        kind = "0 or 1" if isinstance(default, bool) else "a number"
        raise UsageError(f"{key} of consensus is {value!r}, but must be {kind}", hint=hint) from None
    if not math.isfinite(number):
        raise UsageError(f"{key} of consensus is {value!r}, but must be finite", hint=hint)
    return number
