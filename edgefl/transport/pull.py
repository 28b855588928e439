"""Asking for a blob: the header and what is missing, from one source after the other.

    BlobGet(header, first, count) ->  <- BlobHeader + hashes
                                      <- BlobChunk + bytes, one each
                                      <- BlobMissing

At most MAX_CHUNKS_PER_GET chunks are asked for and not yet here: the credit that keeps a link busy without holding up
the control messages that share it. Every chunk is checked on arrival. A source that sends a wrong header or chunk is
not asked again for this blob; one that has nothing, stays silent or goes away makes room for the next. When all have
been asked in vain there is a pause, and they are asked again, a few times, and with them other members of the
application: a blob is named by its content, so anybody who has it will do.

A blob that is being pushed is asked for only once patience runs out, and then from its end backwards, where the push
will come last; chunks that are known to be lost are asked for at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

import zmq

from edgefl.errors import TryAgainError, UnreachableError, WireError
from edgefl.transport.assembly import Assembly, Stored
from edgefl.transport.blobs import Blobs
from edgefl.transport.dial import Station
from edgefl.wire.blob import MAX_BLOB_BYTES, BlobRef, blob_ref
from edgefl.wire.codec import Message
from edgefl.wire.contact import Contact
from edgefl.wire.link import MAX_CHUNKS_PER_GET, BlobChunk, BlobGet, BlobHeader, BlobMissing

MAX_ROUNDS = 5
"""Times that all sources are asked in vain before a fetch fails: with the pauses between, about 15 s."""

MAX_SOURCES = 16
"""Sources of one blob that are remembered."""


class Pull:
    """The asking for one assembly. Works through events and one timer; ends with its assembly."""

    def __init__(
        self,
        assembly: Assembly,
        blobs: Blobs,
        station: Station,
        send: Callable[[Contact, Message], None],
        members_of: Callable[[int], Sequence[Contact]],
    ) -> None:
        self._members_of = members_of
        self.assembly = assembly
        self._blobs = blobs
        self._station = station
        self._send = send
        self._sources: list[Contact] = []
        self._liars: set[int] = set()
        self._current = 0
        self._asked: set[int] = set()
        self._header_asked = False
        self._heard = 0.0
        self._rounds = 0
        self._resume_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        assembly.listen(self._on_progress)

    def add_sources(self, sources: Iterable[Contact]) -> None:
        """More devices that may have the blob."""
        known = {source.node_id for source in self._sources} | {self._station.keys.node_id}
        for source in sources:
            if source.node_id not in known and len(self._sources) < MAX_SOURCES:
                self._sources.append(source)
                known.add(source.node_id)

    def pump(self) -> None:
        """Ask for whatever should be asked for now, and look again when something is due."""
        if self.assembly.ended or self.assembly.complete or self.assembly.resuming:
            return
        now = self._station.clock()
        if self._source() is None and now >= self.assembly.patience_until:
            self._widen()
        if self.asking and now - self._heard >= self._station.timing.pull_stall:
            self._next_source()
        source = self._source()
        if source is None:
            if now >= self.assembly.patience_until:
                self._fail()
            else:
                self._look_again(self.assembly.patience_until)
            return
        if now >= self._resume_at:
            self._ask(source, now)
        due = [self._resume_at] if now < self._resume_at else []
        if self.asking:
            due.append(self._heard + self._station.timing.pull_stall)
        if now < self.assembly.patience_until:
            due.append(self.assembly.patience_until)
        if due:
            self._look_again(min(due))

    def on_message(self, node_id: int, message: Message, bulk: zmq.Frame | None) -> None:
        """Something about this blob from a peer."""
        if self.assembly.ended or node_id in self._liars or all(source.node_id != node_id for source in self._sources):
            self._station.counters["dropped.unsolicited"] += 1
            return
        if isinstance(message, BlobMissing):
            source = self._source()
            if source is not None and source.node_id == node_id and self.asking:
                self._next_source()
        elif isinstance(message, BlobHeader) and bulk is not None:
            news = self.assembly.hashes is None
            if not self.assembly.set_header(bulk.bytes):
                self._lied(node_id)
            else:
                self._heard = self._station.clock()
                if news:
                    self._blobs.index.fill(self.assembly, asyncio.get_running_loop())
        elif isinstance(message, BlobChunk) and bulk is not None:
            stored = self.assembly.put(message.index, bulk.buffer, self._station.clock())
            if stored is Stored.WRONG and self.assembly.hashes is not None:
                self._lied(node_id)
            elif stored is Stored.DUPLICATE:
                self._station.counters["blobs.duplicate"] += 1
            elif stored is Stored.KEPT:
                self._station.counters["blobs.pulled"] += 1
                self._heard = self._station.clock()
        self.pump()

    def on_link_lost(self, node_id: int) -> None:
        """This peer cannot be reached (any more)."""
        source = self._source()
        if source is not None and source.node_id == node_id and self.asking and not self.assembly.ended:
            self._next_source()
            self.pump()

    @property
    def asking(self) -> bool:
        """Whether an answer is to come."""
        return bool(self._asked) or (self._header_asked and self.assembly.hashes is None)

    def _source(self) -> Contact | None:
        honest = [source for source in self._sources if source.node_id not in self._liars]
        return honest[self._current % len(honest)] if honest else None

    def _ask(self, source: Contact, now: float) -> None:
        assembly = self.assembly
        patient = now < assembly.patience_until
        header = assembly.hashes is None and not self._header_asked and (not patient or assembly.header_lost)
        if assembly.hashes is None and not header:
            return
        room = MAX_CHUNKS_PER_GET - len(self._asked)
        wanted = (assembly.lost if patient else assembly.missing) - self._asked - assembly.local
        # Asking for one chunk at a time would double the number of messages: wait for half of the credit.
        too_few = not wanted or (room < MAX_CHUNKS_PER_GET // 2 and len(wanted) > room)
        if room <= 0 or (too_few and not header):
            return
        chosen = sorted(wanted, reverse=assembly.pushed and not patient)[:room]
        if not self.asking:
            self._heard = now
        for first, count in _runs(chosen) or [(0, 0)]:
            self._send(source, BlobGet(assembly.ref.id, first, count, header))
            header = False
        self._header_asked = True
        self._asked.update(chosen)

    def _next_source(self) -> None:
        self._asked.clear()
        self._header_asked = False
        self._current += 1
        honest = max(1, len(self._sources) - len(self._liars))
        if self._current % honest == 0:
            self._rounds += 1
            self._widen()
            if self._rounds >= MAX_ROUNDS and self._station.clock() >= self.assembly.patience_until:
                self._fail()
                return
            pause = self._station.timing.pull_retry * 2.0 ** min(self._rounds - 1, MAX_ROUNDS)
            self._resume_at = self._station.clock() + pause

    def _widen(self) -> None:
        """The sources that were named have failed: any other member that has the blob will do."""
        for app in self.assembly.apps:
            self.add_sources(self._members_of(app))

    def _lied(self, node_id: int) -> None:
        self._blobs.blame.peer(node_id, self._station.clock())
        self._liars.add(node_id)
        self._asked.clear()
        self._header_asked = False

    def _fail(self) -> None:
        name = str(self.assembly.ref)
        if self._liars and self._source() is None:
            error: UnreachableError | WireError | TryAgainError = WireError(
                f"every source of blob {name} sent wrong data"
            )
        elif self._sources:
            error = TryAgainError(f"none of {len(self._sources)} sources has sent blob {name}", hint="try again later")
        else:
            error = UnreachableError(f"nobody is known who has blob {name}")
        self._blobs.give_up(self.assembly, error)

    def _on_progress(self, assembly: Assembly, index: int) -> None:
        """A chunk has come from anywhere, or (-1) the assembly has ended."""
        if index < 0:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            return
        self._asked.discard(index)
        self._rounds = 0
        if assembly.complete:
            # Later: the chunk is still being passed on to other listeners.
            asyncio.get_running_loop().call_soon(self._blobs.arrived, assembly)

    def _look_again(self, at: float) -> None:
        if self._timer is not None:
            if self._timer.when() <= at:
                return  # soon enough: a push puts it off with every chunk
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.pump()


class Pulls:
    """All blobs that are being asked for."""

    def __init__(
        self,
        blobs: Blobs,
        station: Station,
        send: Callable[[Contact, Message], None],
        members_of: Callable[[int], Sequence[Contact]],
    ) -> None:
        self._members_of = members_of
        self._blobs = blobs
        self._station = station
        self._send = send
        self._pulls: dict[bytes, Pull] = {}
        blobs.on_resumed = self._on_resumed

    def of(self, assembly: Assembly, sources: Iterable[Contact] = ()) -> Pull:
        """The pull of an assembly, begun if need be, with these sources as well."""
        pull = self._pulls.get(assembly.ref.id)
        if pull is None:
            pull = self._pulls[assembly.ref.id] = Pull(
                assembly, self._blobs, self._station, self._send, self._members_of
            )
            assembly.listen(self._on_progress)
        pull.add_sources(sources)
        return pull

    async def fetch(
        self, ref: BlobRef, sources: Sequence[Contact], *, app: int | None = None, pushed_soon: bool, max_bytes: int
    ) -> memoryview:
        """The blob, from here, from a push that is under way, or from one of `sources`.

        `pushed_soon`: a parent will push it, so wait a little before asking. Raises WireError (larger than `max_bytes`,
        or all sources lied), UnreachableError (no source), TryAgainError (none of them had it).
        """
        if ref.size > min(max_bytes, MAX_BLOB_BYTES):
            raise WireError(f"blob {ref} has {ref.size} bytes, more than {max_bytes}")
        if ref.size == 0:
            if blob_ref(0, b"") != ref:
                raise WireError(f"blob {ref} cannot be empty")
            return memoryview(b"")
        held = None if self._blobs.assembly(ref.id) else await self._blobs.find(ref.id)
        while (held := held or self._blobs.peek(ref.id)) is None:  # it may have been pushed while we waited
            now = self._station.clock()
            known = self._blobs.assembly(ref.id)
            if known is None and not sources and not pushed_soon:
                raise UnreachableError(f"blob {ref} is not here, and nobody is known who has it")
            assembly = self._blobs.open(ref, now, wanted=True)
            if assembly is None:
                await self._blobs.room()
                continue
            if known is None and pushed_soon:
                assembly.patience_until = now + self._station.timing.patience
            if app is not None:
                assembly.apps.add(app)
            pull = self.of(assembly, sources)
            asyncio.get_running_loop().call_soon(pull.pump)  # once we wait, so that the blob counts as wanted
            try:
                return await assembly.wait()
            finally:
                if not assembly.wanted and not assembly.pushed:  # cancelled, and nobody else cares
                    self._blobs.give_up(assembly, TryAgainError("nobody waits for it"))
        if held.ref != ref:
            raise WireError(f"blob {ref} has {held.ref.size} bytes, not {ref.size}")
        held.loose = False
        return held.view

    def on_message(self, node_id: int, message: BlobHeader | BlobChunk | BlobMissing, bulk: zmq.Frame | None) -> None:
        pull = self._pulls.get(message.blob)
        if pull is None:
            self._station.counters["dropped.unsolicited"] += 1
        else:
            pull.on_message(node_id, message, bulk)

    def on_link_lost(self, node_id: int) -> None:
        for pull in list(self._pulls.values()):
            pull.on_link_lost(node_id)

    def _on_resumed(self, assembly: Assembly) -> None:
        """What a file has of it is known."""
        pull = self._pulls.get(assembly.ref.id)
        if pull is not None:
            pull.pump()

    def _on_progress(self, assembly: Assembly, index: int) -> None:
        if index < 0:
            self._pulls.pop(assembly.ref.id, None)


def _runs(indexes: list[int]) -> list[tuple[int, int]]:
    """Consecutive indexes as (first, count), whichever way they are sorted."""
    runs: list[tuple[int, int]] = []
    for index in indexes:
        if runs and index == runs[-1][0] + runs[-1][1]:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        elif runs and index == runs[-1][0] - 1:
            runs[-1] = (index, runs[-1][1] + 1)
        else:
            runs.append((index, 1))
    return runs
