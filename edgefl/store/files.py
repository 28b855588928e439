"""Blobs as files, named by their content:

    blobs/      kept for a record (store.py): synced before the record names them, swept when none does
    spill/      moved out of memory, until the process ends: not synced
    arriving/   fetched in part (partial.py), or whole and not yet done with: taken up again after a restart

What is read is checked against its name, here or by the caller: a rotten card gives "missing", not garbage.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from pathlib import Path

from edgefl.durable import write_atomically
from edgefl.store.disk_errors import disk_errors
from edgefl.store.partial import PartialFile
from edgefl.wire.blob import BlobRef, ref_of

MIN_FREE_BYTES = 64 * 1024 * 1024
"""Left on the disk by blobs that arrive: for the records, and for whatever else the device is for."""


class BlobFiles:
    """The blobs in one state directory. Raises StorageError when the disk refuses."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._kept = directory / "blobs"
        self._spilled = directory / "spill"
        self._arriving = directory / "arriving"
        with disk_errors(directory):
            self._kept.mkdir(mode=0o700, exist_ok=True)
            if self._spilled.exists():  # memory of the process before
                import shutil  # not above: it brings every kind of archive

                shutil.rmtree(self._spilled, ignore_errors=True)

    # Kept for a record

    def path(self, blob_id: bytes) -> Path:
        """Where a kept blob is."""
        return self._kept / blob_id.hex()

    def read(self, ref: BlobRef) -> memoryview | None:
        """The content of a kept blob, mapped read-only and checked against its name; None when it is not (whole)
        there. Hashes the file: about 0.7 ns a byte."""
        view = map_file(self.path(ref.id))
        if view is None or view.nbytes != ref.size:
            return None
        return view if ref_of(view) == ref else None

    def write(self, ref: BlobRef, data: memoryview | bytes) -> None:
        """Keep a blob: on disk when this returns."""
        if self.read(ref) is None:
            write_atomically(self.path(ref.id), data, mode=0o600)

    def sweep(self, named: set[str]) -> None:
        """Remove kept blobs but those: what a crash left behind, and models that were replaced."""
        for entry in os.scandir(self._kept):
            if entry.name not in named:
                os.unlink(entry.path)

    # For the transport (transport/blobs.py)

    def get(self, blob_id: bytes) -> memoryview | None:
        """The content of a blob that is whole, wherever it is. It is checked by the caller."""
        name = blob_id.hex()
        view = map_file(self._kept / name) or map_file(self._spilled / name)
        if view is None and (partial := PartialFile.open(self._arriving / name, blob_id)) is not None:
            with contextlib.closing(partial):
                view = partial.view if len(partial.marked()) == partial.ref.chunks else None
        return view

    def put(self, blob_id: bytes, data: memoryview) -> None:
        """Take a blob out of memory, where there is no more room, until the process ends. Not synced: it is lost with
        the process anyway."""
        with disk_errors(self._directory):
            self._spilled.mkdir(mode=0o700, exist_ok=True)
            (self._spilled / blob_id.hex()).write_bytes(data)

    def remove(self, blob_id: bytes) -> None:
        """Forget what `put` or a partial file has of a blob; what a record names stays. Mappings stay valid."""
        for directory in (self._spilled, self._arriving):
            with contextlib.suppress(OSError):
                (directory / blob_id.hex()).unlink(missing_ok=True)

    def partials(self) -> list[tuple[bytes, int]]:
        """What the process before was fetching: names and sizes, the newest last. Anything else there is removed."""
        found = []
        with disk_errors(self._directory):
            if not self._arriving.exists():
                return []
            for entry in os.scandir(self._arriving):
                try:
                    blob_id = bytes.fromhex(entry.name)
                except ValueError:
                    blob_id = b""
                partial = PartialFile.open(Path(entry.path), blob_id)
                if partial is None:
                    os.unlink(entry.path)
                else:
                    partial.close()
                    found.append((entry.stat().st_mtime, blob_id, partial.ref.size))
        return [(blob_id, size) for _, blob_id, size in sorted(found)]

    def open_partial(self, blob_id: bytes) -> PartialFile | None:
        """What is here of a blob, if anything is."""
        with disk_errors(self._directory):
            return PartialFile.open(self._arriving / blob_id.hex(), blob_id)

    def begin_partial(self, ref: BlobRef, hashes: bytes) -> PartialFile:
        """A file for a blob that begins to arrive. Leaves MIN_FREE_BYTES on the disk."""
        with disk_errors(self._directory):
            self._arriving.mkdir(mode=0o700, exist_ok=True)
            disk = os.statvfs(self._arriving)
            if disk.f_bavail * disk.f_frsize < ref.size + MIN_FREE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return PartialFile.begin(self._arriving / ref.id.hex(), ref, hashes)


def map_file(path: Path) -> memoryview | None:
    """A file mapped read-only; None when it cannot be read."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError:
        return None
