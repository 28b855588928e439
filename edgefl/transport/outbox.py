"""Messages that wait for a connection: bounded in bytes, per peer and in all, and in age."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from edgefl.transport.counters import Counters

MAX_PEER_BYTES = 1024 * 1024
"""Waiting for one peer: a hundred times what the overlay sends it between two heartbeats."""

MAX_TOTAL_BYTES = 8 * 1024 * 1024
"""Waiting for all peers together: after a power cut of the whole site, everybody waits for everybody."""

MESSAGE_OVERHEAD_BYTES = 128
"""Counted per message, so that many tiny ones are bounded too."""


FLUSH_MESSAGES = 128
"""Messages sent before the loop gets its turn: 2 ms."""


class Budget:
    """What all outboxes of one transport may hold together."""

    def __init__(self, limit: int = MAX_TOTAL_BYTES) -> None:
        self.limit = limit
        self.used = 0


class Outbox:
    """Messages for one peer, oldest first."""

    def __init__(self, budget: Budget, counters: Counters, max_age_s: float) -> None:
        self.bytes = 0
        self._budget = budget
        self._counters = counters
        self._max_age_s = max_age_s
        self._messages: deque[tuple[float, bytes]] = deque()

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, data: bytes, now: float) -> bool:
        """Queue a message; False if there is no room (counted)."""
        size = len(data) + MESSAGE_OVERHEAD_BYTES
        if self.bytes + size > MAX_PEER_BYTES or self._budget.used + size > self._budget.limit:
            self._counters["dropped.queue-full"] += 1
            return False
        self._messages.append((now + self._max_age_s, data))
        self._account(size)
        return True

    def flush(self, send: Callable[[bytes], bool]) -> bool:
        """Send what waits until `send` says False; True if the loop should have its turn before the rest."""
        for _ in range(FLUSH_MESSAGES):
            if not self._messages or not send(self._messages[0][1]):
                return False
            self._pop()
        return True

    def expire(self, now: float) -> None:
        """Drop what has waited too long (counted)."""
        while self._messages and self._messages[0][0] <= now:
            self._pop()
            self._counters["dropped.expired"] += 1

    def clear(self) -> None:
        """Drop everything (counted)."""
        self._counters["dropped.peer-gone"] += len(self._messages)
        while self._messages:
            self._pop()

    def _pop(self) -> None:
        _, data = self._messages.popleft()
        self._account(-len(data) - MESSAGE_OVERHEAD_BYTES)

    def _account(self, size: int) -> None:
        self.bytes += size
        self._budget.used += size
