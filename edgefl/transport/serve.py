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
from dataclasses import dataclass, field

import zmq

from edgefl.errors import EdgeflError
from edgefl.transport.assembly import Assembly
from edgefl.transport.blobs import Blobs, Held
from edgefl.transport.dial import Station
from edgefl.transport.flight import Flight
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


@dataclass(slots=True)
class _Asker:
    waiting: deque[tuple[bytes, int]] = field(default_factory=deque)
    flight: Flight = field(default_factory=Flight)


class Serving:
    """Serves blobs. `send(node_id, message, bulk)` is False while the peer's connection is full, or not `connected`."""

    def __init__(
        self,
        blobs: Blobs,
        station: Station,
        send: Callable[[int, Message, zmq.Frame | None], bool],
        connected: Callable[[int], bool],
    ) -> None:
        self._blobs = blobs
        self._station = station
        self._send = send
        self._connected = connected
        self._askers: dict[int, _Asker] = {}
        self._loading: set[asyncio.Task[None]] = set()
        self._followed: set[bytes] = set()
        self._timer: asyncio.TimerHandle | None = None

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
            if not asker.waiting and not asker.flight.collect():
                del self._askers[node_id]

    def in_flight(self, node_id: int) -> int:
        """Bytes of chunks for this peer inside ZeroMQ."""
        asker = self._askers.get(node_id)
        return 0 if asker is None else asker.flight.collect()

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
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
        asker = self._askers.setdefault(node_id, _Asker())
        last = min(get.first + min(get.count, MAX_CHUNKS_PER_GET), source.ref.chunks)
        for index in [*([_HEADER] if get.header else []), *range(get.first, last)]:
            if len(asker.waiting) >= MAX_WAITING:
                self._station.counters["dropped.over-credit"] += 1
            elif (get.blob, index) not in asker.waiting:
                asker.waiting.append((get.blob, index))
        if isinstance(source, Assembly) and get.blob not in self._followed:
            self._followed.add(get.blob)
            source.listen(self._on_progress)
        self._pump(node_id, asker)

    def _pump(self, node_id: int, asker: _Asker) -> None:
        """Send this peer what it waits for, as far as its limit and its connection allow."""
        for _ in range(len(asker.waiting)):
            if asker.flight.bytes >= MAX_SERVED_BYTES and asker.flight.collect() >= MAX_SERVED_BYTES:
                self._look_again()
                return
            blob_id, index = asker.waiting.popleft()
            source = self._source(blob_id)
            if source is None:
                # Gone meanwhile; say so once, not for every chunk.
                asker.waiting = deque(item for item in asker.waiting if item[0] != blob_id)
                self._send(node_id, BlobMissing(blob_id), None)
                self._pump(node_id, asker)
                return
            if source.hashes is None or (index != _HEADER and not source.has(index)):
                asker.waiting.append((blob_id, index))  # still arriving: `_on_progress` comes back to it
            elif index == _HEADER:
                self._send(node_id, BlobHeader(blob_id, source.ref.size), zmq.Frame(source.hashes, copy=True))
            elif self._send(node_id, BlobChunk(blob_id, index), asker.flight.frame(source.chunk(index))):
                self._station.counters["blobs.served"] += 1
            elif self._connected(node_id):
                asker.waiting.appendleft((blob_id, index))
                self._look_again()
                return
            else:
                asker.waiting.clear()  # it asks again when it is back
                return

    def _on_progress(self, assembly: Assembly, index: int) -> None:
        blob_id = assembly.ref.id
        if index < 0:
            self._followed.discard(blob_id)
        for node_id, asker in list(self._askers.items()):
            if any(item[0] == blob_id for item in asker.waiting):
                self._pump(node_id, asker)

    def _look_again(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._station.timing.release_poll, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        for node_id, asker in list(self._askers.items()):
            self._pump(node_id, asker)
