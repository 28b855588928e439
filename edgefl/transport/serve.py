"""Answering those who ask for blobs, each within its own limit.

A peer has at most MAX_SERVED_BYTES of chunks inside ZeroMQ and MAX_WAITING more on its list; what it asks for beyond
that is dropped, and asked for again by anybody who keeps to the credit. A blob that is itself still arriving is served
as far as it has come: the rest follows chunk by chunk as it arrives, so that asking through a chain of devices costs
little more than asking the first of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

import zmq

from edgefl.errors import EdgeflError
from edgefl.transport.assembly import Assembly
from edgefl.transport.blobs import Blobs, Held
from edgefl.transport.deliveries import Deliveries
from edgefl.transport.dial import Station
from edgefl.transport.flight import Flight
from edgefl.transport.uplink import Uplink
from edgefl.wire.blob import CHUNK_BYTES
from edgefl.wire.codec import Message
from edgefl.wire.link import MAX_CHUNKS_PER_GET, BlobChunk, BlobGet, BlobHeader, BlobMissing

MAX_SERVED_BYTES = MAX_CHUNKS_PER_GET * CHUNK_BYTES
"""Chunks for one peer inside ZeroMQ: its whole credit, 1 MiB."""

MAX_WAITING = 32
"""Chunks on one peer's list: the credit of eight blobs that it fetches at the same time."""

MAX_LOADING = 8
"""Blobs being read from disk for others; further askers hear that we do not have it, and look elsewhere."""


_HEADER = -1
"""Stands for the header on an asker's list."""


class WillPush(Protocol):
    """Broadcast.will_push."""

    def __call__(self, node_id: int, blob_id: bytes, index: int, *, new: bool = False) -> bool: ...


class _Asker:
    """One peer's list: a flow of the uplink."""

    def __init__(self, serving: Serving, node_id: int) -> None:
        self.node_id = node_id
        self.wanted: deque[tuple[bytes, int]] = deque()
        self.flight = Flight()
        self.deficit = 0
        self._serving = serving

    @property
    def waiting(self) -> bool:
        """Whether there is something that has arrived here (or that has gone, which is to be said)."""
        return any(self._serving.can_answer(*item) for item in self.wanted)

    def send_next(self) -> tuple[int, int]:
        return self._serving.send_next(self)


class Serving:
    """Serves blobs. `send(node_id, message, bulk)` is False while the peer's connection is full, or not `connected`.
    What the asker `will_push(node_id, blob_id, index)` be pushed is not served, or it would go there twice."""

    def __init__(
        self,
        blobs: Blobs,
        station: Station,
        uplink: Uplink,
        send: Callable[[int, Message, zmq.Frame | None], bool],
        connected: Callable[[int], bool],
        deliveries: Deliveries,
        will_push: WillPush,
    ) -> None:
        self._will_push = will_push
        self._blobs = blobs
        self._station = station
        self._send = send
        self._connected = connected
        self._deliveries = deliveries
        self._askers: dict[int, _Asker] = {}
        self._loading: set[asyncio.Task[None]] = set()
        self._followed: set[bytes] = set()
        self._uplink = uplink

    def on_get(self, node_id: int, get: BlobGet) -> None:
        """A peer asks for chunks, a header, or both."""
        source = self._source(get.blob)
        if source is not None:
            self._answer(node_id, get, source)
        elif len(self._loading) < MAX_LOADING:
            task = asyncio.ensure_future(self._load(node_id, get))
            self._loading.add(task)
            task.add_done_callback(self._loading.discard)
        else:
            self._send(node_id, BlobMissing(get.blob), None)

    def on_link_lost(self, node_id: int) -> None:
        self._askers.pop(node_id, None)

    def sweep(self) -> None:
        """Forget those who wait for nothing. Call about once a second."""
        for node_id, asker in list(self._askers.items()):
            if not asker.wanted and not asker.flight.collect():
                del self._askers[node_id]

    def in_flight(self, node_id: int) -> int:
        """Bytes of chunks for this peer inside ZeroMQ."""
        asker = self._askers.get(node_id)
        return 0 if asker is None else asker.flight.collect()

    async def close(self) -> None:
        self._askers.clear()
        for task in self._loading:
            task.cancel()
        await asyncio.gather(*self._loading, return_exceptions=True)

    def _source(self, blob_id: bytes) -> Held | Assembly | None:
        return self._blobs.peek(blob_id) or self._blobs.assembly(blob_id)

    async def _load(self, node_id: int, get: BlobGet) -> None:
        try:
            held = await self._blobs.find(get.blob)
        except EdgeflError:
            held = None
        if held is None:
            self._send(node_id, BlobMissing(get.blob), None)
        else:
            self._answer(node_id, get, held)

    def _answer(self, node_id: int, get: BlobGet, source: Held | Assembly) -> None:
        asker = self._askers.get(node_id) or self._askers.setdefault(node_id, _Asker(self, node_id))
        last = min(get.first + min(get.count, MAX_CHUNKS_PER_GET), source.ref.chunks)
        for index in [*([_HEADER] if get.header else []), *range(get.first, last)]:
            if self._will_push(node_id, get.blob, index):
                continue
            if len(asker.wanted) >= MAX_WAITING:
                self._station.counters["dropped.over-credit"] += 1
            elif (get.blob, index) not in asker.wanted:
                asker.wanted.append((get.blob, index))
        if isinstance(source, Assembly) and get.blob not in self._followed:
            self._followed.add(get.blob)
            source.listen(self._on_progress)
        self._uplink.add(asker)

    def can_answer(self, blob_id: bytes, index: int) -> bool:
        """Whether there is an answer now: the chunk has arrived, or the blob is gone."""
        source = self._source(blob_id)
        return source is None or (source.hashes is not None and (index == _HEADER or source.has(index)))

    def send_next(self, asker: _Asker) -> tuple[int, int]:
        """The next chunk for a peer, as far as its limit and its connection allow (Flow.send_next)."""
        if asker.flight.bytes >= MAX_SERVED_BYTES and asker.flight.collect() >= MAX_SERVED_BYTES:
            return 0, 0
        for _ in range(len(asker.wanted)):
            if not asker.wanted:
                break
            blob_id, index = item = asker.wanted.popleft()
            source = self._source(blob_id)
            if source is None:
                # Gone meanwhile; say so once, not for every chunk.
                asker.wanted = deque(other for other in asker.wanted if other[0] != blob_id)
                self._send(asker.node_id, BlobMissing(blob_id), None)
            elif not self.can_answer(blob_id, index):
                asker.wanted.append(item)  # still arriving: `_on_progress` comes back to it
            elif sent := self._send_one(asker, source, index):
                return sent, sent
            elif self._connected(asker.node_id):
                asker.wanted.appendleft(item)
                break
            else:
                asker.wanted.clear()  # it asks again when it is back
        return 0, 0

    def _send_one(self, asker: _Asker, source: Held | Assembly, index: int) -> int:
        """Bytes of a chunk or header that was sent; 0 if the connection is full or gone."""
        if index == _HEADER:
            frame = zmq.Frame(source.hashes or b"", copy=True)
            header = BlobHeader(source.ref.id, source.ref.size)
            return max(1, len(frame)) if self._send(asker.node_id, header, frame) else 0
        chunk = source.chunk(index)
        self._deliveries.begin(asker.node_id)
        if not self._send(asker.node_id, BlobChunk(source.ref.id, index), asker.flight.frame(chunk)):
            return 0
        self._station.counters["blobs.served"] += 1
        self._deliveries.sent(asker.node_id, len(chunk))
        return len(chunk)

    def _on_progress(self, assembly: Assembly, index: int) -> None:
        blob_id = assembly.ref.id
        if index < 0:
            self._followed.discard(blob_id)
        for asker in list(self._askers.values()):
            if (blob_id, index) in asker.wanted and self._will_push(asker.node_id, blob_id, index, new=True):
                asker.wanted.remove((blob_id, index))  # it has subscribed since it asked
            if any(item[0] == blob_id for item in asker.wanted):
                self._uplink.add(asker)
