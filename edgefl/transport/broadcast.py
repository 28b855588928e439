"""Pushing blobs to children: an XPUB to which each child subscribes by application, and streams of chunks into it.

A message is: topic (the application's id, 8 bytes), an encoded BlobHeader, BlobChunk or BlobMissing, and the bytes.
All children's queues refer to the same memory, nothing is dropped silently (no high-water mark), and `sequence` counts
the messages per application, so a child sees what it missed. What we hold back it is told to ask for (BlobMissing).

A relay publishes an assembly: each chunk goes out as soon as it has come in and been checked (cut-through), which keeps
a chain of three hops within 1.2 times the line time, where store-and-forward takes 3.2 times.

Children that do not read: chunks that ZeroMQ has not let go of are bounded (MAX_PUSH_BYTES). At the bound, a child that
is far behind while another one has nearly everything is cut off; it comes back with an empty queue and asks for what it
still wants. If all are equally slow, our own line is the limit, and the stream simply waits.

A child's death is noticed by its connection (inbound.py), which names it; no presence topic is needed for that.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import zmq

from edgefl.errors import EdgeflError
from edgefl.transport.assembly import Assembly
from edgefl.transport.blobs import Blobs, Held
from edgefl.transport.curve import open_broadcast_server
from edgefl.transport.dial import Station
from edgefl.transport.flight import Flight
from edgefl.transport.inbound import Connection, Inbound
from edgefl.transport.penalties import Penalties
from edgefl.transport.zmq_socket import LoopSocket, Parts
from edgefl.wire.blob import BlobRef
from edgefl.wire.codec import Message, encode
from edgefl.wire.link import BlobChunk, BlobHeader, BlobMissing

MAX_PUSH_BYTES = 64 * 1024 * 1024
"""Chunks inside ZeroMQ that some child has not taken: two rounds of a 25 MB model. It is memory that stays taken after
a blob was discarded."""

LAGGING_BYTES = MAX_PUSH_BYTES // 2
KEEPING_UP_BYTES = MAX_PUSH_BYTES // 4
"""At the bound, a child this far behind is cut off if another one is at most this far behind."""

TURN_CHUNKS = 8
"""Chunks sent before the loop gets its turn: 0.5 ms here, 5 ms to a dozen children on a small device."""

MAX_APPS = 256
"""Applications that one device takes part in, or that one child subscribes to."""

RECENT_BLOBS = 8
"""Blobs per application that are remembered as pushed, so that a relay pushes each once."""

TOPIC_BYTES = 8


class _Stream:
    """One blob on its way to the subscribers of one application."""

    def __init__(self, app: int, source: Held | Assembly) -> None:
        self.app = app
        self.source = source
        self.announced = False
        have = range(source.ref.chunks)
        self.unsent: deque[int] = deque(index for index in have if source.has(index))

    @property
    def growing(self) -> bool:
        return isinstance(self.source, Assembly) and not self.source.ended


class Broadcast:
    """The pushing side of one device. `on_child_lost(node_id)`: a subscriber's connection has broken.
    `may_subscribe(node_id, app)`: who may not is cut off, when it subscribes and before each blob."""

    def __init__(
        self,
        station: Station,
        blobs: Blobs,
        penalties: Penalties,
        on_child_lost: Callable[[int], None],
        may_subscribe: Callable[[int, int], bool],
    ) -> None:
        self._may_subscribe = may_subscribe
        self._station = station
        self._blobs = blobs
        self._penalties = penalties
        self._on_child_lost = on_child_lost
        self._streams: dict[int, _Stream] = {}
        self._sequences: dict[int, int] = {}
        self._pushed: dict[int, deque[bytes]] = {}
        self._subscribers: dict[bytes, dict[Connection, None]] = {}
        self._flight = Flight()
        self._timer: asyncio.TimerHandle | None = None
        self._loading: set[asyncio.Task[None]] = set()
        bound = open_broadcast_server(station.context, station.keys, station.timing)
        self._inbound = Inbound(
            station.context, bound, station.timing, station.counters, station.clock, self._on_connection_lost
        )
        self._socket = LoopSocket(bound, self._on_subscription)

    def bind(self, endpoint: str) -> int:
        """Listen; the port in use. Raises zmq.ZMQError."""
        return self._socket.bind(endpoint)

    @property
    def in_flight(self) -> int:
        """Bytes of chunks that ZeroMQ has not let go of."""
        return self._flight.collect()

    def subscribers(self, app: int) -> list[Connection]:
        return list(self._subscribers.get(app.to_bytes(TOPIC_BYTES, "big"), ()))

    def publish(self, app: int, ref: BlobRef) -> None:
        """Push a blob to the subscribers of `app`: one that is here, on disk, or still arriving.

        A blob of the same application that is still being pushed gives way: its children are told to ask for the rest.
        """
        source = self._blobs.peek(ref.id) or self._blobs.assembly(ref.id)
        if isinstance(source, Assembly) and source.hashes is None:
            return  # nothing of it is verified yet
        if source is None:
            task = asyncio.ensure_future(self._publish_from_disk(app, ref))
            self._loading.add(task)
            task.add_done_callback(self._loading.discard)
            return
        stream = self._streams.get(app)
        if stream is not None:
            if stream.source is source:
                return
            self._end(stream, complete=False)
        for child in self.subscribers(app):
            self._check(child, app)
        if not self.subscribers(app):
            return  # whoever comes later asks for it
        stream = self._streams[app] = _Stream(app, source)
        self._recent(app).append(ref.id)
        if isinstance(source, Assembly):
            source.listen(lambda _, index: self._on_progress(stream, index))
        self._pump()

    def relay(self, app: int, ref: BlobRef) -> None:
        """Push on what a parent pushes to us, once: should parents ever form a circle, nothing goes round in it."""
        if ref.id not in self._recent(app):
            self.publish(app, ref)

    def cut(self, node_id: int) -> None:
        """End every subscription of a peer, now."""
        for connection in self._inbound.of(node_id):
            self._inbound.cut(connection)

    def sweep(self) -> None:
        """Look after connections and memory. Call about once a second."""
        self._inbound.sweep()
        self._flight.collect()
        self._pump()

    async def close(self, linger_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._streams.clear()
        for task in self._loading:
            task.cancel()
        await asyncio.gather(*self._loading, return_exceptions=True)
        self._inbound.close()
        self._socket.close(linger_s)

    async def _publish_from_disk(self, app: int, ref: BlobRef) -> None:
        try:
            held = await self._blobs.find(ref.id)
        except EdgeflError:
            held = None
        if held is not None:
            self.publish(app, ref)
        else:
            self._station.counters["dropped.publish-unknown"] += 1

    def _on_progress(self, stream: _Stream, index: int) -> None:
        if self._streams.get(stream.app) is not stream:
            return
        if index >= 0:
            stream.unsent.append(index)
        self._pump()

    def _pump(self) -> None:
        """Send what there is, stream by stream, as far as the bound and the loop's patience allow."""
        turn = TURN_CHUNKS
        for stream in list(self._streams.values()):
            while turn and stream.unsent and self._may_send(stream):
                self._send_next(stream)
                turn -= 1
            if not stream.unsent and not stream.growing:
                complete = not isinstance(stream.source, Assembly) or stream.source.complete
                self._end(stream, complete=complete)
            elif stream.unsent and self._timer is None:
                delay = self._station.timing.release_poll if turn else 0.0
                self._timer = asyncio.get_running_loop().call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._pump()

    def _may_send(self, stream: _Stream) -> bool:
        if self._flight.bytes < MAX_PUSH_BYTES or self._flight.collect() < MAX_PUSH_BYTES:
            return True
        behind = [(self._inbound.unacknowledged(child), child) for child in self.subscribers(stream.app)]
        if behind and min(amount for amount, _ in behind) <= KEEPING_UP_BYTES:
            for amount, child in behind:
                if amount >= LAGGING_BYTES:
                    self._station.counters["dropped.lagging-child"] += 1
                    self._inbound.cut(child)
        return False

    def _send_next(self, stream: _Stream) -> None:
        source, app = stream.source, stream.app
        if not stream.announced:
            stream.announced = True
            self._push_header(stream, late=False)
        index = stream.unsent.popleft()
        chunk = source.chunk(index)
        self._push(app, BlobChunk(source.ref.id, index, self._next_sequence(app)), self._flight.frame(chunk))
        self._station.counters["blobs.pushed"] += 1

    def _push_header(self, stream: _Stream, *, late: bool) -> None:
        ref, hashes = stream.source.ref, stream.source.hashes
        header = BlobHeader(ref.id, ref.size, self._next_sequence(stream.app), late)
        self._push(stream.app, header, zmq.Frame(hashes or b"", copy=True))

    def _end(self, stream: _Stream, *, complete: bool) -> None:
        del self._streams[stream.app]
        if not complete and stream.announced:
            self._push(stream.app, BlobMissing(stream.source.ref.id))

    def _push(self, app: int, message: Message, bulk: zmq.Frame | None = None) -> None:
        parts: list[bytes | zmq.Frame] = [app.to_bytes(TOPIC_BYTES, "big"), encode(message)]
        if bulk is not None:
            parts.append(bulk)
        children = self.subscribers(app)
        size = sum(map(len, parts))
        for child in children:
            child.pushed += size
        self._socket.send(parts)
        self._station.counters["messages_sent"] += len(children)
        self._station.counters["bytes_sent"] += size * len(children)

    def _recent(self, app: int) -> deque[bytes]:
        """The blobs that were last pushed for an application."""
        recent = self._pushed.get(app)
        if recent is None:
            recent = self._pushed[app] = deque(maxlen=RECENT_BLOBS)
            if len(self._pushed) > MAX_APPS:
                # A sequence that starts again looks like a gap, which costs its children one question.
                forgotten = next(iter(self._pushed))
                del self._pushed[forgotten]
                self._sequences.pop(forgotten, None)
        return recent

    def _next_sequence(self, app: int) -> int:
        sequence = self._sequences[app] = self._sequences.get(app, 0) % 0xFFFFFFFF + 1
        return sequence

    def _on_subscription(self, parts: Parts) -> None:
        """A child subscribes or unsubscribes. What a broken connection leaves behind comes without a name: ignored."""
        connection = self._inbound.attribute(parts[0])
        if connection is None or connection.node_id is None or connection.cut or connection.gone:
            return
        node_id, data = connection.node_id, parts[0].bytes
        connection.deliver(parts, self._station.clock())
        kind, topic = data[:1], data[1:]
        if len(parts) != 1 or len(topic) != TOPIC_BYTES or kind not in (b"\0", b"\1"):
            self._garbage(node_id)
        elif kind == b"\0":
            connection.topics.discard(topic)
            self._unlist(connection, topic)
        elif len(connection.topics) >= MAX_APPS:
            self._garbage(node_id)
        elif self._check(connection, int.from_bytes(topic, "big")):
            connection.topics.add(topic)
            self._subscribers.setdefault(topic, {})[connection] = None
            stream = self._streams.get(int.from_bytes(topic, "big"))
            if stream is not None and stream.announced:
                self._push_header(stream, late=True)  # without it, the rest would be of no use to this child

    def _check(self, connection: Connection, app: int) -> bool:
        """Cut off a child that may not have what is pushed for the application; its zone may have changed."""
        node_id = connection.node_id
        if node_id is not None and self._may_subscribe(node_id, app):
            return True
        self._station.counters["refused.subscription"] += 1
        self._unlist(connection, app.to_bytes(TOPIC_BYTES, "big"))
        self._inbound.cut(connection)
        return False

    def _garbage(self, node_id: int) -> None:
        self._station.counters["dropped.garbage"] += 1
        self._penalties.garbage(node_id)

    def _unlist(self, connection: Connection, topic: bytes) -> None:
        listed = self._subscribers.get(topic, {})
        listed.pop(connection, None)
        if not listed:
            self._subscribers.pop(topic, None)

    def _on_connection_lost(self, connection: Connection) -> None:
        for topic in connection.topics:
            self._unlist(connection, topic)
        # A child that goes on purpose unsubscribes first.
        if connection.node_id is not None and connection.topics:
            self._on_child_lost(connection.node_id)
