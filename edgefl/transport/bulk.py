"""Messages with a second frame on their way to peers: an application's update for its parent, chunk by chunk.

Each (application, peer) is a flow of the uplink (uplink.py). The peer has asked for what comes, within its credit, so
little waits here, and what is beyond that is dropped: whoever asked asks again. As in serve.py, no more than
MAX_FLIGHT_BYTES for one peer are inside ZeroMQ; a connection that is gone loses what waits for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import zmq

from edgefl.transport.counters import Counters
from edgefl.transport.deliveries import Deliveries
from edgefl.transport.flight import Flight
from edgefl.transport.uplink import Uplink
from edgefl.wire.codec import Message

MAX_FLIGHT_BYTES = 1024 * 1024
"""Inside ZeroMQ, for each flow: a parent's whole credit."""

MAX_WAITING = 32
"""Messages that wait in each flow: four times the credit, of 256 KiB at most and not copied."""

MAX_FLOWS = 256
"""Applications times parents, of which there are 64 and a few."""


class _Flow:
    """What one application has for one peer."""

    def __init__(self, bulk: Bulk, node_id: int) -> None:
        self.node_id = node_id
        self.queue: deque[tuple[Message, bytes | memoryview]] = deque()
        self.flight = Flight()
        self.deficit = 0
        self._bulk = bulk

    @property
    def waiting(self) -> bool:
        return bool(self.queue)

    def send_next(self) -> tuple[int, int]:
        return self._bulk.send_next(self)


class Bulk:
    """All flows. `send(node_id, message, bulk)` is False while the peer's connection is full, or not `connected`."""

    def __init__(
        self,
        uplink: Uplink,
        counters: Counters,
        send: Callable[[int, Message, zmq.Frame | None], bool],
        connected: Callable[[int], bool],
        deliveries: Deliveries,
    ) -> None:
        self._uplink = uplink
        self._counters = counters
        self._send = send
        self._connected = connected
        self._deliveries = deliveries
        self._flows: dict[tuple[int, int], _Flow] = {}

    def send(self, app: int, node_id: int, message: Message, data: bytes | memoryview) -> bool:
        """Send in turn, straight from `data`; False when it was dropped."""
        flow = self._flows.get((app, node_id))
        if not self._connected(node_id) or (flow is None and len(self._flows) >= MAX_FLOWS):
            return False
        if flow is None:
            flow = self._flows[app, node_id] = _Flow(self, node_id)
        if len(flow.queue) >= MAX_WAITING:
            self._counters["dropped.over-credit"] += 1
            return False
        flow.queue.append((message, data))
        self._uplink.add(flow)
        return True

    def send_next(self, flow: _Flow) -> tuple[int, int]:
        """The next message of a flow, as far as its connection allows (Flow.send_next)."""
        if flow.flight.bytes >= MAX_FLIGHT_BYTES and flow.flight.collect() >= MAX_FLIGHT_BYTES:
            return 0, 0
        message, data = flow.queue[0]
        self._deliveries.begin(flow.node_id)
        if self._send(flow.node_id, message, flow.flight.frame(memoryview(data))):
            flow.queue.popleft()
            size = max(1, len(data))
            self._deliveries.sent(flow.node_id, size)
            return size, size
        if not self._connected(flow.node_id):
            flow.queue.clear()  # it asks again when it is back
        return 0, 0

    def sweep(self) -> None:
        """Forget flows that have nothing to send. Call about once a second."""
        for key, flow in list(self._flows.items()):
            if not flow.queue and not flow.flight.collect():
                del self._flows[key]
