"""A blob that is still arriving, as a file of its own: what a kill or a power cut leaves of it is taken up again.

    content   the blob's bytes in their places, with holes where nothing has come yet
    record    MAGIC, the size, the hash of every chunk; then one byte for each chunk, 1 once the chunk has been written

A chunk is written before its mark, and nothing is synced (an SD card wears, and a sync may take a second): a process
that is killed leaves both to the kernel, in this order, and after a power cut either may be missing. So marks only say
where to look: a chunk counts when it matches its hash. A file whose record does not match its name is no partial blob.

Written by pwrite and read through a mapping, which takes no memory of ours and can give its pages back at any time.
Writing through a mapping would hold up whoever writes, and a full disk would end the process.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from edgefl.errors import WireError
from edgefl.store.disk_errors import disk_errors
from edgefl.wire.blob import CHUNK_BYTES, HASH_BYTES, BlobRef, blob_ref, chunk_hash

MAGIC = b"edgefl\0\1"

_HEAD = struct.Struct(">8sQ")


class PartialFile:
    """One such file, open. `ref` and `hashes` say what it will be; `view` is its content so far, read-only.

    Raises StorageError where the disk refuses."""

    def __init__(self, path: Path, ref: BlobRef, hashes: bytes) -> None:
        self.ref = ref
        self.hashes = hashes
        self._path = path
        self._marks_at = ref.size + _HEAD.size + len(hashes)
        self._file = path.open("r+b", buffering=0)
        try:
            mapping = mmap.mmap(self._file.fileno(), ref.size, access=mmap.ACCESS_READ)
        except BaseException:
            self._file.close()
            raise
        self.view = memoryview(mapping)

    @classmethod
    def begin(cls, path: Path, ref: BlobRef, hashes: bytes) -> PartialFile:
        """A new file for a blob that is not empty, in place of whatever was there."""
        with disk_errors(path.parent):
            path.unlink(missing_ok=True)
            with path.open("xb", buffering=0) as file:
                os.fchmod(file.fileno(), 0o600)
                file.truncate(ref.size + _HEAD.size + len(hashes) + ref.chunks)
                _write(file.fileno(), _HEAD.pack(MAGIC, ref.size) + hashes, ref.size)
            return cls(path, ref, hashes)

    @classmethod
    def open(cls, path: Path, blob_id: bytes) -> PartialFile | None:
        """The file of this blob, as another process has left it; None when it is not one."""
        try:
            with path.open("rb") as file:
                ref, hashes = _read_record(file.fileno())
            return cls(path, ref, hashes) if ref.id == blob_id and ref.size else None
        except (OSError, WireError):
            return None

    def marked(self) -> list[int]:
        """The chunks that were written, as far as the marks tell."""
        with disk_errors(self._path.parent):
            marks = os.pread(self._file.fileno(), self.ref.chunks, self._marks_at)
        return [index for index, mark in enumerate(marks) if mark == 1]

    def write(self, chunks: Iterable[tuple[int, memoryview]]) -> None:
        """Write these chunks, which were checked."""
        written = []
        with disk_errors(self._path.parent):
            for index, data in chunks:
                _write(self._file.fileno(), data, index * CHUNK_BYTES)
                written.append(index)
            for index in written:
                _write(self._file.fileno(), b"\1", self._marks_at + index)

    def check(self, indexes: Iterable[int]) -> list[int]:
        """Hash these chunks; those that are not what they should be, whose marks are then taken away."""
        wrong = [index for index in indexes if chunk_hash(self.chunk(index)) != self._hash(index)]
        with disk_errors(self._path.parent):
            for index in wrong:
                _write(self._file.fileno(), b"\0", self._marks_at + index)
        return wrong

    def chunk(self, index: int) -> memoryview:
        start = index * CHUNK_BYTES
        return self.view[start : start + self.ref.chunk_size(index)]

    def close(self) -> None:
        """No more is written. The view stays valid."""
        self._file.close()

    def _hash(self, index: int) -> bytes:
        return self.hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]


def _read_record(descriptor: int) -> tuple[BlobRef, bytes]:
    """Raises WireError if there is none."""
    length = os.fstat(descriptor).st_size
    # length = size + head + chunks * (hash + mark), with one chunk for every CHUNK_BYTES begun.
    chunks = -(-(length - _HEAD.size) // (CHUNK_BYTES + HASH_BYTES + 1))
    size = length - _HEAD.size - chunks * (HASH_BYTES + 1)
    if size < 0 or -(-size // CHUNK_BYTES) != chunks:
        raise WireError("not as long as a blob with its record")
    magic, said = _HEAD.unpack(os.pread(descriptor, _HEAD.size, size))
    if magic != MAGIC or said != size:
        raise WireError("no record behind the content")
    hashes = os.pread(descriptor, chunks * HASH_BYTES, size + _HEAD.size)
    return blob_ref(size, hashes), hashes


def _write(descriptor: int, data: bytes | memoryview, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written
