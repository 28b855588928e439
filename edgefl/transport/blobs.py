"""Blobs on this device: a bounded cache in memory, files behind it, and those that are still arriving.

    add      a blob made here                              -> cache
    arrive   an assembly that is complete (assembly.py)    -> cache; written to a file meanwhile (write_through.py)
    find     cache, else files, where the content is checked against its name before anybody sees it
    discard  forget it everywhere

The cache holds what was added or fetched until it is discarded. Beyond its limit the least recently used blobs move to
the file store, if there is one; blobs that were pushed and never asked for, or that are on disk already, go first.
Files are only touched on the executor: an SD card may take seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar

from edgefl.declared import dataclass
from edgefl.errors import EdgeflError, TryAgainError
from edgefl.transport.assembly import Assembly
from edgefl.transport.blame import Blame
from edgefl.transport.counters import Counters
from edgefl.transport.limits import Limits
from edgefl.transport.reuse import ChunkIndex
from edgefl.transport.timing import Timing
from edgefl.transport.write_through import Partial, PartialFiles, WriteThrough, unload
from edgefl.wire.blob import CHUNK_BYTES, BlobRef, blob_ref, hash_chunks

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)

MAX_ASSEMBLIES = 64
"""Arriving blobs, however small."""

LOOSE_S = 30.0
"""A pushed blob that nobody asks for is dropped after this, whole or not: a round asks for its model at once."""

INLINE_HASH_BYTES = 2 * CHUNK_BYTES
"""Hashing this much takes 2 ms on a small device; more goes to the executor."""


class BlobFiles(PartialFiles, Protocol):
    """A store of blobs on disk. Every method may block: they are called on the executor."""

    def get(self, blob_id: bytes) -> memoryview | None:
        """The content of a blob that is whole, or None. It is checked by the caller."""
        ...

    def put(self, blob_id: bytes, data: memoryview) -> None:
        """Keep the content. Raises StorageError."""
        ...

    def remove(self, blob_id: bytes) -> None:
        """Forget what `put` and `begin_partial` have kept; anything else stays."""
        ...


class NoFiles:
    """A device without room on disk: beyond the cache's limit the least recently used blob is lost."""

    def get(self, blob_id: bytes) -> memoryview | None:
        return None

    def put(self, blob_id: bytes, data: memoryview) -> None:
        raise TryAgainError("no file store")

    def partials(self) -> Sequence[tuple[bytes, int]]:
        return ()

    def open_partial(self, blob_id: bytes) -> Partial | None:
        return None

    def begin_partial(self, ref: BlobRef, hashes: bytes) -> Partial | None:
        return None

    def remove(self, blob_id: bytes) -> None:
        return


@dataclass(slots=True, eq=False)
class Held:
    """A whole blob at hand. `loose`: pushed to us, nobody has asked for it `since` then. `on_disk`: files have it."""

    ref: BlobRef
    hashes: bytes
    view: memoryview
    loose: bool = False
    since: float = 0.0
    on_disk: bool = False

    def chunk(self, index: int) -> memoryview:
        return self.view[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]

    def has(self, index: int) -> bool:
        return 0 <= index < self.ref.chunks


class Blobs:
    """The blobs of one device."""

    def __init__(
        self,
        files: BlobFiles,
        executor: Executor,
        counters: Counters,
        blame: Blame,
        limits: Limits,
        timing: Timing,
    ) -> None:
        self.on_resumed: Callable[[Assembly], None] = lambda assembly: None
        self.index = ChunkIndex()
        self.blame = blame
        self._files = files
        self._executor = executor
        self._counters = counters
        self._limits = limits
        self._held: dict[bytes, Held] = {}
        self._moving: dict[bytes, Held] = {}
        self._spilled: set[bytes] = set()
        self._loading: dict[bytes, asyncio.Task[Held | None]] = {}
        self._assemblies: dict[bytes, Assembly] = {}
        self._room: list[asyncio.Future[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.cached_bytes = 0
        self.arriving_bytes = 0
        self._write_through = WriteThrough(
            files,
            self._off_loop,
            self._soon,
            blame,
            counters,
            self._on_resumed,
            idle_bytes=limits.assembly_bytes,
            after_s=timing.write_after,
            wait_s=timing.disk_wait,
        )

    async def start(self, now: float) -> None:
        """Find what an earlier process has left."""
        await self._write_through.start(now)

    # Whole blobs

    async def add(self, data: bytes | bytearray | memoryview) -> BlobRef:
        """Hold this content, which must not change any more, and return its name."""
        view = memoryview(data).cast("B").toreadonly()
        if len(view) <= INLINE_HASH_BYTES:
            hashes = hash_chunks(view)
        else:
            hashes = await self._off_loop(hash_chunks, view)
        held = Held(blob_ref(len(view), hashes), hashes, view)
        self._hold(held)
        assembly = self._assemblies.get(held.ref.id)
        if assembly is not None:
            self._end(assembly, held.view)
        return held.ref

    def peek(self, blob_id: bytes) -> Held | None:
        """The blob, if it is in memory."""
        held = self._held.pop(blob_id, None)
        if held is not None:
            self._held[blob_id] = held  # most recently used last
        return held or self._moving.get(blob_id)

    async def find(self, blob_id: bytes) -> Held | None:
        """The blob, from memory or from the files. Raises StorageError."""
        held = self.peek(blob_id)
        if held is None:
            task = self._loading.get(blob_id)
            if task is None:
                task = self._loading[blob_id] = asyncio.ensure_future(self._load(blob_id))
                task.add_done_callback(lambda _: self._loading.pop(blob_id, None))
            held = await asyncio.shield(task)
        return held

    def has(self, blob_id: bytes) -> bool:
        """Whether the blob is in memory, or was moved to the files from there."""
        return self.peek(blob_id) is not None or blob_id in self._spilled

    def discard(self, blob_id: bytes) -> None:
        """Forget a blob. Views of it that were handed out stay valid; a fetch that is under way goes on."""
        held = self._held.pop(blob_id, None)
        if held is not None:
            self._drop(held)
        self._moving.pop(blob_id, None)
        if blob_id in self._spilled:
            self._spilled.discard(blob_id)
            self._soon(self._off_loop(self._files.remove, blob_id))

    # Arriving blobs

    def assembly(self, blob_id: bytes) -> Assembly | None:
        return self._assemblies.get(blob_id)

    def arriving(self, app: int) -> list[Assembly]:
        """What is arriving for an application."""
        return [assembly for assembly in self._assemblies.values() if app in assembly.apps]

    def open(self, ref: BlobRef, now: float, *, wanted: bool) -> Assembly | None:
        """The assembly of a blob, new if need be; None when there is no room now.

        A blob that somebody wants takes the place of pushed ones that nobody has asked for.
        """
        assembly = self._assemblies.get(ref.id)
        if assembly is not None:
            return assembly if assembly.ref == ref else None
        if wanted:
            for other in list(self._assemblies.values()):
                if not self._full(ref.size):
                    break
                if not other.wanted:
                    self.give_up(other, TryAgainError("its place was needed"))
        if self._full(ref.size):
            return None
        assembly = self._assemblies[ref.id] = Assembly(ref, now, outsized=ref.size > self._limits.assembly_bytes)
        self._write_through.opened(assembly)
        self.arriving_bytes += ref.size
        # One that is larger than its share takes it from what is at hand.
        while self.cached_bytes + self.arriving_bytes > self._both_bytes and self._held:
            self._evict(None)
        return assembly

    async def room(self) -> None:
        """Wait until an assembly has ended."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._room.append(waiter)
        try:
            await waiter
        finally:
            self._room.remove(waiter)

    def arrived(self, assembly: Assembly) -> None:
        """Every chunk is here: hold the blob and hand it to everybody who waits."""
        if assembly.ended or assembly.hashes is None:
            return
        if assembly.landing:
            self._soon(self._settle(assembly))
        else:
            self._take(assembly, assembly.pages, on_disk=False)

    async def _settle(self, assembly: Assembly) -> None:
        view, on_disk = await self._write_through.settle(assembly)
        if not assembly.ended:
            self._take(assembly, view, on_disk=on_disk)

    def _take(self, assembly: Assembly, view: memoryview, *, on_disk: bool) -> None:
        if on_disk:
            self._spilled.add(assembly.ref.id)
        loose = not assembly.wanted
        self._hold(Held(assembly.ref, assembly.hashes or b"", view, loose, assembly.touched, on_disk))
        self._end(assembly, view, on_disk=on_disk)

    def give_up(self, assembly: Assembly, error: EdgeflError) -> None:
        """The blob will not come; everybody who waits gets the error."""
        if not assembly.ended:
            self._end(assembly, error)

    def sweep(self, now: float) -> None:
        """Drop pushed blobs that nobody asked for, write others to files. Call about once a second."""
        self._write_through.sweep(now)
        for assembly in list(self._assemblies.values()):
            if not assembly.wanted and now - assembly.touched > LOOSE_S:
                self.give_up(assembly, TryAgainError("nobody asked for it"))
            else:
                self._write_through.look(assembly, now)
        for held in self._held.values():
            if held.on_disk:
                unload(held.view)
        for held in [item for item in self._held.values() if item.loose and now - item.since > LOOSE_S]:
            self.discard(held.ref.id)

    async def close(self) -> None:
        for assembly in list(self._assemblies.values()):
            self.give_up(assembly, TryAgainError("this daemon is stopping"))
        while tasks := [*self._tasks, *self._loading.values()]:
            await asyncio.gather(*tasks, return_exceptions=True)

    # Details

    def _full(self, size: int) -> bool:
        too_many = len(self._assemblies) >= MAX_ASSEMBLIES
        return bool(self._assemblies) and (too_many or self.arriving_bytes + size > self._limits.assembly_bytes)

    def _end(self, assembly: Assembly, outcome: memoryview | EdgeflError, *, on_disk: bool = False) -> None:
        if self._assemblies.pop(assembly.ref.id, None) is not None:
            self.arriving_bytes -= assembly.ref.size
        if isinstance(outcome, EdgeflError):
            self._write_through.given_up(assembly)
        else:
            self._write_through.done(assembly, kept=on_disk)
        assembly.end(outcome)
        for waiter in self._room:
            if not waiter.done():
                waiter.set_result(None)

    def _hold(self, held: Held) -> None:
        known = self._held.pop(held.ref.id, None)
        if known is not None:
            known.loose = known.loose and held.loose
            self._held[held.ref.id] = known
            return
        self._held[held.ref.id] = held
        self.index.add(held)
        self.cached_bytes += held.ref.size
        while self.cached_bytes > self._limits.cache_bytes and len(self._held) > 1:
            self._evict(held)

    @property
    def _both_bytes(self) -> int:
        return self._limits.cache_bytes + self._limits.assembly_bytes

    def _evict(self, newest: Held | None) -> None:
        others = [item for item in self._held.values() if item is not newest]
        victim = next((item for item in others if item.loose or item.on_disk), others[0])
        del self._held[victim.ref.id]
        self._drop(victim)
        if not victim.loose and not victim.on_disk:
            self._moving[victim.ref.id] = victim
            self._soon(self._spill(victim))

    def _drop(self, held: Held) -> None:
        """It has left the cache."""
        self.index.remove(held)
        self.cached_bytes -= held.ref.size

    async def _spill(self, held: Held) -> None:
        blob_id = held.ref.id
        try:
            await self._off_loop(self._files.put, blob_id, held.view)
        except EdgeflError as error:
            self._counters["blobs.evicted"] += 1
            log.error("a blob of %d bytes had to go: memory is full and %s", held.ref.size, error.cause)
        else:
            if blob_id in self._moving:
                self._spilled.add(blob_id)
            else:  # discarded meanwhile
                await self._off_loop(self._files.remove, blob_id)
        self._moving.pop(blob_id, None)

    async def _load(self, blob_id: bytes) -> Held | None:
        found = await self._off_loop(self._read, blob_id)
        present = self.peek(blob_id)
        if present is not None or found is None:
            return present  # it may have been pushed to us while we looked on the disk
        view, hashes = found
        ref = blob_ref(len(view), hashes)
        if ref.id != blob_id:
            self.blame.disk(asyncio.get_running_loop().time())
            return None
        if self._write_through.claim(blob_id):
            self._spilled.add(blob_id)
        held = Held(ref, hashes, view, on_disk=True)
        self._hold(held)
        return held

    def _read(self, blob_id: bytes) -> tuple[memoryview, bytes] | None:
        data = self._files.get(blob_id)
        if data is None:
            return None
        view = memoryview(data).cast("B").toreadonly()
        return view, hash_chunks(view)

    async def _off_loop(self, function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
        call = partial(function, *arguments, **named)
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    def _soon(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _on_resumed(self, assembly: Assembly) -> None:
        if not assembly.ended:
            self.index.fill(assembly, asyncio.get_running_loop())
            self.on_resumed(assembly)
