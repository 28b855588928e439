"""What the disk and SQLite say, as StorageError with the next step."""

from __future__ import annotations

import contextlib
import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from edgefl.durable import storage_error, storage_hint
from edgefl.errors import StorageError


@contextlib.contextmanager
def disk_errors(directory: Path) -> Iterator[None]:
    """Whatever the disk or SQLite says becomes a StorageError."""
    try:
        yield
    except sqlite3.OperationalError as error:
        code = errno.ENOSPC if "full" in str(error) else None
        raise StorageError(f"state directory {directory}: {error}", hint=storage_hint(code)) from None
    except sqlite3.DatabaseError as error:
        raise StorageError(
            f"state directory {directory}: {error}",
            hint="the database is damaged: move edgefl.db away (keys are kept apart) and join again",
        ) from None
    except OSError as error:
        raise storage_error(f"state directory {directory}", error) from None
