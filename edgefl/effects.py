"""What the pure core (overlay/, learning/) may ask of the world, and how the world answers.

The core never reads a clock, opens a socket or draws from a global generator. It is handed `now` (monotonic seconds)
with every event and asks for effects through the small interfaces below. Two worlds implement them: the daemon on real
sockets, and the simulator under a virtual clock. The same seed in the same simulated world gives the same run.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from random import Random

    from edgefl.wire import Contact, Message

TimerKey = tuple[Hashable, ...]
"""Names a timer within one device; the first item names the component that set it."""


class Effects(Protocol):
    """The world as the overlay sees it."""

    @property
    def random(self) -> Random:
        """The device's own seeded generator: the only source of randomness in the core."""
        ...

    def send(self, to: Contact, message: Message) -> None:
        """Send, best effort: the message arrives at most once, or not at all. Never blocks, never raises."""
        ...

    def set_timer(self, key: TimerKey, at: float) -> None:
        """Call `on_timer(key, now)` once, at monotonic time `at` or soon after. Setting a key again replaces it."""
        ...

    def cancel_timer(self, key: TimerKey) -> None:
        """Forget the timer; unknown keys are fine."""
        ...
