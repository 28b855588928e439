"""A blob that is arriving, chunk by chunk, each checked against its hash before it counts.

Chunks come from two sides at once: pushed by the parent (feeds.py) and pulled from sources (pull.py). Whatever arrives
first is kept and passed on at once by whoever listens. `patience_until` and `lost` are how the two sides agree: as long
as a push is expected, only what is known to be lost is pulled. `local` chunks are being copied from blobs at hand
(reuse.py) or checked in a file (write_through.py); while it is `resuming`, that is not known yet, and nothing is
pulled. `apps` are the applications that it arrives for.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum

from edgefl.errors import EdgeflError, WireError
from edgefl.wire.blob import CHUNK_BYTES, HASH_BYTES, BlobRef, blob_ref, chunk_hash

HUGE_PAGE_BYTES = 2 * 1024 * 1024
"""A large page on most machines: 25 MB in small ones are 6,000 page faults, a fifth of all that receiving costs."""


class Stored(Enum):
    """What became of a chunk."""

    KEPT = 0
    DUPLICATE = 1
    WRONG = 2


class Assembly:
    """One arriving blob of known name and size. The header (its chunk hashes) may still be missing.

    A chunk is in one of three places: in `pages`, the blob's own memory; in the frame in which it came, if it is to be
    written to a file (`to_file`, write_through.py); in that file, once it was written.
    """

    def __init__(self, ref: BlobRef, now: float, *, outsized: bool = False) -> None:
        """`outsized`: larger than the memory for arriving blobs; it goes to a file from the start."""
        self.ref = ref
        self.outsized = outsized
        self.hashes: bytes | None = None
        self.missing: set[int] = set(range(ref.chunks))
        self.lost: set[int] = set()
        self.local: set[int] = set()
        self.header_lost = False
        self.apps: set[int] = set()
        self.pushed = False
        self.patience_until = 0.0
        self.began = self.touched = now
        self.ended = False
        self.resuming = False
        self.to_file = outsized
        self._pages = memoryview(b"") if outsized else _pages(ref.size)
        self._frames: dict[int, memoryview] = {}
        self._file = memoryview(b"")
        self._in_file: set[int] = set()
        self._unwritten: deque[int] = deque()
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
    def landing(self) -> bool:
        """Whether some of it is not in its own memory."""
        return self.to_file or bool(self._frames) or bool(self._in_file)

    @property
    def pages(self) -> memoryview:
        """The content, read-only, unless it is `landing`; bytes of missing chunks are zero."""
        return self._pages.toreadonly()

    @property
    def in_file(self) -> memoryview | None:
        """The content, read-only, if every chunk is in the file."""
        return self._file if len(self._in_file) == self.ref.chunks else None

    def chunk(self, index: int) -> memoryview:
        """One chunk's bytes, in place."""
        frame = self._frames.get(index)
        if frame is not None:
            return frame
        return self._slice(self._file if index in self._in_file else self._pages, index).toreadonly()

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
        """Keep a chunk if it is missing and right, and tell the listeners. Needs the header. `data` must not change."""
        if self.hashes is None or not 0 <= index < self.ref.chunks:
            return Stored.WRONG
        if index not in self.missing:
            return Stored.DUPLICATE
        expected = self.hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]
        if len(data) != self.ref.chunk_size(index) or chunk_hash(data) != expected:
            return Stored.WRONG
        if self.to_file:
            self._frames[index] = data.toreadonly()
            self._unwritten.append(index)
        else:
            self._slice(self._pages, index)[:] = data
        self._arrived(index, now)
        return Stored.KEPT

    # With a file

    def land(self, file: memoryview) -> None:
        """From now on chunks go to the file that is mapped here; those that came before are to be written, too."""
        self._file = file
        if not self.to_file:
            self._unwritten.extend(index for index in range(self.ref.chunks) if self.has(index))
        self.to_file = True

    def found(self, index: int, now: float) -> bool:
        """This chunk is in the file, and right. False if it had arrived before."""
        if index not in self.missing:
            return False
        self._in_file.add(index)
        self._arrived(index, now)
        return True

    def unwritten(self, limit: int) -> list[tuple[int, memoryview]]:
        """The next chunks to write, taken from the list."""
        indexes = [self._unwritten.popleft() for _ in range(min(limit, len(self._unwritten)))]
        return [(index, self.chunk(index)) for index in indexes]

    def written(self, indexes: Iterable[int]) -> None:
        """These chunks are in the file."""
        for index in indexes:
            self._in_file.add(index)
            self._frames.pop(index, None)

    def leave_file(self) -> None:
        """The file takes no more (it can still be read): what comes from now on stays in memory."""
        self._unwritten.clear()
        self.to_file = False
        if not self._pages:
            self._pages = _pages(self.ref.size)

    def gather(self) -> memoryview:
        """Bring everything into memory of its own, chunk by chunk, and give it. Takes its time: not on the loop."""
        if not self._pages:
            self._pages = _pages(self.ref.size)
        for index in {*self._frames, *self._in_file}:
            self._slice(self._pages, index)[:] = self.chunk(index)
            self._in_file.discard(index)  # the loop reads at the same time: only now
            self._frames.pop(index, None)
        return self.pages

    def _slice(self, whole: memoryview, index: int) -> memoryview:
        start = index * CHUNK_BYTES
        return whole[start : start + self.ref.chunk_size(index)]

    def _arrived(self, index: int, now: float) -> None:
        self.missing.discard(index)
        self.lost.discard(index)
        self.touched = now
        for listener in list(self._listeners):
            listener(self, index)

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
