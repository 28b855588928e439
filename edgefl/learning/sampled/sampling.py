"""Finding devices that answer: pings in the order of the round, hedged, silent ones replaced by the next.

MoDeST pings s devices and replaces each silent one after a time-out of 5 s: with 80 % of the listed devices gone that
takes 15 time-outs in a row. Here a sampling starts with as many pings as it expects to need, given the share of silent
devices that it has seen, and its time-out follows the round trips that it has measured (Jacobson's estimator). The
first `want` *in the order of the round* among those that answered are taken, so that two devices that sample the same
round agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from edgefl.wire.sampled import Entry

HEDGE = 1.25
"""Pings at once, for each that is expected to be needed."""

MAX_AT_ONCE = 128
"""Pings under way in one sampling: 0.1 kB each."""

MIN_TIMEOUT_S, MAX_TIMEOUT_S = 0.3, 5.0
FIRST_TIMEOUT_S = 1.0
"""Before any round trip has been measured (RFC 6298)."""

GAIN = 0.1
"""Of the moving share of silent devices."""


class Pace:
    """What a device has learned about pings: how long answers take, how many never come."""

    def __init__(self) -> None:
        self._srtt: float | None = None
        self._var = 0.0
        self.silent = 0.0

    @property
    def timeout_s(self) -> float:
        if self._srtt is None:
            return FIRST_TIMEOUT_S
        return min(MAX_TIMEOUT_S, max(MIN_TIMEOUT_S, 4 * self._srtt, self._srtt + 4 * self._var))

    def answered(self, rtt_s: float) -> None:
        self.silent *= 1 - GAIN
        if self._srtt is None:
            self._srtt, self._var = rtt_s, rtt_s / 2
        else:
            self._var += (abs(rtt_s - self._srtt) - self._var) / 4
            self._srtt += (rtt_s - self._srtt) / 8

    def unanswered(self) -> None:
        self.silent += GAIN * (1 - self.silent)

    def width(self, want: int) -> int:
        """How many to ask at once for `want` answers."""
        return min(MAX_AT_ONCE, max(want, math.ceil(HEDGE * want / max(0.05, 1 - self.silent))))


@dataclass(slots=True)
class Sampling:
    """One search for `want` live devices. The owner sends the pings that `step` asks for and calls it again at
    `deadline`; it is over when `result` is not None (fewer than `want` when the list is exhausted)."""

    ordered: list[Entry]
    want: int
    pace: Pace
    me: int
    result: list[Entry] | None = None
    deadline: float = math.inf
    _next: int = 0
    _asked: dict[int, tuple[float, int]] = field(default_factory=dict)
    _answered: set[int] = field(default_factory=set)

    def step(self, now: float) -> list[Entry]:
        """Whom to ping now."""
        pings: list[Entry] = []
        by_id = {entry.contact.node_id: entry for entry in self.ordered[: self._next]}
        for node_id, (sent, tries) in list(self._asked.items()):
            if now < sent + self.pace.timeout_s:
                continue
            if tries == 1:
                self._asked[node_id] = (now, 2)
                pings.append(by_id[node_id])
            else:
                del self._asked[node_id]
                self.pace.unanswered()
        missing = self.want - len(self._answered)
        while self._next < len(self.ordered) and len(self._asked) < (self.pace.width(missing) if missing > 0 else 0):
            entry = self.ordered[self._next]
            self._next += 1
            if entry.contact.node_id == self.me:
                self._answered.add(self.me)
                missing -= 1
                continue
            self._asked[entry.contact.node_id] = (now, 1)
            pings.append(entry)
        self._settle(now)
        return [] if self.result is not None else pings

    def on_answer(self, node_id: int, now: float) -> bool:
        """True when this sampling had asked the device."""
        asked = self._asked.pop(node_id, None)
        if asked is None:
            return False
        sent, tries = asked
        if tries == 1:
            self.pace.answered(now - sent)  # Karn: after a second ping nobody knows which one was answered
        self._answered.add(node_id)
        self._settle(now)
        return True

    def _settle(self, now: float) -> None:
        """Over once enough have answered and nobody before them in the order may still do so in its first time-out."""
        chosen: list[Entry] = []
        for entry in self.ordered[: self._next]:
            node_id = entry.contact.node_id
            if node_id in self._answered:
                chosen.append(entry)
                if len(chosen) == self.want:
                    self.result, self.deadline = chosen, math.inf
                    return
            elif len(self._answered) >= self.want and self._asked.get(node_id, (0.0, 2))[1] == 1:
                break
        if not self._asked and self._next >= len(self.ordered):
            self.result, self.deadline = chosen, math.inf
            return
        self.deadline = min((sent for sent, _ in self._asked.values()), default=now) + self.pace.timeout_s
