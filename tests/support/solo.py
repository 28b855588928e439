"""One device alone with the test: every peer is played by hand, every message sent can be looked at."""

from __future__ import annotations

import heapq
from random import Random
from typing import TYPE_CHECKING, TypeVar

from edgefl.wire import Contact, Message

if TYPE_CHECKING:
    from edgefl.effects import TimerKey
    from edgefl.sim.network import Handler

M = TypeVar("M", bound=Message)


class Solo:
    """Implements `Effects` for one device; time passes when the test says so."""

    def __init__(self, seed: int = 1) -> None:
        self.now = 0.0
        self.sent: list[tuple[Contact, Message]] = []
        self.handlers: list[Handler] = []
        self.late_s = 0.0
        """How late timers fire: this device is busy."""
        self._random = Random(seed)
        self._timers: dict[TimerKey, float] = {}

    @property
    def random(self) -> Random:
        return self._random

    def send(self, to: Contact, message: Message) -> None:
        self.sent.append((to, message))

    def set_timer(self, key: TimerKey, at: float) -> None:
        self._timers[key] = at

    def cancel_timer(self, key: TimerKey) -> None:
        self._timers.pop(key, None)

    def timers(self) -> dict[TimerKey, float]:
        return dict(self._timers)

    def receive(self, sender: Contact, message: Message) -> bool:
        """Hand a peer's message to the device. False if nobody wants it."""
        return any(handler.on_message(sender, message, self.now) for handler in self.handlers)

    def advance(self, seconds: float) -> None:
        """Let time pass, firing timers in order."""
        until = self.now + seconds
        while True:
            due = [(at, index, key) for index, (key, at) in enumerate(self._timers.items()) if at <= until]
            heapq.heapify(due)
            if not due:
                break
            at, _, key = due[0]
            del self._timers[key]
            self.now = max(self.now, at) + self.late_s
            for handler in self.handlers:
                handler.on_timer(key, self.now)
        self.now = max(self.now, until)

    def take(self, kind: type[M]) -> list[tuple[Contact, M]]:
        """Remove and return what was sent of this type."""
        found = [(to, message) for to, message in self.sent if isinstance(message, kind)]
        self.sent = [(to, message) for to, message in self.sent if not isinstance(message, kind)]
        return found
