"""Chunks that ZeroMQ has been given and has not let go of: their memory cannot be freed, so it is counted.

The frames refer to the blob's own memory, whatever the number of peers they go to. When the last of them has been
written to its connection (or the connection has ended), pyzmq drops its reference to what it was given, on a thread of
its own: a weak reference tells. (Its message tracker tells, too, at four times the cost of all the rest of a frame.)
"""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from functools import partial

import zmq


class Flight:
    """Chunks under way, in bytes."""

    def __init__(self) -> None:
        self._out: dict[int, weakref.ref[memoryview]] = {}
        self._back: deque[tuple[int, int]] = deque()
        self._names = itertools.count()
        self.bytes = 0

    def frame(self, data: memoryview) -> zmq.Frame:
        """A frame that refers to `data` without copying, counted until ZeroMQ lets go of it."""
        view = data[:]  # an object of its own, to which ZeroMQ has the last reference
        name, size = next(self._names), view.nbytes
        self._out[name] = weakref.ref(view, partial(self._on_back, name, size))
        self.bytes += size
        return zmq.Frame(view, copy=False)

    def collect(self) -> int:
        """Forget what ZeroMQ has let go of; the bytes that are still under way."""
        while self._back:
            name, size = self._back.popleft()
            del self._out[name]
            self.bytes -= size
        return self.bytes

    def _on_back(self, name: int, size: int, _: object) -> None:
        """On whatever thread drops the last reference: nothing but one atomic append."""
        self._back.append((name, size))
