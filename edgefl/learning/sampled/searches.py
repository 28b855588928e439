"""Searches under way: whom to ping for what, and when each is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgefl.learning.sampled.sampling import Pace, Sampling
from edgefl.wire.sampled import Entry

if TYPE_CHECKING:
    from edgefl.wire import Contact

Found = Callable[[list[Entry], float], None]


class Searches:
    """At most one search of each name. `ping(contact, request, name)` asks a device; `alarm(name, at)` sets a timer
    (None: cancels it), after which `step` is to be called."""

    def __init__(
        self, me: int, ping: Callable[[Contact, int, str], None], alarm: Callable[[str, float | None], None]
    ) -> None:
        self._me = me
        self._ping = ping
        self._alarm = alarm
        self.pace = Pace()
        self._request = 0
        self._open: dict[str, tuple[int, Sampling, Found]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._open

    def start(self, name: str, ordered: list[Entry], want: int, found: Found, now: float) -> None:
        """Look for the first `want` live devices of `ordered`; `found` gets them, fewer when there are not so many."""
        self._request = (self._request + 1) % 2**32
        self._open[name] = (self._request, Sampling(ordered, want, self.pace, self._me), found)
        self.step(name, now)

    def step(self, name: str, now: float) -> None:
        request, sampling, found = self._open[name]
        for entry in sampling.step(now):
            self._ping(entry.contact, request, name)
        if sampling.result is None:
            self._alarm(name, sampling.deadline)
            return
        self.cancel(name)
        found(sampling.result, now)

    def on_answer(self, node_id: int, request: int, now: float) -> str | None:
        """The name of the search that had asked this device; call `step` for it."""
        for name, (own, sampling, _) in self._open.items():
            if own == request and sampling.on_answer(node_id, now):
                return name
        return None

    def cancel(self, *names: str) -> None:
        for name in names:
            self._open.pop(name, None)
            self._alarm(name, None)
