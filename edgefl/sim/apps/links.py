"""Links under virtual time: what is large leaves a device chunk by chunk, each flow in turn, as in transport/uplink.py.

An application with seven children has seven flows, so it gets seven chunks where one with a single child gets one: what
the shipped uplink does as well, since a turn of a push is one chunk to every child.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Protocol

from edgefl.sim.clock import Clock

Deliver = Callable[[], None]


class Flow(Protocol):
    """Chunks for one receiver. `take` gives (size in bytes, what happens when it has left); None: none is ready."""

    @property
    def ended(self) -> bool: ...
    def take(self) -> tuple[int, Deliver] | None: ...


class Messages:
    """A flow of messages that are ready to be sent."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, Deliver]] = deque()

    @property
    def ended(self) -> bool:
        return not self._waiting

    def add(self, size: int, deliver: Deliver) -> None:
        self._waiting.append((size, deliver))

    def take(self) -> tuple[int, Deliver] | None:
        return self._waiting.popleft() if self._waiting else None


class Uplink:
    """One chunk at a time at `bytes_s`; flows take turns."""

    def __init__(self, clock: Clock, bytes_s: float) -> None:
        self._clock = clock
        self.bytes_s = bytes_s
        self.sent_bytes = 0
        self._flows: OrderedDict[Hashable, Flow] = OrderedDict()
        self._busy = False

    def send(self, key: Hashable, size: int, deliver: Deliver) -> None:
        """One message after those before it with this key."""
        flow = self._flows.setdefault(key, Messages())
        if not isinstance(flow, Messages):
            raise ValueError(f"{key!r} is no flow of messages")
        flow.add(size, deliver)
        self.poke()

    def add(self, key: Hashable, flow: Flow) -> None:
        self._flows[key] = flow
        self.poke()

    def poke(self) -> None:
        """Something may be ready to be sent."""
        if self._busy:
            return
        for key in list(self._flows):
            flow = self._flows[key]
            chunk = flow.take()
            if chunk is None:
                if flow.ended:
                    del self._flows[key]
                continue
            self._flows.move_to_end(key)
            size, deliver = chunk
            self._busy = True
            self.sent_bytes += size
            self._clock.at(self._clock.now + size / self.bytes_s, self._sent, deliver)
            return

    def _sent(self, deliver: Deliver) -> None:
        self._busy = False
        deliver()
        self.poke()


class Downlink:
    """First come, first served at `bytes_s`."""

    def __init__(self, clock: Clock, bytes_s: float) -> None:
        self._clock = clock
        self._bytes_s = bytes_s
        self._free = 0.0

    def receive(self, size: int, delay_s: float, call: Deliver) -> None:
        """What has just left its sender arrives after the delay, and when those before it are through."""
        self._free = max(self._free, self._clock.now + delay_s) + size / self._bytes_s
        self._clock.at(self._free, call)
