"""Files that are either the old version or the new one, whatever instant the power goes.

Write to a temporary name in the same folder, sync, rename over the target, sync the folder. The one place that does so.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from edgefl.errors import StorageError


def write_atomically(path: Path, content: bytes | memoryview, *, mode: int = 0o644) -> None:
    """Replace `path` by `content`; after return it survives a power cut. Raises StorageError, and leaves no rest."""
    import tempfile  # not above: a boot that changes nothing has no use for it

    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        sync_directory(path.parent)
    except OSError as error:
        raise storage_error(f"cannot write {path}", error) from None


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def storage_error(what: str, error: OSError) -> StorageError:
    """What the disk said, with the next step."""
    return StorageError(f"{what}: {error.strerror or error}", hint=storage_hint(error.errno))


def storage_hint(code: int | None) -> str:
    """The next step after an error of the disk (an errno)."""
    if code in (errno.ENOSPC, errno.EDQUOT):
        return "free some space on that disk"
    if code == errno.EROFS:
        return "the disk is mounted read-only: it may be failing"
    return "check that the disk is writable and that the directory belongs to the user that edgefl runs as"
