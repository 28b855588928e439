"""Finding devices that answer: pings in the order of the round, hedged, silent ones replaced by the next.

MoDeST pings s devices and replaces each silent one after a time-out of 5 s: with 80 % of the listed devices gone that
takes 15 time-outs in a row. Here a sampling starts with as many pings as it expects to need, given the share of silent
devices that its device has seen, and asks more widely as soon as it meets more of them: who lets the first time-out
pass is asked once more, but no longer counted on. The time-out follows the round trips that were measured (Jacobson's
estimator). The first `want` *in the order of the round* among those that answered are taken, so that two devices that
sample the same round agree.
"""

from __future__ import annotations

import math
from dataclasses import field

from edgefl.declared import dataclass
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

TELLING = 4
"""Devices of one sampling that have answered or let a time-out pass, before their share says anything."""


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

    def answered_late(self, since_first_s: float, since_second_s: float) -> None:
        """Somebody has answered one of two pings. Karn: it tells nothing when it may have been either; but an answer
        that is far too quick for the second one, or the first of all, shows that the time-out is too short."""
        if self._srtt is None or since_second_s < self._srtt / 2:
            self.answered(since_first_s)
        else:
            self.silent *= 1 - GAIN

    def unanswered(self) -> None:
        self.silent += GAIN * (1 - self.silent)

    def width(self, want: int, silent: float = 0.0) -> int:
        """How many to ask at once for `want` answers. `silent`: the share seen in this sampling, if it is larger."""
        return min(MAX_AT_ONCE, max(want, math.ceil(HEDGE * want / max(0.05, 1 - max(self.silent, silent)))))


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
    _asked: dict[int, tuple[float, ...]] = field(default_factory=dict)
    _answered: set[int] = field(default_factory=set)
    _silent: int = 0

    def step(self, now: float) -> list[Entry]:
        """Whom to ping now."""
        pings: list[Entry] = []
        by_id = {entry.contact.node_id: entry for entry in self.ordered[: self._next]}
        for node_id, sent in list(self._asked.items()):
            if now < self._ends(sent):
                continue
            if len(sent) == 1:
                self._silent += 1
                self.pace.unanswered()
                self._asked[node_id] = (*sent, now)
                pings.append(by_id[node_id])
            else:
                del self._asked[node_id]
        missing = self.want - len(self._answered)
        hopeful = sum(len(sent) == 1 for sent in self._asked.values())
        while self._next < len(self.ordered) and len(self._asked) < MAX_AT_ONCE:
            if missing <= 0 or hopeful >= self.pace.width(missing, self._silent_share()):
                break
            entry = self.ordered[self._next]
            self._next += 1
            if entry.contact.node_id == self.me:
                self._answered.add(self.me)
                missing -= 1
                continue
            self._asked[entry.contact.node_id] = (now,)
            hopeful += 1
            pings.append(entry)
        self._settle(now)
        return [] if self.result is not None else pings

    def on_answer(self, node_id: int, now: float) -> bool:
        """True when this sampling had asked the device."""
        asked = self._asked.pop(node_id, None)
        if asked is None:
            return False
        if len(asked) == 1:
            self.pace.answered(now - asked[0])
        else:
            self._silent -= 1
            self.pace.answered_late(now - asked[0], now - asked[1])
        self._answered.add(node_id)
        self._settle(now)
        return True

    def _silent_share(self) -> float:
        """Of those that this sampling has waited for; 0 while they are too few to tell."""
        heard = len(self._answered - {self.me})
        return self._silent / (self._silent + heard) if self._silent + heard >= TELLING else 0.0

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
            elif len(self._answered) >= self.want and len(self._asked.get(node_id, ())) == 1:
                break
        if not self._asked and self._next >= len(self.ordered):
            self.result, self.deadline = chosen, math.inf
            return
        self.deadline = min((self._ends(sent) for sent in self._asked.values()), default=now)

    def _ends(self, sent: tuple[float, ...]) -> float:
        """Until when an answer to the last of these pings is waited for; to the second one twice as long."""
        return sent[-1] + len(sent) * self.pace.timeout_s
