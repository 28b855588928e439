"""This device, as its own components see it: contact, coordinate, the effects it may ask for, what it has counted."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from edgefl.overlay.coordinates import Coordinate
from edgefl.overlay.profile import Profile

if TYPE_CHECKING:
    from random import Random

    from edgefl.effects import Effects, TimerKey
    from edgefl.wire import Contact, Message


class Device:
    """Shared by all components of one overlay. `joined`: others may know us and route through us."""

    __slots__ = ("_due", "contact", "coordinate", "counters", "effects", "joined", "loopback", "node_id", "profile")

    def __init__(self, contact: Contact, effects: Effects, profile: Profile) -> None:
        self.contact = contact
        self.node_id = contact.node_id
        self.effects = effects
        self.profile = profile
        self.coordinate = Coordinate()
        self.joined = False
        self.loopback: list[Message] = []
        self.counters: Counter[str] = Counter()
        self._due: dict[TimerKey, float] = {}

    @property
    def random(self) -> Random:
        return self.effects.random

    def send(self, to: Contact, message: Message) -> None:
        """Send; what is meant for ourselves (the owner of a key is often its own client) is handled after this
        event."""
        if to.node_id == self.node_id:
            self.loopback.append(message)
        else:
            self.effects.send(to, message)

    def set_timer(self, key: TimerKey, at: float) -> None:
        self._due[key] = at
        self.effects.set_timer(key, at)

    def due(self, key: TimerKey, now: float) -> float:
        """When a timer that fires now was to fire."""
        return self._due.pop(key, now)

    def jittered(self, duration_s: float) -> float:
        """The duration, off by up to a tenth: devices that started together must not stay in step."""
        return duration_s * (0.9 + 0.2 * self.effects.random.random())
