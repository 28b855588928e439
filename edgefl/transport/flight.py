"""Chunks that ZeroMQ has been given and has not let go of: their memory cannot be freed, so it is counted.

The frames refer to the blob's own memory, whatever the number of peers they go to. ZeroMQ's message tracker says when
the last of them has been written to its connection (or the connection has ended).
"""

from __future__ import annotations

import zmq


class Flight:
    """Chunks under way, in bytes."""

    def __init__(self) -> None:
        self._chunks: list[tuple[zmq.MessageTracker, int]] = []
        self.bytes = 0
        self._released = 0

    def frame(self, data: memoryview) -> zmq.Frame:
        """A frame that refers to `data` without copying, counted until ZeroMQ lets go of it."""
        frame = zmq.Frame(data, track=True, copy=False)
        tracker = frame.tracker
        if tracker is not None and not tracker.done:  # short ones are copied and never under way
            self._chunks.append((tracker, len(data)))
            self.bytes += len(data)
        return frame

    def collect(self) -> int:
        """Forget what ZeroMQ has let go of; the bytes that are still under way."""
        if self._chunks:
            before = self.bytes
            self._chunks = [item for item in self._chunks if not item[0].done]
            self.bytes = sum(size for _, size in self._chunks)
            self._released += before - self.bytes
        return self.bytes

    def take_released(self) -> int:
        """Bytes that ZeroMQ has let go of since this was last asked."""
        self.collect()
        released, self._released = self._released, 0
        return released
