"""What an application may choose for the topology `consensus`, by name: `steps=2,mixing=metropolis`."""

from __future__ import annotations

from edgefl.declared import dataclass
from edgefl.learning.consensus.mixing import PUSH_SUM, RULES

MAX_STEPS = 64
"""Consensus steps of one round. A step costs a model to every neighbour; a long ring wants many."""

MAX_SYNC_SLOTS = 256
"""Exchanges of 30 bytes: the diameter of the largest ring that agrees on one start."""

MAX_SLOT_S = 24 * 3600.0
MAX_DEGREE = 16

MAX_SETTLE = 100_000
"""Rounds: a ring of n devices wants about n squared over ten averages until it agrees."""

MAX_MOMENTUM = 0.99

STARTS = ("shared", "own")


@dataclass(frozen=True, slots=True)
class ConsensusOptions:
    """`steps`: consensus steps of a round (S); `mixing`: one of mixing.RULES; `sync_slots`: exchanges at the start, 0
    for none; `slot_s`: longest wait for neighbours; `sync_slot_s`: seconds between two exchanges at the start;
    `pace_s`: shortest length of a round (gossip); `merge`: after the last round all models are averaged once;
    `degree`: neighbours that a device looks for in the overlay; `start`: `shared`, the artifacts' weights, or `own`,
    drawn by each device, of which the one with the largest norm wins; `settle`: so many of the rounds, the last ones,
    only average; `momentum`: see momentum.py."""

    steps: int = 1
    mixing: str = "samples"
    sync_slots: int = 3
    slot_s: float = 60.0
    sync_slot_s: float = 2.0
    pace_s: float = 0.0
    merge: bool = False
    degree: int = 4
    start: str = "shared"
    settle: int = 0
    momentum: float = 0.0

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
        if not 0 <= self.settle <= MAX_SETTLE:
            return f"settle is {self.settle}, but must be 0 to {MAX_SETTLE}"
        if not 0 <= self.momentum <= MAX_MOMENTUM:
            return f"momentum is {self.momentum:g}, but must be 0 to {MAX_MOMENTUM:g}"
        if self.momentum and self.mixing == PUSH_SUM:
            return "momentum does not go with mixing=push-sum, whose mean it would shift"
        if self.start not in STARTS:
            return f"start is {self.start!r}, but must be one of {', '.join(STARTS)}"
        return None
