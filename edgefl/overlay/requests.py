"""Open questions and their deadlines: one place that waits, instead of a timer per question.

Theory of operation: every question is opened under a name, to one peer, with a deadline; it ends exactly once, answered
by that peer or timed out. One timer of the device stands at (or before) the earliest deadline.

A device that is itself slow doubts itself first (local health, after memberlist's awareness): the timer knows how late
it fired. When it was late, answers may be waiting in our own queue, so nothing expires at that moment; it gets one more
chance, as long as the delay was. Other time-outs stretch by the recent lateness too (`stretch_s`).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable
from typing import Any

from edgefl.declared import dataclass
from edgefl.overlay.device import Device

MAX_OPEN = 2048
"""Questions open at once: 128 pings of a join, 64 forwarded requests for each of 30 busy neighbours."""

LATE_S = 0.25
"""A timer this late means that this device is busy; the event loop's own budget is 20 ms."""

REPRIEVE_S = 2.0
"""The longest extra time that lateness buys: more would hide dead peers after a long sleep."""

TIMER = ("requests",)


@dataclass(slots=True)
class Question:
    """An open question; `then` is whatever the asker wants to have at hand when the answer comes."""

    peer: int
    opened_at: float
    serial: int
    on_timeout: Callable[[float], None]
    then: Any


class Requests:
    """The open questions of one device."""

    __slots__ = (
        "_armed_at",
        "_deadlines",
        "_device",
        "_late_at",
        "_lateness_s",
        "_number",
        "_open",
        "_reprieved",
        "_serial",
    )

    def __init__(self, device: Device) -> None:
        self._device = device
        self._open: dict[Hashable, Question] = {}
        self._deadlines: list[tuple[float, int, Hashable]] = []
        self._armed_at: float | None = None
        self._serial = 0
        # Not from 0: others remember our requests of before a restart, and would take new ones for repetitions.
        self._number = device.random.getrandbits(32)
        self._reprieved = False
        self._lateness_s = 0.0
        self._late_at = 0.0

    def __len__(self) -> int:
        return len(self._open)

    def number(self) -> int:
        """A fresh request number, unique within this start of the device for 2^32 requests."""
        self._number = (self._number + 1) & 0xFFFFFFFF
        return self._number

    def stretch_s(self, now: float) -> float:
        """How much longer than usual to wait for others, because this device has been slow itself lately."""
        if self._lateness_s == 0.0:
            return 0.0
        return max(0.0, self._lateness_s - (now - self._late_at) / 10)

    def open(
        self,
        name: Hashable,
        peer: int,
        now: float,
        timeout_s: float,
        on_timeout: Callable[[float], None],
        then: Any = None,
    ) -> bool:
        """Wait for `peer` to answer. False (and nothing is waited for) when too many questions are open."""
        if len(self._open) >= MAX_OPEN and name not in self._open:
            self._device.counters["requests_refused"] += 1
            return False
        deadline = now + timeout_s
        if self._lateness_s:
            deadline += self.stretch_s(now)
        self._serial += 1
        self._open[name] = Question(peer, now, self._serial, on_timeout, then)
        heapq.heappush(self._deadlines, (deadline, self._serial, name))
        if len(self._deadlines) > 2 * MAX_OPEN:
            self._forget_answered()
        if self._armed_at is None or deadline < self._armed_at:
            self._arm(deadline)
        return True

    def is_full(self) -> bool:
        """No further question can be asked now."""
        return len(self._open) >= MAX_OPEN

    def close(self, name: Hashable, peer: int) -> float | None:
        """The peer answers: when the question was asked, or None when it was not asked, or not of this peer."""
        question = self.take(name, peer)
        return None if question is None else question.opened_at

    def take(self, name: Hashable, peer: int) -> Question | None:
        """The peer answers: the question, which is over, or None when it was not asked, or not of this peer."""
        question = self._open.get(name)
        if question is None or question.peer != peer:
            return None
        del self._open[name]
        return question

    def cancel(self, name: Hashable) -> None:
        """The answer no longer matters."""
        self._open.pop(name, None)

    def clear(self) -> None:
        self._open.clear()
        self._deadlines.clear()

    def on_timer(self, now: float) -> None:
        late_s = 0.0 if self._armed_at is None else now - self._armed_at
        self._armed_at = None
        if late_s > LATE_S:
            self._lateness_s, self._late_at = min(late_s, REPRIEVE_S), now
            if not self._reprieved:
                self._reprieved = True
                self._arm(now + self._lateness_s)
                return
        self._reprieved = False
        while self._deadlines and self._deadlines[0][0] <= now:
            _, serial, name = heapq.heappop(self._deadlines)
            question = self._open.get(name)
            if question is not None and question.serial == serial:
                del self._open[name]
                question.on_timeout(now)
        while self._deadlines and not self._waits(self._deadlines[0]):
            heapq.heappop(self._deadlines)
        if self._deadlines:
            self._arm(self._deadlines[0][0])
        elif not self._open:
            self._open = {}  # one that has been large, as while joining, never gets small again

    def _waits(self, entry: tuple[float, int, Hashable]) -> bool:
        question = self._open.get(entry[2])
        return question is not None and question.serial == entry[1]

    def _forget_answered(self) -> None:
        self._deadlines = [entry for entry in self._deadlines if self._waits(entry)]
        heapq.heapify(self._deadlines)

    def _arm(self, at: float) -> None:
        self._armed_at = at
        self._device.set_timer(TIMER, at)
