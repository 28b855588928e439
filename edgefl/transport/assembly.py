"""A blob that is arriving, chunk by chunk, each checked against its hash before it counts.

Chunks come from two sides at once: pushed by the parent (feeds.py) and pulled from sources (pull.py). Whatever arrives
first is kept, stored in place, and passed on at once by whoever listens. `patience_until` and `lost` are how the two
sides agree: as long as a push is expected, only what is known to be lost is pulled. `local` chunks are being
copied from blobs at hand (reuse.py). `apps` are the applications that it arrives for.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
from collections.abc import Callable
from enum import Enum

from edgefl.errors import EdgeflError, WireError
from edgefl.wire.blob import HASH_BYTES, BlobRef, blob_ref, chunk_hash

HUGE_PAGE_BYTES = 2 * 1024 * 1024
"""A large page on most machines: 25 MB in small ones are 6,000 page faults, a fifth of all that receiving costs."""


class Stored(Enum):
    """What became of a chunk."""

    KEPT = 0
    DUPLICATE = 1
    WRONG = 2


class Assembly:
    """One arriving blob of known name and size. The header (its chunk hashes) may still be missing."""

    def __init__(self, ref: BlobRef, now: float) -> None:
        self.ref = ref
        self.hashes: bytes | None = None
        self.missing: set[int] = set(range(ref.chunks))
        self.lost: set[int] = set()
        self.local: set[int] = set()
        self.header_lost = False
        self.apps: set[int] = set()
        self.pushed = False
        self.patience_until = 0.0
        self.touched = now
        self.ended = False
        self._view = _pages(ref.size)
        self._listeners: list[Callable[[Assembly, int], None]] = []
        self._waiters: list[asyncio.Future[memoryview]] = []

    @property
    def wanted(self) -> bool:
        """Whether anybody waits for this blob."""
        return bool(self._waiters)

    @property
    def complete(self) -> bool:
        return not self.missing

    @property
    def view(self) -> memoryview:
        """The content so far; bytes of missing chunks are zero."""
        return self._view.toreadonly()

    def chunk(self, index: int) -> memoryview:
        """One chunk's bytes, in place."""
        start = index * self.ref.chunk_size(0)
        return self.view[start : start + self.ref.chunk_size(index)]

    def has(self, index: int) -> bool:
        return 0 <= index < self.ref.chunks and index not in self.missing

    def set_header(self, hashes: bytes) -> bool:
        """Take the chunk hashes; False if they do not belong to this blob's name."""
        if self.hashes is None:
            try:
                if blob_ref(self.ref.size, hashes).id != self.ref.id:
                    return False
            except WireError:
                return False
            self.hashes = hashes
        return True

    def put(self, index: int, data: memoryview, now: float) -> Stored:
        """Store a chunk if it is missing and right, and tell the listeners. Needs the header."""
        if self.hashes is None or not 0 <= index < self.ref.chunks:
            return Stored.WRONG
        if index not in self.missing:
            return Stored.DUPLICATE
        expected = self.hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]
        if len(data) != self.ref.chunk_size(index) or chunk_hash(data) != expected:
            return Stored.WRONG
        start = index * self.ref.chunk_size(0)
        self._view[start : start + len(data)] = data
        self.missing.discard(index)
        self.lost.discard(index)
        self.touched = now
        for listener in list(self._listeners):
            listener(self, index)
        return Stored.KEPT

    def listen(self, listener: Callable[[Assembly, int], None]) -> None:
        """Call `listener(assembly, index)` for every chunk from now on, and with index -1 when the assembly ends."""
        self._listeners.append(listener)

    async def wait(self) -> memoryview:
        """The whole blob, when it is here. Raises what `end` was given."""
        waiter: asyncio.Future[memoryview] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            return await waiter
        finally:
            self._waiters.remove(waiter)

    def end(self, outcome: memoryview | EdgeflError) -> None:
        """Complete, or given up: tell everybody who waits or listens."""
        self.ended = True
        for waiter in self._waiters:
            if not waiter.done():
                if isinstance(outcome, EdgeflError):
                    waiter.set_exception(outcome)
                else:
                    waiter.set_result(outcome)
        for listener in self._listeners:
            listener(self, -1)
        self._listeners.clear()


def _pages(size: int) -> memoryview:
    """Anonymous memory: only taken when it is written, and given back to the system as a whole."""
    if not size:
        return memoryview(bytearray())
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size >= HUGE_PAGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(pages)
