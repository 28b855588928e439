"""Arriving blobs on disk: after a kill, a fetch goes on with what has been written.

Who waits for a blob longer than Timing.write_after has it written to a file, chunk by chunk as they arrive; what comes
faster than that is fetched again sooner than an SD card would be worth its wear. A blob that is larger than the share
of memory for arriving blobs is written from the start, and its chunks leave memory as they are written: they are read
from the file's mapping from then on, which the kernel may drop.

    opened  -> a file of an earlier fetch, if there is one: its chunks are hashed, and what is right counts as arrived
    look    -> what is here is written, then each chunk as it comes, in batches, on the executor, one at a time
    done    -> the file stays for as long as the blob is held
    given_up, or the process has ended -> it stays for IDLE_S, for whoever asks for the blob again

A full disk costs nothing but this: the blob goes on arriving in memory, with a warning. What a slow one has not taken
shortly after the last chunk stays in memory as well, unless there is no room for it. Nothing is synced, and what a file
has is believed once it was hashed.
"""

from __future__ import annotations

import asyncio
import logging
import math
import mmap
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol

from edgefl.errors import EdgeflError
from edgefl.transport.assembly import Assembly
from edgefl.transport.blame import Blame
from edgefl.transport.counters import Counters, Notices
from edgefl.wire.blob import BlobRef

log = logging.getLogger(__name__)

BATCH_CHUNKS = 16
"""Chunks written or hashed before somebody else gets the disk: 4 MiB, half a second of a slow SD card."""

IDLE_S = 900.0
"""A file that nobody asks for goes after this: a device that was restarted hears of its round within seconds, and one
that lost its network tries again within minutes."""

MAX_IDLE = 16
"""Such files; their bytes are bounded by the share for arriving blobs (a single larger one stays, alone)."""


class Partial(Protocol):
    """A file of one arriving blob. Every method but `close` may block, and raises StorageError."""

    ref: BlobRef
    hashes: bytes
    view: memoryview
    """The content so far, read-only; valid after `close` and `PartialFiles.remove`."""

    def marked(self) -> list[int]:
        """The chunks that were written, as far as anybody knows."""
        ...

    def write(self, chunks: Iterable[tuple[int, memoryview]]) -> None: ...

    def check(self, indexes: Iterable[int]) -> list[int]:
        """Hash these chunks; those that are wrong, which are not marked any more."""
        ...

    def close(self) -> None: ...


class PartialFiles(Protocol):
    """Where such files are. Every method may block, and raises StorageError."""

    def partials(self) -> Sequence[tuple[bytes, int]]:
        """Names and sizes of the blobs that an earlier process has left, the newest last."""
        ...

    def open_partial(self, blob_id: bytes) -> Partial | None: ...

    def begin_partial(self, ref: BlobRef, hashes: bytes) -> Partial | None:
        """A file for this blob; None where there are none at all."""
        ...

    def remove(self, blob_id: bytes) -> None: ...


class _Landing:
    """One blob with a file, or about to have one."""

    def __init__(self) -> None:
        self.partial: Partial | None = None
        self.work: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        return self.work is not None and not self.work.done()

    async def rest(self, timeout_s: float = math.inf) -> None:
        """Wait until nothing is being done with the file, or until the time is over."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while self.work is not None and not self.work.done() and (left_s := until - loop.time()) > 0.0:
            await asyncio.wait([self.work], timeout=left_s if math.isfinite(left_s) else None)


class WriteThrough:
    """The files of one device's arriving blobs.

    `off_loop` runs a function on the executor, `soon` a coroutine in the background (it is awaited before the daemon
    ends). `on_resumed(assembly)` is called when it is known what a file has, and again when all of that was hashed.
    """

    def __init__(
        self,
        files: PartialFiles,
        off_loop: Callable[..., Awaitable[Any]],
        soon: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        blame: Blame,
        counters: Counters,
        on_resumed: Callable[[Assembly], None],
        *,
        idle_bytes: int,
        after_s: float,
        wait_s: float,
    ) -> None:
        self._files = files
        self._off_loop = off_loop
        self._soon = soon
        self._blame = blame
        self._counters = counters
        self._on_resumed = on_resumed
        self._idle_bytes = idle_bytes
        self._after_s = after_s
        self._wait_s = wait_s
        self._landings: dict[bytes, _Landing] = {}
        self._leaving: dict[bytes, asyncio.Task[None]] = {}
        self._idle: dict[bytes, tuple[int, float]] = {}
        self._notices = Notices(log)

    async def start(self, now: float) -> None:
        """See what an earlier process has left."""
        try:
            for blob_id, size in await self._off_loop(self._files.partials):
                self._wait(blob_id, size, now)
        except EdgeflError as error:
            log.warning("what was fetched before cannot be read: %s", error.cause)

    def claim(self, blob_id: bytes) -> bool:
        """Whether an earlier fetch has left a file of this blob; it belongs to the caller from now on."""
        return self._idle.pop(blob_id, None) is not None

    def opened(self, assembly: Assembly) -> None:
        """A blob begins to arrive, maybe for the second time."""
        assembly.listen(self._on_progress)
        if self.claim(assembly.ref.id) or assembly.ref.id in self._leaving:
            assembly.resuming = True
            landing = self._landings[assembly.ref.id] = _Landing()
            landing.work = self._soon(self._resume(assembly, landing))

    def look(self, assembly: Assembly, now: float) -> None:
        """Begin to write it, if it is worth it by now. Call about once a second."""
        due = assembly.to_file or now - assembly.began >= self._after_s
        if due and assembly.wanted and assembly.hashes and assembly.ref.id not in self._landings:
            landing = self._landings[assembly.ref.id] = _Landing()
            landing.work = self._soon(self._begin(assembly, landing))

    async def settle(self, assembly: Assembly) -> tuple[memoryview, bool]:
        """The content of a blob of which every chunk has arrived, and whether a file has it."""
        landing = self._landings.get(assembly.ref.id)
        if landing is not None:
            await landing.rest(math.inf if assembly.outsized else self._wait_s)
            if landing.busy:  # a slow card, or one that hangs: nobody waits for it
                self._counters["blobs.not-written"] += 1
                assembly.leave_file()
                return await asyncio.to_thread(assembly.gather), False
        view = assembly.in_file
        if view is not None:
            return view, True
        return await self._off_loop(assembly.gather), False

    def done(self, assembly: Assembly, *, kept: bool) -> None:
        """The blob is here; `kept`: in its file, which its holder removes in the end."""
        landing = self._landings.pop(assembly.ref.id, None)
        if landing is not None:
            self._soon(self._close(assembly, landing, kept))

    def given_up(self, assembly: Assembly) -> None:
        """The blob will not come now: write what is here for the next time."""
        landing = self._landings.pop(assembly.ref.id, None)
        if landing is not None:
            self._leaving[assembly.ref.id] = self._soon(self._leave(assembly, landing))

    def sweep(self, now: float) -> None:
        """Let go of pages, remove files that nobody has asked for. Call about once a second."""
        for landing in self._landings.values():
            if landing.partial is not None:
                unload(landing.partial.view)
        for blob_id, (_, since) in list(self._idle.items()):
            if now - since > IDLE_S:
                self._remove_idle(blob_id)

    def _on_progress(self, assembly: Assembly, index: int) -> None:
        landing = self._landings.get(assembly.ref.id)
        if index < 0:
            return
        if landing is None:
            if assembly.to_file:
                self.look(assembly, assembly.touched)
        elif landing.partial is not None and not landing.busy:
            landing.work = self._soon(self._write(assembly, landing, landing.partial))

    async def _resume(self, assembly: Assembly, landing: _Landing) -> None:
        blob_id = assembly.ref.id
        if (leaving := self._leaving.get(blob_id)) is not None:
            await asyncio.wait([leaving])
            self.claim(blob_id)
        try:
            partial = landing.partial = await self._off_loop(self._files.open_partial, blob_id)
            claimed = [] if partial is None else await self._off_loop(partial.marked)
        except EdgeflError as error:
            self._fail(assembly, landing, error)
            partial, claimed = None, []
        assembly.resuming = False
        if assembly.ended:
            return
        if partial is None:
            del self._landings[blob_id]
        else:
            assembly.set_header(partial.hashes)
            claimed = [index for index in claimed if index in assembly.missing]
            assembly.local.update(claimed)
            assembly.land(partial.view)
            landing.work = self._soon(self._take_up(assembly, landing, partial, claimed))
        self._on_resumed(assembly)

    async def _take_up(self, assembly: Assembly, landing: _Landing, partial: Partial, claimed: list[int]) -> None:
        """Count what is right."""
        try:
            for at in range(0, len(claimed), BATCH_CHUNKS):
                batch = claimed[at : at + BATCH_CHUNKS]
                wrong = await self._off_loop(partial.check, batch)
                if assembly.ended:
                    return
                now = asyncio.get_running_loop().time()
                for index in batch:
                    assembly.local.discard(index)
                    if index not in wrong:
                        self._counters["blobs.resumed"] += assembly.found(index, now)
                    elif index in assembly.missing:
                        assembly.lost.add(index)
                        self._blame.disk(now)
            self._on_resumed(assembly)
            await self._write(assembly, landing, partial)
        except EdgeflError as error:
            assembly.local.difference_update(claimed)
            self._fail(assembly, landing, error)
            self._on_resumed(assembly)

    async def _begin(self, assembly: Assembly, landing: _Landing) -> None:
        try:
            partial = await self._off_loop(self._files.begin_partial, assembly.ref, assembly.hashes)
            if partial is None:
                assembly.leave_file()
                return  # its landing stays, so that this is tried once
            landing.partial = partial
            if not assembly.ended:
                assembly.land(partial.view)
        except EdgeflError as error:
            self._fail(assembly, landing, error)
        else:
            await self._write(assembly, landing, partial)

    async def _write(self, assembly: Assembly, landing: _Landing, partial: Partial) -> None:
        """Write what is here and not yet written."""
        try:
            while chunks := assembly.unwritten(BATCH_CHUNKS):
                await self._off_loop(partial.write, chunks)
                assembly.written([index for index, _ in chunks])
        except EdgeflError as error:
            self._fail(assembly, landing, error)

    async def _leave(self, assembly: Assembly, landing: _Landing) -> None:
        """Write the rest, and let the file wait."""
        blob_id = assembly.ref.id
        await landing.rest()
        if landing.partial is not None:
            await self._write(assembly, landing, landing.partial)
        if landing.partial is not None:
            landing.partial.close()
            self._wait(blob_id, assembly.ref.size, asyncio.get_running_loop().time())
        if self._leaving.get(blob_id) is asyncio.current_task():
            del self._leaving[blob_id]

    async def _close(self, assembly: Assembly, landing: _Landing, kept: bool) -> None:
        await landing.rest()
        if landing.partial is not None:
            landing.partial.close()
            if not kept:
                await self._remove(assembly.ref.id)

    def _fail(self, assembly: Assembly, landing: _Landing, error: EdgeflError) -> None:
        """The disk does not take it: go on in memory. The landing stays, so that this is tried once."""
        assembly.leave_file()
        self._counters["blobs.not-written"] += 1
        text = "a blob of %d bytes arrives in memory, and from its beginning if this daemon ends before: %s (next: %s)"
        now = asyncio.get_running_loop().time()
        self._notices.say("disk", now, text, assembly.ref.size, error.cause, error.hint)
        if landing.partial is not None:
            landing.partial.close()
            landing.partial = None
        self._soon(self._remove(assembly.ref.id))

    def _wait(self, blob_id: bytes, size: int, now: float) -> None:
        """This file waits for somebody who asks for its blob."""
        self._idle[blob_id] = size, now
        while len(self._idle) > 1 and (
            len(self._idle) > MAX_IDLE or sum(size for size, _ in self._idle.values()) > self._idle_bytes
        ):
            self._remove_idle(next(iter(self._idle)))

    def _remove_idle(self, blob_id: bytes) -> None:
        del self._idle[blob_id]
        self._soon(self._remove(blob_id))

    async def _remove(self, blob_id: bytes) -> None:
        await self._off_loop(self._files.remove, blob_id)


def unload(view: memoryview) -> None:
    """Let the mapping of a file go of its pages: they stay in the kernel's cache for as long as it has room, and count
    as ours no more. Whoever reads them gets them back."""
    if isinstance(view.obj, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        view.obj.madvise(mmap.MADV_DONTNEED)
