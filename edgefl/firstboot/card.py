"""Files on the boot partition. FAT has no journal: what is there is overwritten in place, which moves no cluster and
changes no directory entry, and leaves no second copy of a secret; and only what changes is written at all.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgefl.durable import sync_directory

SECTOR_BYTES = 512
"""What a power cut leaves either old or new."""

LOCK = Path("/run/edgefl-card.lock")


class Card:
    """The boot partition, mounted at `directory`: read-only, but for the moments in which it is written."""

    def __init__(self, directory: Path, *, mounted: bool = True) -> None:
        """`mounted`: it is a mount point of its own, to be made writable; otherwise a plain directory, as in tests."""
        self.directory = directory
        self._mounted = mounted

    def read(self, name: str, limit: int) -> bytes | None:
        """The file's first `limit` + 1 bytes; None when there is no such file. Raises OSError."""
        try:
            with (self.directory / name).open("rb") as file:
                return file.read(limit + 1)
        except FileNotFoundError:
            return None

    def overwrite(self, name: str, content: bytes, filler: bytes = b" ") -> None:
        """Make `content` the beginning of the file, and `filler` the rest of it, sector by sector. Raises OSError."""
        path = self.directory / name
        with self.writable():
            new = not path.exists()
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                size = os.fstat(descriptor).st_size
                content += filler * (size - len(content))
                for at in range(0, len(content), SECTOR_BYTES):
                    os.pwrite(descriptor, content[at : at + SECTOR_BYTES], at)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if new:
                sync_directory(self.directory)

    @contextmanager
    def writable(self) -> Iterator[None]:
        """While files are written: one program at a time, and read-only again afterwards. Raises OSError."""
        if not self._mounted:
            yield
            return
        with LOCK.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._remount("rw")
            try:
                yield
            finally:
                self._remount("ro")

    def _remount(self, mode: str) -> None:
        import subprocess  # not above: most boots write nothing, and wait for this program

        done = subprocess.run(
            ["mount", "-o", f"remount,{mode}", str(self.directory)], capture_output=True, text=True, timeout=60
        )
        if done.returncode:
            raise OSError(f"the card cannot be made {mode}: {done.stderr.strip()}")


def sectors(content: bytes) -> list[str]:
    """A digest of each sector: tells what is half overwritten without keeping what was there."""
    import hashlib  # not above: it loads all of OpenSSL

    return [
        hashlib.blake2b(content[at : at + SECTOR_BYTES], digest_size=16).hexdigest()
        for at in range(0, len(content), SECTOR_BYTES)
    ]
