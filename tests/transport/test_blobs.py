"""Blobs at hand and on request: verified chunk by chunk, from whoever has them, within bounds."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import zmq

from edgefl.errors import StorageError, TryAgainError, UnreachableError, WireError
from edgefl.transport import serve as serve_module
from edgefl.transport.assembly import Assembly, Stored
from edgefl.transport.blame import Blame
from edgefl.transport.blobs import Blobs, NoFiles
from edgefl.transport.limits import Limits
from edgefl.transport.serve import MAX_SERVED_BYTES, MAX_WAITING
from edgefl.wire.blob import CHUNK_BYTES, BlobRef, hash_chunks, ref_of
from edgefl.wire.codec import Message, encode
from edgefl.wire.contact import Contact, node_name
from edgefl.wire.link import MAX_CHUNKS_PER_GET, BlobChunk, BlobGet, BlobHeader
from tests.transport.fleet import FAST, PATIENT, Device, Fleet, asynchronous, run, until
from tests.transport.insider import an_insider

SMALL = os.urandom(3 * CHUNK_BYTES + 17)
MEGABYTES_2 = os.urandom(2_000_000)
NOBODY = Contact(1, "127.0.0.1", 1)


class Disk(NoFiles):
    """A file store in a dictionary; none for what is still arriving."""

    def __init__(self) -> None:
        self.files: dict[bytes, bytes] = {}
        self.full = False

    def get(self, blob_id: bytes) -> memoryview | None:
        data = self.files.get(blob_id)
        return None if data is None else memoryview(data)

    def put(self, blob_id: bytes, data: memoryview) -> None:
        if self.full:
            raise StorageError("the disk is full")
        self.files[blob_id] = bytes(data)

    def remove(self, blob_id: bytes) -> None:
        self.files.pop(blob_id, None)


@pytest.mark.parametrize(
    "data", [b"", b"x", bytes(CHUNK_BYTES), SMALL, MEGABYTES_2], ids=["empty", "one", "chunk", "small", "2MB"]
)
def test_a_blob_is_fetched_whole(data: bytes) -> None:
    async def test(fleet: Fleet) -> None:
        a, b = await fleet.some(2)
        ref = await a.transport.add_blob(data)
        assert ref == ref_of(data)
        got = await b.transport.fetch(ref, [a.contact], max_bytes=len(data))
        assert got == data
        assert got.readonly
        assert b.transport.has_blob(ref) or not data
        again = await b.transport.fetch(ref, [], max_bytes=len(data))
        assert again == data

    run(test)


@asynchronous
async def test_25_megabytes_arrive_once(fleet: Fleet) -> None:
    a, b = await fleet.some(2)
    data = os.urandom(25_000_000)
    ref = await a.transport.add_blob(data)
    got = await b.transport.fetch(ref, [a.contact], max_bytes=len(data))
    assert got == data
    assert b.count("blobs.pulled") == ref.chunks
    assert b.count("bytes_received") < 1.01 * len(data)


@asynchronous
async def test_several_who_want_the_same_blob_share_one_pull(fleet: Fleet) -> None:
    a, b = await fleet.some(2)
    ref = await a.transport.add_blob(MEGABYTES_2)
    fetches = [b.transport.fetch(ref, [a.contact], max_bytes=ref.size) for _ in range(4)]
    assert all(got == MEGABYTES_2 for got in await asyncio.gather(*fetches))
    assert b.count("blobs.pulled") == ref.chunks


@asynchronous
async def test_sources_are_tried_in_turn_until_one_has_it(fleet: Fleet) -> None:
    a, empty, has = await fleet.some(3)
    ref = await has.transport.add_blob(MEGABYTES_2)
    sources = [NOBODY, empty.contact, has.contact]
    assert await a.transport.fetch(ref, sources, max_bytes=ref.size) == MEGABYTES_2


@asynchronous
async def test_who_may_not_have_a_blob_gets_no_answer(fleet: Fleet) -> None:
    """The source decides by the contact that a peer has proved; others get the blob, and the refused one from them."""
    a, b, c = await fleet.some(3)
    ref = await a.transport.add_blob(SMALL)
    asked: list[tuple[int, bytes]] = []

    def may_have(peer: Contact, blob_id: bytes) -> bool:
        asked.append((peer.node_id, blob_id))
        return peer.node_id != b.contact.node_id

    a.transport.may_have = may_have
    assert await c.transport.fetch(ref, [a.contact], max_bytes=len(SMALL)) == SMALL
    before = a.transport.counters["blobs.served"]
    assert await b.transport.fetch(ref, [a.contact, c.contact], max_bytes=len(SMALL)) == SMALL
    assert a.transport.counters["blobs.served"] == before
    assert (b.contact.node_id, ref.id) in asked


@asynchronous
async def test_sources_are_asked_again(fleet: Fleet) -> None:
    """Given sources of which none has the blob yet, when one gets it a moment later, then the fetch succeeds."""
    a, b, c = await fleet.some(3)
    ref = ref_of(MEGABYTES_2)
    fetch = asyncio.ensure_future(a.transport.fetch(ref, [b.contact, c.contact], max_bytes=ref.size))
    await until(lambda: b.count("messages_received") >= 3 and c.count("messages_received") >= 3, "both were asked")
    await c.transport.add_blob(MEGABYTES_2)
    assert await fetch == MEGABYTES_2


@asynchronous
async def test_a_fetch_that_cannot_succeed_says_why(fleet: Fleet) -> None:
    a, b = await fleet.some(2)
    ref = ref_of(MEGABYTES_2)
    with pytest.raises(TryAgainError, match="1 sources"):
        await a.transport.fetch(ref, [b.contact], max_bytes=ref.size)
    with pytest.raises(UnreachableError, match="nobody is known"):
        await a.transport.fetch(ref, [], max_bytes=ref.size)
    with pytest.raises(WireError, match="more than 100"):
        await a.transport.fetch(ref, [b.contact], max_bytes=100)
    with pytest.raises(WireError):
        await a.transport.fetch(BlobRef(bytes(32), 0), [b.contact], max_bytes=100)
    with pytest.raises(WireError):
        await a.transport.fetch(BlobRef(bytes(32), 1 << 40), [b.contact], max_bytes=1 << 50)
    assert a.transport._blobs.arriving_bytes == 0


@asynchronous
async def test_a_source_that_dies_is_replaced_at_once(fleet: Fleet) -> None:
    a, dying, other = await fleet.some(3)
    data = os.urandom(8_000_000)
    ref = await dying.transport.add_blob(data)
    await other.transport.add_blob(data)
    fetch = asyncio.ensure_future(a.transport.fetch(ref, [dying.contact, other.contact], max_bytes=ref.size))
    await until(lambda: a.count("blobs.pulled") >= 2)
    await dying.transport.close()
    assert await fetch == data
    assert other.count("blobs.served") > 0
    assert a.count("blobs.pulled") == ref.chunks


def lie(device: Device, *, header: bool = False) -> None:
    """Make this device serve wrong bytes from now on."""
    honest = device.transport._serving._send

    def send(node_id: int, message: Message, bulk: zmq.Frame | None) -> bool:
        wrong = isinstance(message, BlobHeader) if header else isinstance(message, BlobChunk) and message.index >= 2
        if wrong and bulk is not None:
            bulk = zmq.Frame(bytes(len(bulk)))
        return honest(node_id, message, bulk)

    device.transport._serving._send = send


@pytest.mark.parametrize("header", [False, True])
def test_a_lying_source_is_dropped_at_its_first_bad_chunk(header: bool) -> None:
    async def test(fleet: Fleet) -> None:
        a, liar, honest = await fleet.some(3)
        for device in (liar, honest):
            ref = await device.transport.add_blob(MEGABYTES_2)
        lie(liar, header=header)
        got = await a.transport.fetch(ref, [liar.contact, honest.contact], max_bytes=ref.size)
        assert got == MEGABYTES_2
        assert a.count("blobs.lying") == 1
        assert liar.count("blobs.served") <= 2 * MAX_CHUNKS_PER_GET

    run(test)


@asynchronous
async def test_when_every_source_lies_the_fetch_says_so(fleet: Fleet) -> None:
    a, liar = await fleet.some(2)
    ref = await liar.transport.add_blob(MEGABYTES_2)
    lie(liar)
    with pytest.raises(WireError, match="wrong data"):
        await a.transport.fetch(ref, [liar.contact], max_bytes=ref.size)


@asynchronous
async def test_lost_answers_are_asked_for_again(fleet: Fleet) -> None:
    a, b = await fleet.some(2)
    ref = await b.transport.add_blob(MEGABYTES_2)
    honest = b.transport._serving._send
    dropped: list[int] = []

    def lossy(node_id: int, message: Message, bulk: zmq.Frame | None) -> bool:
        if isinstance(message, BlobChunk) and message.index in (1, 5) and message.index not in dropped:
            dropped.append(message.index)
            return True
        return honest(node_id, message, bulk)

    b.transport._serving._send = lossy
    assert await a.transport.fetch(ref, [b.contact], max_bytes=ref.size) == MEGABYTES_2
    assert dropped == [1, 5]


@asynchronous
async def test_a_blob_is_served_while_it_is_still_arriving(fleet: Fleet) -> None:
    """a <- b <- c: given c stops in the middle, then a has what b has, and the rest follows through b."""
    a, b, c = await fleet.some(3)
    data = os.urandom(8_000_000)
    ref = await c.transport.add_blob(data)
    gate, honest = asyncio.Event(), c.transport._serving._send

    def gated(node_id: int, message: Message, bulk: zmq.Frame | None) -> bool:
        if isinstance(message, BlobChunk) and message.index >= 10 and not gate.is_set():
            return False
        return honest(node_id, message, bulk)

    c.transport._serving._send = gated
    outer = asyncio.ensure_future(b.transport.fetch(ref, [c.contact], max_bytes=ref.size))
    await until(lambda: b.count("blobs.pulled") == 10)
    inner = asyncio.ensure_future(a.transport.fetch(ref, [b.contact], max_bytes=ref.size))
    await until(lambda: a.count("blobs.pulled") == 10)
    gate.set()
    assert await outer == data
    assert await inner == data
    assert c.count("blobs.served") == b.count("blobs.served") == ref.chunks


@asynchronous
async def test_one_asker_cannot_make_us_send_more_than_its_credit(fleet: Fleet) -> None:
    """Given a peer that asks for everything again and again and reads nothing, then ZeroMQ holds at most its credit
    for it, and others are served as before."""
    server, modest = await fleet.some(2, timing=PATIENT)
    data = os.urandom(60 * CHUNK_BYTES)
    ref = await server.transport.add_blob(data)
    with an_insider() as greedy:
        link = greedy.dealer(server, receive_limit=1)
        for _ in range(4):
            for first in range(0, 60, 4):
                link.send(encode(BlobGet(ref.id, first, 4)))

        def checked() -> bool:
            asker = server.transport._serving._askers.get(greedy.node_id)
            assert server.transport._serving.in_flight(greedy.node_id) <= MAX_SERVED_BYTES
            assert asker is None or len(asker.wanted) <= MAX_WAITING
            return server.count("dropped.over-credit") > 100

        await until(checked)
        assert await modest.transport.fetch(ref, [server.contact], max_bytes=ref.size) == data


@asynchronous
async def test_a_cancelled_fetch_leaves_nothing_behind(fleet: Fleet) -> None:
    a = await fleet.device()
    fetch = asyncio.ensure_future(a.transport.fetch(ref_of(SMALL), [NOBODY], max_bytes=len(SMALL)))
    await until(lambda: a.transport._blobs.arriving_bytes)
    fetch.cancel()
    await until(lambda: not a.transport._blobs.arriving_bytes)
    assert a.transport._pulls._pulls == {}


def test_arriving_blobs_wait_for_room() -> None:
    async def test(fleet: Fleet) -> None:
        a, b = await fleet.some(2, limits=Limits(assembly_bytes=3_000_000))
        contents = [os.urandom(2_000_000) for _ in range(4)]
        refs = [await b.transport.add_blob(content) for content in contents]
        peak = 0
        fetches = [asyncio.ensure_future(a.transport.fetch(ref, [b.contact], max_bytes=ref.size)) for ref in refs]
        while not all(fetch.done() for fetch in fetches):
            peak = max(peak, a.transport._blobs.arriving_bytes)
            await asyncio.sleep(0)
        assert [fetch.result() == content for fetch, content in zip(fetches, contents, strict=True)] == [True] * 4
        assert peak <= 3_000_000

    run(test)


@asynchronous
async def test_a_blob_on_disk_is_served_and_checked_first(fleet: Fleet) -> None:
    disk = Disk()
    a, b = await fleet.device(), await fleet.device(files=disk)
    ref = ref_of(MEGABYTES_2)
    disk.files[ref.id] = MEGABYTES_2
    assert await a.transport.fetch(ref, [b.contact], max_bytes=ref.size) == MEGABYTES_2
    rotten = ref_of(SMALL)
    disk.files[rotten.id] = bytes(len(SMALL))
    with pytest.raises(TryAgainError):
        await a.transport.fetch(rotten, [b.contact], max_bytes=rotten.size)
    assert b.count("blobs.rotten") > 0


def test_the_cache_is_bounded_and_moves_to_disk() -> None:
    """Given more blobs than memory may hold, then all are still there, and memory is within its limit."""

    async def main() -> None:
        disk, counters, executor = Disk(), Counter[str](), ThreadPoolExecutor(1)
        blobs = Blobs(disk, executor, counters, Blame(counters), Limits(cache_bytes=1_000_000), FAST)
        contents = [os.urandom(400_000) for _ in range(6)]
        refs = [await blobs.add(content) for content in contents]
        assert blobs.cached_bytes <= 1_000_000
        for ref, content in zip(refs, contents, strict=True):
            held = await blobs.find(ref.id)
            assert held is not None
            assert held.view == content
            assert blobs.cached_bytes <= 1_000_000
        await until(lambda: len(disk.files) >= 4)
        assert all(blobs.has(ref.id) for ref in refs)
        for ref in refs:
            blobs.discard(ref.id)
        await until(lambda: not disk.files)
        assert blobs.cached_bytes == 0
        assert not any(blobs.has(ref.id) for ref in refs)
        await blobs.close()
        executor.shutdown()

    asyncio.run(main())


def test_a_full_disk_loses_the_oldest_blob_not_the_daemon(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        disk, counters, executor = Disk(), Counter[str](), ThreadPoolExecutor(1)
        disk.full = True
        blobs = Blobs(disk, executor, counters, Blame(counters), Limits(cache_bytes=1_000_000), FAST)
        refs = [await blobs.add(os.urandom(400_000)) for _ in range(3)]
        await until(lambda: counters["blobs.evicted"] == 1)
        assert await blobs.find(refs[0].id) is None
        assert await blobs.find(refs[2].id) is not None
        await blobs.close()
        executor.shutdown()

    asyncio.run(main())
    assert "the disk is full" in caplog.text


def test_an_assembly_keeps_only_right_chunks() -> None:
    ref, hashes = ref_of(SMALL), hash_chunks(SMALL)
    assembly = Assembly(ref, now=0.0)
    chunks = [memoryview(SMALL)[at : at + CHUNK_BYTES] for at in range(0, len(SMALL), CHUNK_BYTES)]
    assert assembly.put(0, chunks[0], 0.0) is Stored.WRONG, "no header yet"
    assert not assembly.set_header(hashes[:-1])
    assert not assembly.set_header(hashes[:-1] + bytes([hashes[-1] ^ 1]))
    assert assembly.set_header(hashes)
    heard: list[int] = []
    assembly.listen(lambda _, index: heard.append(index))
    assert assembly.put(1, chunks[0], 0.0) is Stored.WRONG
    assert assembly.put(3, chunks[0], 0.0) is Stored.WRONG
    assert assembly.put(9, chunks[0], 0.0) is Stored.WRONG
    assert [assembly.put(index, chunk, 1.0) for index, chunk in enumerate(chunks)] == [Stored.KEPT] * 4
    assert assembly.put(2, chunks[2], 2.0) is Stored.DUPLICATE
    assert heard == [0, 1, 2, 3]
    assert assembly.complete
    assert assembly.pages == SMALL


@asynchronous
async def test_chunks_that_nobody_asked_for_are_dropped_unread(fleet: Fleet) -> None:
    a, b = await fleet.some(2)
    a.transport.send(b.contact, BlobGet(bytes(32)))
    await until(lambda: b.transport._links.connected(a.node_id))
    assert b.transport._links.send_now(a.node_id, BlobChunk(bytes(32), 0), zmq.Frame(b"surprise"))
    await until(lambda: a.count("dropped.unsolicited") > 0)


def test_reading_for_others_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_module, "MAX_LOADING", 1)

    async def test(fleet: Fleet) -> None:
        a, b = await fleet.some(2, timing=replace(FAST, pull_retry=0.02))
        for number in range(20):
            a.transport.send(b.contact, BlobGet(bytes([number]) * 32, 0, 1))
        await until(lambda: a.count("dropped.unsolicited") >= 20, "everyone was answered")
        assert not b.transport._serving._loading

    run(test)


@asynchronous
async def test_any_member_that_has_a_blob_is_asked_when_the_sources_have_failed(fleet: Fleet) -> None:
    a, gone, member = await fleet.some(3)
    await a.meet(gone)
    ref = await member.transport.add_blob(MEGABYTES_2)
    a.transport.members_of = lambda app: [member.contact] if app == 7 else []
    fetch = asyncio.ensure_future(a.transport.fetch(ref, [gone.contact], app=7, max_bytes=ref.size))
    assert await fetch == MEGABYTES_2, "the source that was named does not have it"
    assert member.count("blobs.served") == ref.chunks
    with pytest.raises(TryAgainError):
        await a.transport.fetch(ref_of(SMALL), [gone.contact], app=8, max_bytes=len(SMALL))


@asynchronous
async def test_chunks_that_are_at_hand_under_another_name_are_not_fetched(fleet: Fleet) -> None:
    a, b = await fleet.some(2)
    before = os.urandom(10 * CHUNK_BYTES)
    after = before[: 9 * CHUNK_BYTES] + os.urandom(1000)
    await a.transport.add_blob(before)
    ref = await b.transport.add_blob(after)
    assert await a.transport.fetch(ref, [b.contact], max_bytes=ref.size) == after
    assert a.count("blobs.pulled") <= MAX_CHUNKS_PER_GET + 1, "some were asked for together with the header"
    a.transport.discard_blob(ref_of(before))
    a.transport.discard_blob(ref)
    assert len(a.transport._blobs.index) == 0


@asynchronous
async def test_wrong_data_is_fetched_again_and_its_source_named(fleet: Fleet) -> None:
    disk = Disk()
    a, liar, honest = await fleet.device(files=disk), *(await fleet.some(2))
    ref = ref_of(MEGABYTES_2)
    disk.files[ref.id] = bytes(len(MEGABYTES_2))
    await honest.transport.add_blob(MEGABYTES_2)
    await liar.transport.add_blob(MEGABYTES_2)
    held = liar.transport._blobs.peek(ref.id)
    assert held is not None
    held.view = memoryview(bytes(len(MEGABYTES_2)))
    assert await a.transport.fetch(ref, [liar.contact, honest.contact], max_bytes=ref.size) == MEGABYTES_2
    assert a.transport.wrong_data() == {"disk": 1, node_name(liar.node_id): 1}
    assert a.count("blobs.rotten") == a.count("blobs.lying") == 1


@asynchronous
async def test_one_that_is_larger_than_its_share_takes_it_from_what_is_at_hand(fleet: Fleet) -> None:
    disk = Disk()
    limits = Limits(cache_bytes=2_000_000, assembly_bytes=2_000_000)
    a, b = await fleet.device(files=disk, limits=limits), await fleet.device()
    small = await a.transport.add_blob(SMALL)
    ref = await b.transport.add_blob(os.urandom(3_900_000))
    await a.transport.fetch(ref, [b.contact], max_bytes=ref.size)
    await until(lambda: small.id in disk.files, "moved to disk, and still there")
    assert await a.transport.fetch(small, [], max_bytes=small.size) == SMALL
