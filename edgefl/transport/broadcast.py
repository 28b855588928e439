"""Pushing blobs to children: streams of chunks into an XPUB, to which each child subscribes by application.

A message is: topic (the application's id and the lane, subscribers.py), an encoded BlobHeader, BlobChunk or
BlobMissing, and the bytes. All children's queues refer to the same memory, nothing is dropped silently (no high-water
mark), and `sequence` counts the messages per application, so a child sees what it missed. What we hold back it is told
to ask for (BlobMissing).

A relay publishes an assembly: each chunk goes out as soon as it has come in and been checked (cut-through), which keeps
a chain of three hops within 1.2 times the line time, where store-and-forward takes 3.2 times.

Chunks that were already part of what was pushed last for the application are not pushed again: the header names them,
and children have them (or ask).

Little is under way at a time: a chunk is pushed when some child has room for it (subscribers.py), in the turn of its
application (uplink.py). A child that is far behind the others is cut off, and asks from then on; if all are equally
slow, the stream waits. Chunks that ZeroMQ has not let go of are bounded in all (limits.py), and those that a child has
not taken by its credit (credit.py).

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
from edgefl.transport.dial import Station
from edgefl.transport.flight import Flight
from edgefl.transport.penalties import Penalties
from edgefl.transport.subscribers import FAST_LANE, MAX_APPS, SLOW_LANE, Child, Subscribers
from edgefl.transport.uplink import Uplink
from edgefl.wire.blob import BlobRef, is_marked, marks, split_hashes
from edgefl.wire.codec import encode
from edgefl.wire.link import BlobChunk, BlobHeader, BlobMissing, Taken

RECENT_BLOBS = 8
"""Blobs per application that are remembered as pushed, so that a relay pushes each once."""


LOOK_S = 0.05
"""How often to look after a child that is waited for: its word comes by itself, but it may have to be cut off."""


class _Stream:
    """One blob on its way to the subscribers of one application: a flow of the uplink."""

    def __init__(self, broadcast: Broadcast, app: int, source: Held | Assembly, known: bytes, late: bool) -> None:
        self.app = app
        self.late = late
        self.source = source
        self.known = known
        self.deficit = 0
        have = () if late else range(source.ref.chunks)
        self.unsent: deque[int] = deque(index for index in have if source.has(index))
        self.look: asyncio.TimerHandle | None = None
        self._broadcast = broadcast

    @property
    def growing(self) -> bool:
        return isinstance(self.source, Assembly) and not self.source.ended

    @property
    def waiting(self) -> bool:
        """Not while it waits for a child's word: to ask for turns meanwhile would cost more than the word."""
        return bool(self.unsent) and self.look is None

    def send_next(self) -> tuple[int, int]:
        return self._broadcast.send_next(self)


class Broadcast:
    """The pushing side of one device. `on_child_lost(node_id)`: a subscriber's connection has broken.
    `may_subscribe(node_id, app)`: who may not is cut off, when it subscribes and before each blob.
    `gives_credit(node_id)`: whether a child is one that says what it has taken."""

    def __init__(
        self,
        station: Station,
        blobs: Blobs,
        penalties: Penalties,
        uplink: Uplink,
        on_child_lost: Callable[[int], None],
        may_subscribe: Callable[[int, int], bool],
        gives_credit: Callable[[int], bool],
        *,
        push_bytes: int,
    ) -> None:
        self._push_bytes = push_bytes
        self._station = station
        self._blobs = blobs
        self._uplink = uplink
        self._streams: dict[int, _Stream] = {}
        self._sequences: dict[tuple[int, bytes], int] = {}
        self._pushed: dict[int, deque[bytes]] = {}
        self._last: dict[int, frozenset[bytes]] = {}
        self._flight = Flight()
        self._loading: set[asyncio.Task[None]] = set()
        self._children = Subscribers(station, penalties, may_subscribe, gives_credit, self._on_accepted, on_child_lost)
        uplink.measure(self._children.look)

    def bind(self, endpoint: str) -> int:
        """Listen; the port in use. Raises zmq.ZMQError."""
        return self._children.socket.bind(endpoint)

    @property
    def in_flight(self) -> int:
        """Bytes of chunks that ZeroMQ has not let go of."""
        return self._flight.collect()

    def subscribers(self, app: int) -> list[Child]:
        return self._children.of(app)

    def publish(self, app: int, ref: BlobRef, *, late: bool = False) -> None:
        """Push a blob to the subscribers of `app`: one that is here, on disk, or still arriving. `late`: only what
        arrives from now on; what they miss of the rest, children ask for.

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
        self._children.check(app)
        if not self._children.any(app):
            return  # whoever comes later asks for it
        recent = self._recent(app)
        stream = self._streams[app] = _Stream(self, app, source, self._known(app, source), late)
        if ref.id not in recent:
            recent.append(ref.id)
        if isinstance(source, Assembly):
            source.listen(lambda _, index: self._on_progress(stream, index))
        for lane in (FAST_LANE, SLOW_LANE):
            self._push_header(stream, lane, late=late)
        self._go_on(stream)

    def relay(self, app: int, ref: BlobRef) -> None:
        """Push on what a parent pushes to us, once: should parents ever form a circle, nothing goes round in it."""
        if self._children.any(app) and ref.id not in self._recent(app):
            # Children that come in the middle had another parent, which has pushed them some of it.
            assembly = self._blobs.assembly(ref.id)
            self.publish(app, ref, late=assembly is not None and len(assembly.missing) < ref.chunks)

    def will_push(self, node_id: int, blob_id: bytes, index: int, *, new: bool = False) -> bool:
        """Whether this chunk is still to be pushed to this peer. `new`: it has arrived just now."""
        for stream in self._streams.values():
            source = stream.source
            if source.ref.id != blob_id or not 0 <= index < source.ref.chunks or is_marked(stream.known, index):
                continue
            to_come = new or index in stream.unsent or (stream.growing and not source.has(index))
            if to_come and any(child.node_id == node_id and not child.slow for child in self.subscribers(stream.app)):
                return True
        return False

    def on_taken(self, node_id: int, taken: Taken) -> None:
        """A child says how far it has come."""
        if self._children.on_taken(node_id, taken.app, taken.sequence):
            for stream in list(self._streams.values()):
                self._resume(stream)

    def cut(self, node_id: int) -> None:
        """End every subscription of a peer, now."""
        self._children.cut(node_id)

    def sweep(self) -> None:
        """Look after connections and memory. Call about once a second."""
        self._children.sweep()
        self._children.give_chances(self._streams)
        self._flight.collect()

    async def close(self, linger_s: float) -> None:
        self._streams.clear()
        for task in self._loading:
            task.cancel()
        await asyncio.gather(*self._loading, return_exceptions=True)
        self._children.close(linger_s)

    async def _publish_from_disk(self, app: int, ref: BlobRef) -> None:
        try:
            held = await self._blobs.find(ref.id)
        except EdgeflError:
            held = None
        if held is not None:
            self.publish(app, ref)
        else:
            self._station.counters["dropped.publish-unknown"] += 1

    def send_next(self, stream: _Stream) -> tuple[int, int]:
        """The next chunk of a stream, if there is room (Flow.send_next)."""
        if self._streams.get(stream.app) is not stream:
            stream.unsent.clear()
            return 0, 0
        limit = self._push_bytes
        pressed = self._flight.bytes >= limit and self._flight.collect() >= limit
        if not self._children.have_room(stream.app, pressed=pressed) or pressed:
            if self._children.wait_for_word(stream.app):
                stream.look = asyncio.get_running_loop().call_later(LOOK_S, self._resume, stream)
            return 0, 0
        index, source = stream.unsent.popleft(), stream.source
        chunk = source.chunk(index)
        sequence = self._next_sequence(stream.app, FAST_LANE)
        message: list[bytes | zmq.Frame] = [encode(BlobChunk(source.ref.id, index, sequence))]
        copies = self._children.send(stream.app, FAST_LANE, [*message, self._flight.frame(chunk)], sequence)
        self._station.counters["blobs.pushed"] += bool(copies)
        self._go_on(stream)
        return len(chunk), len(chunk) * copies

    def _resume(self, stream: _Stream) -> None:
        """Look whether a stream that waited for a word can go on."""
        if stream.look is not None:
            stream.look.cancel()
            stream.look = None
            if self._streams.get(stream.app) is stream:
                self._go_on(stream)

    def _on_progress(self, stream: _Stream, index: int) -> None:
        if self._streams.get(stream.app) is not stream:
            return
        if index >= 0:
            stream.unsent.append(index)
        self._go_on(stream)

    def _go_on(self, stream: _Stream) -> None:
        while stream.unsent and is_marked(stream.known, stream.unsent[0]):
            stream.unsent.popleft()
        if stream.waiting:
            self._uplink.add(stream)
        elif not stream.unsent and not stream.growing:
            complete = not isinstance(stream.source, Assembly) or stream.source.complete
            self._end(stream, complete=complete)

    def _push_header(self, stream: _Stream, lane: bytes, *, late: bool) -> None:
        ref, hashes = stream.source.ref, stream.source.hashes
        sequence = self._next_sequence(stream.app, lane)
        header = BlobHeader(ref.id, ref.size, sequence, late, stream.known)
        self._children.send(stream.app, lane, [encode(header), zmq.Frame(hashes or b"", copy=True)], sequence)
        if lane == SLOW_LANE:
            self._children.send(stream.app, lane, [encode(BlobMissing(ref.id))])

    def _end(self, stream: _Stream, *, complete: bool) -> None:
        if self._streams.get(stream.app) is not stream:
            return
        del self._streams[stream.app]
        hashes = stream.source.hashes or b""
        self._last[stream.app] = frozenset(split_hashes(hashes)) if complete else frozenset()
        if stream.late or not complete:
            self._children.send(stream.app, FAST_LANE, [encode(BlobMissing(stream.source.ref.id))])

    def _on_accepted(self, child: Child, app: int) -> None:
        stream = self._streams.get(app)
        if stream is not None:
            # Without it, the rest would be of no use to this child.
            self._push_header(stream, SLOW_LANE if child.slow else FAST_LANE, late=True)

    def _known(self, app: int, source: Held | Assembly) -> bytes:
        """The chunks that were part of what was pushed last, as bits; empty if there are none."""
        last = self._last.get(app)
        if not last:
            return b""
        return marks([digest in last for digest in split_hashes(source.hashes or b"")])

    def _recent(self, app: int) -> deque[bytes]:
        """The blobs that were last pushed for an application."""
        recent = self._pushed.get(app)
        if recent is None:
            recent = self._pushed[app] = deque(maxlen=RECENT_BLOBS)
            if len(self._pushed) > MAX_APPS:
                # A sequence that starts again looks like a gap, which costs its children one question.
                forgotten = next(iter(self._pushed))
                del self._pushed[forgotten]
                self._last.pop(forgotten, None)
                for lane in (FAST_LANE, SLOW_LANE):
                    self._sequences.pop((forgotten, lane), None)
        return recent

    def _next_sequence(self, app: int, lane: bytes) -> int:
        sequence = self._sequences[app, lane] = self._sequences.get((app, lane), 0) % 0xFFFFFFFF + 1
        return sequence
