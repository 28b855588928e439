"""Files that hold secrets: made whole or not at all, readable by their owner alone.

`create_private` writes beside the target, syncs and renames, so that a process killed at any instant leaves either no
file or a complete one. Two processes that create the same file at once are serialised by a lock on the temporary file;
the second one finds the first one's file and leaves it alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path

from edgefl.durable import storage_error, sync_directory
from edgefl.errors import ConfigError

PRIVATE_MODE = 0o600
MAX_PRIVATE_BYTES = 64 * 1024
"""No key or certificate file comes near; a mistyped path must not be read into memory whole."""


def create_private(path: Path, data: bytes) -> bool:
    """Create `path` with `data` and mode 0600. False if it already existed (it is left untouched).

    Raises StorageError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = path.with_name(f".{path.name}.new")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if path.exists():
                # Another process renamed it into place while we waited, or it was there all along.
                with contextlib.suppress(FileNotFoundError):
                    temporary.unlink()
                return False
            _fill(descriptor, data)
            temporary.rename(path)
        finally:
            os.close(descriptor)
        sync_directory(path.parent)
    except OSError as error:
        raise storage_error(f"cannot write {path}", error) from None
    return True


def read_private(path: Path) -> bytes:
    """The content of `path`. Raises FileNotFoundError, and ConfigError when others may read it or it cannot be read."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise ConfigError(
                    f"{path} holds a secret key and is open to other users (mode {mode:04o})",
                    hint=f"chmod 600 {path}",
                )
            data = file.read(MAX_PRIVATE_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint="check its owner and permissions") from None
    if len(data) > MAX_PRIVATE_BYTES:
        raise ConfigError(f"{path} is too large to be a key file", hint="check the path")
    return data


def _fill(descriptor: int, data: bytes) -> None:
    os.fchmod(descriptor, PRIVATE_MODE)
    os.ftruncate(descriptor, 0)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)
