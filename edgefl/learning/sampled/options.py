"""What an application may choose for the topology `sampled`, by name."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgefl.declared import dataclass
from edgefl.learning.sampled.sampling import MAX_TIMEOUT_S as MAX_PING_S
from edgefl.median import median

MAX_SAMPLE = 100
"""The sample: one aggregator takes that many models in a row. The papers advise about 10."""

MAX_AGGREGATORS = 5
MAX_WINDOW = 1_000_000

MIN_PATIENCE_S, MAX_TIMEOUT_S = 3.0, 7 * 24 * 3600.0

PATIENCE = 4.0
"""Times what the last rounds took: a wait that is cut short wastes the work of a whole sample."""

REMEMBERED_ROUNDS = 8
"""The last rounds, whose lengths count."""

AGAIN_S = 2.0
"""Too few devices were there for a quorum: look again after about so long."""


@dataclass(frozen=True, slots=True)
class SampledOptions:
    """`sample`: devices that train in a round (s); `aggregators` (a): how many make the next model, the first one
    counts; `success`: share of the sample whose models are waited for (sf); `by_uplink`: the fastest of the sample
    aggregates (Plexus), else the first (MoDeST); `window`: rounds of silence after which a device is not sampled;
    `timeout_s`: how long an aggregator waits for models. Defaults: Plexus."""

    sample: int = 13
    aggregators: int = 1
    success: float = 0.8
    by_uplink: bool = True
    window: int = 1000
    timeout_s: float = 300.0

    def objection(self) -> str | None:
        """Why no device could run this, or None."""
        if not 1 <= self.sample <= MAX_SAMPLE:
            return f"sample is {self.sample}, but must be 1 to {MAX_SAMPLE}"
        if not 1 <= self.aggregators <= min(self.sample, MAX_AGGREGATORS):
            return f"aggregators is {self.aggregators}, but must be 1 to {MAX_AGGREGATORS} and at most the sample"
        if not 0 < self.success <= 1:
            return f"success is {self.success}, but must be a fraction above 0 and at most 1"
        if self.sample * self.success < 1:
            return f"success {self.success} of a sample of {self.sample} is not even one model"
        if not 1 <= self.window <= MAX_WINDOW:
            return f"window is {self.window}, but must be 1 to {MAX_WINDOW} rounds"
        if not MIN_PATIENCE_S <= self.timeout_s <= MAX_TIMEOUT_S:
            return f"timeout_s is {self.timeout_s:g}, but must be {MIN_PATIENCE_S:g} to {MAX_TIMEOUT_S:g} seconds"
        return None

    def threshold(self, sampled: int) -> int:
        """Models that end a session early, when `sampled` devices got the task (0: not said)."""
        size = min(self.sample, sampled) if sampled else self.sample
        return max(1, math.floor(size * self.success + 1e-9))

    def quorum(self, share: float, participants: Sequence[int], members: int) -> int:
        """Devices without which nobody goes on: this share of a usual sample, as the last rounds (of so many models)
        or the devices that may be sampled now let expect it. A device that has just started knows of few others."""
        usual = max(median(participants) if participants else 0, members)
        return max(1, math.ceil(share * min(self.sample, usual) - 1e-9))

    def patience_s(self, seconds: Sequence[float]) -> float:
        """How long an aggregator waits for models: some times what the last rounds took (their median: one that was
        held up by a failure must not make the next failures last longer), at most `timeout_s`."""
        if not seconds:
            return self.timeout_s
        return min(self.timeout_s, max(MIN_PATIENCE_S, PATIENCE * median(seconds)))


def ack_s(patience_s: float, ping_s: float = MAX_PING_S) -> float:
    """How long a trainer waits for its aggregator before it looks for another one. `ping_s`: the time-out of a ping."""
    return patience_s + 2 * ping_s


def watch_s(patience_s: float, ping_s: float = MAX_PING_S) -> float:
    """No progress for that long, drawn out by up to 2: a standstill."""
    return 2 * ack_s(patience_s, ping_s)
