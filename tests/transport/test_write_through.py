"""What has arrived survives: a restarted device goes on with what was written, and a bad disk costs only that."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgefl.errors import StorageError, TryAgainError
from edgefl.store.files import BlobFiles
from edgefl.store.partial import PartialFile
from edgefl.transport import write_through
from edgefl.transport.limits import Limits
from edgefl.wire.blob import CHUNK_BYTES, BlobRef, hash_chunks, ref_of
from edgefl.wire.overlay import Ping
from tests.transport.fleet import FAST, FLEET, Device, Fleet, run, until

CHUNKS = 24
DATA = os.urandom(CHUNKS * CHUNK_BYTES - 1000)
APP = 5

AT_ONCE = replace(FAST, write_after=0.0, housekeeping=0.01)
"""Whatever arrives is written, from the first look on."""

SLOW = {"uplink_bytes_s": 4e6}
"""Of the source: 6 MB take 1.5 s."""


def wanted(device: Device, blob: BlobRef, sources: Iterable[Device], **options: Any) -> asyncio.Task[memoryview]:
    contacts = [source.contact for source in sources]
    return asyncio.ensure_future(device.transport.fetch(blob, contacts, max_bytes=blob.size, **options))


def files_at(place: Path) -> BlobFiles:
    place.mkdir(exist_ok=True)
    return BlobFiles(place)


def written(place: Path, blob: BlobRef) -> int:
    """How many chunks its file has, as another process would see it."""
    partial = PartialFile.open(place / "arriving" / blob.id.hex(), blob.id)
    if partial is None:
        return 0
    with contextlib.closing(partial):
        return len(partial.marked())


async def half_way(fleet: Fleet, place: Path) -> tuple[Device, BlobRef]:
    """A source, and what a device that was killed in the middle of a fetch has left at `place`."""
    source = await fleet.device(**SLOW)
    device = await fleet.device(files=files_at(place / "alive"), timing=AT_ONCE)
    blob = await source.transport.add_blob(DATA)
    fetch = wanted(device, blob, [source])
    await until(lambda: written(place / "alive", blob) >= 8, "eight chunks on disk")
    assert not fetch.done()
    shutil.copytree(place / "alive", place / "killed")
    fetch.cancel()
    return source, blob


def test_a_restarted_device_fetches_the_rest(tmp_path: Path) -> None:
    async def test(fleet: Fleet) -> None:
        source, blob = await half_way(fleet, tmp_path)
        there = written(tmp_path / "killed", blob)
        device = await fleet.device(files=BlobFiles(tmp_path / "killed"), timing=AT_ONCE)
        assert await wanted(device, blob, [source]) == DATA
        assert device.count("blobs.resumed") == there
        assert device.count("blobs.pulled") == CHUNKS - there
        assert device.count("bytes_received") < (CHUNKS - there + 0.5) * CHUNK_BYTES
        device.transport.discard_blob(blob)
        await until(lambda: not list((tmp_path / "killed" / "arriving").iterdir()), "no file left")

    run(test)


def test_it_goes_on_where_a_push_is_then_and_passes_everything_on(tmp_path: Path) -> None:
    """The device comes back while its parent still pushes; a child of its own gets the old chunks and the new ones."""

    async def test(fleet: Fleet) -> None:
        source, blob = await half_way(fleet, tmp_path)
        there = written(tmp_path / "killed", blob)
        device = await fleet.device(files=BlobFiles(tmp_path / "killed"), timing=AT_ONCE)
        child = await fleet.device()
        for below, above in ((device, source), (child, device)):
            await below.meet(above)
            below.transport.subscribe(APP, above.contact, len(DATA))
            await until(lambda above=above: above.transport.children(APP), "a child")  # type: ignore[misc]
        fetches = [wanted(one, blob, [], app=APP) for one in (device, child)]
        source.transport.publish(APP, blob)
        assert [await fetch for fetch in fetches] == [DATA, DATA]
        assert device.count("blobs.resumed") + device.count("blobs.duplicate") >= there
        assert child.count("blobs.duplicate") <= 2

    run(test)


def test_a_chunk_that_has_changed_on_disk_is_fetched_again_and_counted(tmp_path: Path) -> None:
    async def test(fleet: Fleet) -> None:
        source, blob = await half_way(fleet, tmp_path)
        (path,) = (tmp_path / "killed" / "arriving").iterdir()
        with path.open("r+b") as file:
            file.seek(2 * CHUNK_BYTES + 77)
            file.write(b"rotten")
        there = written(tmp_path / "killed", blob)
        device = await fleet.device(files=BlobFiles(tmp_path / "killed"), timing=AT_ONCE)
        assert await wanted(device, blob, [source]) == DATA
        assert device.transport.wrong_data() == {"disk": 1}
        assert device.count("blobs.resumed") == there - 1
        assert device.count("blobs.pulled") == CHUNKS - there + 1

    run(test)


def test_a_whole_blob_that_was_not_yet_used_up_is_found_again(tmp_path: Path) -> None:
    async def test(fleet: Fleet) -> None:
        source = await fleet.device(**SLOW)
        device = await fleet.device(files=files_at(tmp_path / "alive"), timing=AT_ONCE)
        blob = await source.transport.add_blob(DATA)
        assert await wanted(device, blob, [source]) == DATA
        shutil.copytree(tmp_path / "alive", tmp_path / "killed")
        again = await fleet.device(files=BlobFiles(tmp_path / "killed"), timing=AT_ONCE)
        assert await wanted(again, blob, []) == DATA
        again.transport.discard_blob(blob)
        await until(lambda: not list((tmp_path / "killed" / "arriving").iterdir()), "no file left")

    run(test)


def test_a_fetch_that_was_given_up_goes_on_later(tmp_path: Path) -> None:
    async def test(fleet: Fleet) -> None:
        first, second = await fleet.device(**SLOW), await fleet.device()
        device = await fleet.device(files=BlobFiles(tmp_path), timing=AT_ONCE)
        blob = await first.transport.add_blob(DATA)
        await second.transport.add_blob(DATA)
        fetch = wanted(device, blob, [first])
        await until(lambda: written(tmp_path, blob) >= 8, "eight chunks on disk")
        first.transport.discard_blob(blob)
        with pytest.raises(TryAgainError):
            await fetch
        pulled = device.count("blobs.pulled")
        assert await wanted(device, blob, [second]) == DATA
        assert device.count("blobs.pulled") == CHUNKS, "each chunk has come once"
        assert device.count("blobs.resumed") == pulled

    run(test)


def test_one_that_is_asked_for_again_at_once_goes_on_as_well(tmp_path: Path) -> None:
    """Before the file of the fetch that was cancelled is closed."""

    async def test(fleet: Fleet) -> None:
        source = await fleet.device(**SLOW)
        device = await fleet.device(files=BlobFiles(tmp_path), timing=AT_ONCE)
        blob = await source.transport.add_blob(DATA)
        for reach in (4, 8, 12):
            fetch = wanted(device, blob, [source])
            await until(lambda reach=reach: written(tmp_path, blob) >= reach, "more chunks")  # type: ignore[misc]
            fetch.cancel()
            await asyncio.gather(fetch, return_exceptions=True)
        assert await wanted(device, blob, [source]) == DATA
        assert device.count("blobs.pulled") <= CHUNKS + 3 * 4, "beside what was on its way"
        assert device.count("blobs.resumed") >= 4 + 8 + 12

    run(test)


def test_what_comes_fast_is_not_written(tmp_path: Path) -> None:
    async def test(fleet: Fleet) -> None:
        source = await fleet.device()
        device = await fleet.device(files=BlobFiles(tmp_path), timing=replace(AT_ONCE, write_after=60.0))
        blob = await source.transport.add_blob(DATA)
        assert await wanted(device, blob, [source]) == DATA
        assert not (tmp_path / "arriving").exists()

    run(test)


def test_what_nobody_has_asked_for_is_not_written(tmp_path: Path) -> None:
    async def test(fleet: Fleet) -> None:
        source = await fleet.device()
        limits = Limits(assembly_bytes=1_000_000)
        device = await fleet.device(files=BlobFiles(tmp_path), timing=AT_ONCE, limits=limits)
        await device.meet(source)
        device.transport.subscribe(APP, source.contact, len(DATA))
        await until(lambda: source.transport.children(APP), "a child")
        blob = await source.transport.add_blob(DATA)
        source.transport.publish(APP, blob)
        await until(lambda: device.transport.has_blob(blob), "the blob")
        assert await wanted(device, blob, []) == DATA
        assert not (tmp_path / "arriving").exists()

    run(test)


def test_a_large_one_leaves_memory_as_it_is_written(tmp_path: Path) -> None:
    async def test(fleet: Fleet) -> None:
        source = await fleet.device()
        limits = Limits(cache_bytes=1_000_000, assembly_bytes=1_000_000)
        timing = replace(AT_ONCE, write_after=60.0)
        device = await fleet.device(files=BlobFiles(tmp_path), timing=timing, limits=limits)
        blob = await source.transport.add_blob(DATA)
        got = await wanted(device, blob, [source])
        assert got == DATA
        assert got.readonly
        assert written(tmp_path, blob) == CHUNKS
        small = await device.transport.add_blob(
            b"small"
        )  # the cache is full: the large one goes, from its file it comes
        assert device.transport.has_blob(blob)
        assert await wanted(device, blob, []) == DATA
        assert device.count("blobs.evicted") == 0
        device.transport.discard_blob(small)
        device.transport.discard_blob(blob)
        await until(lambda: not list((tmp_path / "arriving").iterdir()), "no file left")
        assert got == DATA, "what was handed out stays valid"

    run(test)


class BadDisk(BlobFiles):
    """Takes so many batches of chunks, then no more."""

    def __init__(self, directory: Path, batches: int) -> None:
        super().__init__(directory)
        self.batches = batches

    def begin_partial(self, ref: BlobRef, hashes: bytes) -> PartialFile:
        if not self.batches:
            raise StorageError("the disk is full", hint="free some space on that disk")
        partial = super().begin_partial(ref, hashes)
        honest = partial.write

        def write(chunks: Iterable[tuple[int, memoryview]]) -> None:
            if not self.batches:
                raise StorageError("the disk is full", hint="free some space on that disk")
            self.batches -= 1
            honest(chunks)

        partial.write = write  # type: ignore[method-assign]
        return partial


@pytest.mark.parametrize("batches", [0, 1, 3])
@pytest.mark.parametrize("large", [False, True])
def test_a_full_disk_costs_only_what_was_saved(
    tmp_path: Path, batches: int, large: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(fleet: Fleet) -> None:
        source = await fleet.device(uplink_bytes_s=20e6)
        limits = Limits(assembly_bytes=1_000_000) if large else Limits()
        device = await fleet.device(files=BadDisk(tmp_path, batches), timing=AT_ONCE, limits=limits)
        blob = await source.transport.add_blob(DATA)
        assert await wanted(device, blob, [source]) == DATA
        assert device.count("blobs.pulled") == CHUNKS
        assert device.count("blobs.not-written") == 1
        await until(lambda: not list(tmp_path.glob("arriving/*")), "no file left")
        assert await wanted(device, blob, []) == DATA

    run(test)
    (record,) = [record for record in caplog.records if record.name == "edgefl.transport.write_through"]
    assert "the disk is full (next: free some space on that disk)" in record.getMessage()


@pytest.mark.parametrize("hangs", ["begin_partial", "write"])
@pytest.mark.parametrize("outsized", [False, True])
def test_a_disk_that_hangs_holds_up_nobody(tmp_path: Path, outsized: bool, hangs: str) -> None:
    """Chunks arrive, messages are answered, the blob is there; one that has no room in memory waits for the disk."""
    free = threading.Event()

    class Hanging(BlobFiles):
        def begin_partial(self, ref: BlobRef, hashes: bytes) -> PartialFile:
            if hangs == "begin_partial":
                free.wait(20.0)
            partial = super().begin_partial(ref, hashes)
            honest = partial.write

            def write(chunks: Iterable[tuple[int, memoryview]]) -> None:
                if hangs == "write":
                    free.wait(20.0)
                honest(chunks)

            partial.write = write  # type: ignore[method-assign]
            return partial

    async def test(fleet: Fleet) -> None:
        source = await fleet.device(**SLOW)
        limits = Limits(assembly_bytes=1_000_000) if outsized else Limits()
        timing = replace(AT_ONCE, disk_wait=0.05)
        device = await fleet.device(files=Hanging(tmp_path), timing=timing, limits=limits)
        try:
            blob = await source.transport.add_blob(DATA)
            fetch = wanted(device, blob, [source])
            await until(lambda: device.count("blobs.pulled") == CHUNKS, "every chunk")
            source.transport.send(device.contact, Ping(7))
            await until(lambda: device.listener.heard(Ping(7)), "a message")
            if not outsized:
                assert await asyncio.wait_for(fetch, 8.0) == DATA
                assert not free.is_set()
                assert device.count("blobs.not-written") == (hangs == "write")
            assert fetch.done() is not outsized
        finally:
            free.set()
        assert await fetch == DATA
        if not outsized:
            await until(lambda: not list(tmp_path.glob("arriving/*")), "no file left")
        assert await wanted(device, blob, []) == DATA

    run(test)


def test_files_that_nobody_asks_for_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_through, "IDLE_S", 0.5)

    async def test(fleet: Fleet) -> None:
        _, blob = await half_way(fleet, tmp_path)
        await fleet.device(files=BlobFiles(tmp_path / "killed"), timing=AT_ONCE)
        assert written(tmp_path / "killed", blob)
        await until(lambda: not list(tmp_path.glob("killed/arriving/*")), "no file left")

    run(test)


def test_what_waits_on_disk_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_through, "MAX_IDLE", 3)
    files = BlobFiles(tmp_path)
    sizes = [CHUNK_BYTES, 3 * CHUNK_BYTES, CHUNK_BYTES, CHUNK_BYTES, CHUNK_BYTES]
    names = []
    for number, size in enumerate(sizes):
        content = bytes([number]) * size
        ref = ref_of(content)
        files.begin_partial(ref, hash_chunks(content)).close()
        os.utime(tmp_path / "arriving" / ref.id.hex(), (1e9 + number, 1e9 + number))
        names.append(ref.id.hex())

    async def test(fleet: Fleet) -> None:
        await fleet.device(files=files)
        await until(lambda: {path.name for path in (tmp_path / "arriving").iterdir()} == set(names[2:]), "the newest")
        for path in (tmp_path / "arriving").iterdir():
            path.touch()
        await fleet.device(files=files, limits=Limits(assembly_bytes=CHUNK_BYTES + 5))
        await until(lambda: len(list((tmp_path / "arriving").iterdir())) == 1, "one")

    run(test)


@pytest.mark.e2e
def test_kill_9_in_mid_transfer_costs_no_more_than_was_not_yet_written(tmp_path: Path) -> None:
    """Real processes: the child is killed, and killed again, and has the model in the end without a byte twice."""

    async def test(fleet: Fleet) -> None:
        source = await fleet.device(**SLOW)
        blob = await source.transport.add_blob(DATA)
        here = source.contact
        token = FLEET.invite(()).text
        script = Path(__file__).parent / "fetching_process.py"
        arguments = [token, str(tmp_path), here.host, str(here.port), blob.id.hex(), str(blob.size)]
        for reach in (6, 12):
            child = await asyncio.create_subprocess_exec(sys.executable, script, *arguments)
            await until(lambda reach=reach: written(tmp_path, blob) >= reach, "chunks", deadline_s=20.0)  # type: ignore[misc]
            child.kill()
            await child.wait()
        there = written(tmp_path, blob)
        child = await asyncio.create_subprocess_exec(sys.executable, script, *arguments, stdout=subprocess.PIPE)
        output, _ = await child.communicate()
        name, received, resumed = output.decode().split()
        assert name == blob.id.hex()
        assert int(resumed) == there >= 12
        assert int(received) < (CHUNKS - there + 1) * CHUNK_BYTES < len(DATA)

    run(test)
