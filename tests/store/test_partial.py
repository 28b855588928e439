"""A blob that is still arriving: what a kill leaves in its file is taken up again, and nothing wrong is believed."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefl.errors import StorageError
from edgefl.store import files as files_module
from edgefl.store.files import BlobFiles
from edgefl.store.partial import PartialFile
from edgefl.wire.blob import CHUNK_BYTES, BlobRef, hash_chunks, ref_of

DATA = os.urandom(4 * CHUNK_BYTES + 99)
REF, HASHES = ref_of(DATA), hash_chunks(DATA)


def chunk(index: int, data: bytes = DATA) -> tuple[int, memoryview]:
    return index, memoryview(data)[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]


@pytest.fixture
def files(tmp_path: Path) -> BlobFiles:
    return BlobFiles(tmp_path)


def only_file(files: BlobFiles) -> Path:
    (path,) = (files._directory / "arriving").iterdir()
    return path


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3 * CHUNK_BYTES + 2), st.data())
def test_what_was_written_is_found_again(size: int, data: st.DataObject) -> None:
    content = os.urandom(size)
    ref, hashes = ref_of(content), hash_chunks(content)
    written = data.draw(st.sets(st.integers(0, ref.chunks - 1)))
    place = Path(tempfile.mkdtemp()) / "file"
    try:
        partial = PartialFile.begin(place, ref, hashes)
        partial.write(chunk(index, content) for index in written)
        partial.close()
        again = PartialFile.open(place, ref.id)
        assert again is not None
        assert (again.ref, again.hashes, again.marked()) == (ref, hashes, sorted(written))
        assert again.check(written) == []
        assert all(again.chunk(index) == chunk(index, content)[1] for index in written)
        assert again.view.nbytes == size
        assert again.view.readonly
    finally:
        shutil.rmtree(place.parent)


def test_a_whole_one_is_a_blob_and_one_with_holes_is_not(files: BlobFiles) -> None:
    partial = files.begin_partial(REF, HASHES)
    partial.write(chunk(index) for index in range(4))
    assert files.get(REF.id) is None
    partial.write([chunk(4)])
    partial.close()
    assert files.get(REF.id) == DATA
    assert BlobFiles(files._directory).get(REF.id) == DATA
    files.remove(REF.id)
    assert files.get(REF.id) is None
    assert partial.view == DATA, "what was handed out stays valid"


def test_a_chunk_that_has_changed_on_disk_is_found_once(files: BlobFiles) -> None:
    files.begin_partial(REF, HASHES).write(map(chunk, range(3)))
    with only_file(files).open("r+b") as file:
        file.seek(CHUNK_BYTES + 5)
        file.write(b"rotten")
    partial = files.open_partial(REF.id)
    assert partial is not None
    assert partial.marked() == [0, 1, 2]
    assert partial.check(partial.marked()) == [1]
    assert partial.marked() == [0, 2]
    partial.write([chunk(1)])
    assert partial.check(partial.marked()) == []


def test_a_mark_without_its_chunk_is_not_believed(files: BlobFiles) -> None:
    """After a power cut the later write may be on the disk without the earlier one."""
    partial = files.begin_partial(REF, HASHES)
    with only_file(files).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\1")
    assert partial.marked() == [4]
    assert partial.check([4]) == [4]


@pytest.mark.parametrize(
    "harm",
    [
        lambda content: content[:-1],
        lambda content: content[: REF.size],
        lambda content: content + b"\0",
        lambda content: content[: REF.size] + b"x" + content[REF.size + 1 :],
        lambda content: content[: REF.size + 20] + b"xxxx" + content[REF.size + 24 :],
        lambda content: b"",
        lambda content: b"?",
    ],
    ids=["short", "no record", "long", "magic", "hashes", "empty", "tiny"],
)
def test_a_file_whose_record_does_not_match_its_name_is_swept(files: BlobFiles, harm: Any) -> None:
    files.begin_partial(REF, HASHES).write(map(chunk, range(5)))
    path = only_file(files)
    path.write_bytes(harm(path.read_bytes()))
    assert files.open_partial(REF.id) is None
    assert files.get(REF.id) is None
    assert files.partials() == []
    assert not path.exists()


def test_what_is_no_blob_at_all_is_swept_and_the_rest_is_listed_in_order(files: BlobFiles) -> None:
    assert files.partials() == []
    contents = [b"first", b"second", b"third"]
    for age, content in zip((30, 10, 20), contents, strict=True):
        ref = ref_of(content)
        files.begin_partial(ref, hash_chunks(content)).close()
        os.utime(files._directory / "arriving" / ref.id.hex(), (1e9 - age, 1e9 - age))
    (files._directory / "arriving" / "notes.txt").write_text("mine")
    (files._directory / "arriving" / ("00" * 32)).write_bytes(bytes(1000))
    expected = [(ref_of(content).id, len(content)) for content in (b"first", b"third", b"second")]
    assert files.partials() == expected
    assert len(list((files._directory / "arriving").iterdir())) == 3


def test_a_disk_that_is_nearly_full_takes_none(files: BlobFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    free = SimpleNamespace(f_bavail=1, f_frsize=files_module.MIN_FREE_BYTES + REF.size - 1)
    monkeypatch.setattr(os, "statvfs", lambda path: free)
    with pytest.raises(StorageError, match="No space left") as caught:
        files.begin_partial(REF, HASHES)
    assert "free some space" in caught.value.hint
    free.f_frsize += 1
    files.begin_partial(REF, HASHES)


def test_a_disk_that_fills_up_is_an_error_with_a_next_step(files: BlobFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    partial = files.begin_partial(REF, HASHES)
    partial.write([chunk(0)])

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(StorageError, match="No space left") as caught:
            partial.write([chunk(1), chunk(2)])
    assert "free some space" in caught.value.hint
    assert partial.marked() == [0]


def test_writes_that_the_kernel_takes_in_pieces_are_completed(
    files: BlobFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: real(file, memoryview(data)[:50_000], at))
    partial = files.begin_partial(REF, HASHES)
    partial.write(map(chunk, range(5)))
    assert partial.view == DATA
    assert partial.check(range(5)) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from edgefl.store.files import BlobFiles
from edgefl.wire.blob import CHUNK_BYTES, hash_chunks, ref_of

place, data, real = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes(), os.pwrite

def chunks(*indexes):
    return [(at, memoryview(data)[at * CHUNK_BYTES : (at + 1) * CHUNK_BYTES]) for at in indexes]

def work(deadly, share):
    count = 0

    def pwrite(file, content, at):
        nonlocal count
        count += 1
        if count == deadly:
            real(file, memoryview(content)[: int(len(content) * share)], at)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(file, content, at)

    os.pwrite = pwrite
    directory = place / f"{deadly}-{share}"
    directory.mkdir()
    partial = BlobFiles(directory).begin_partial(ref_of(data), hash_chunks(data))
    partial.write(chunks(0, 1))
    partial.write(chunks(3))
    partial.write(chunks(4, 2))

deadly, killed = 0, True
while killed:
    deadly += 1
    for share in (0.0, 0.5, 1.0):
        child = os.fork()
        if not child:
            work(deadly, share)
            os._exit(0)
        killed = os.waitpid(child, 0)[1] == signal.SIGKILL
print(deadly)
"""


def test_kill_9_at_every_write_leaves_nothing_wrong(tmp_path: Path) -> None:
    content = tmp_path / "content"
    content.write_bytes(DATA)
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(content)]
    writes = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) - 1
    assert writes == 11, "the record, five chunks, five marks"
    most = set()
    for directory in tmp_path.iterdir():
        if directory == content:
            continue
        files = BlobFiles(directory)
        left = files.partials()
        partial = files.open_partial(REF.id) if left else files.begin_partial(REF, HASHES)
        assert partial is not None
        marked = partial.marked()
        assert partial.check(marked) == [], "a chunk was marked before it was written"
        most.add(len(marked))
        partial.write(chunk(index) for index in range(5) if index not in marked)
        partial.close()
        assert files.get(REF.id) == DATA
        shutil.rmtree(directory)
    assert most == {0, 1, 2, 3, 4, 5}, "nothing that was marked is lost"


def test_a_blob_with_a_file_for_another_content_begins_again(files: BlobFiles) -> None:
    other = BlobRef(REF.id, REF.size - 1)
    files.begin_partial(REF, HASHES).write(map(chunk, range(5)))
    files.begin_partial(other, HASHES)
    assert files.open_partial(REF.id) is None
