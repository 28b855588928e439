"""Where bundles come from: files that somebody has copied into a folder of the device, or a web server.

What comes from either is worth nothing until its signature is checked, so http will do.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from edgefl.update.bundle import Stream, UpdateError

SUFFIX = ".update"
TIMEOUT_S = 60.0
QUIET_S = 5.0
"""A copy over a network that stands still for longer has to be made again."""


def dropped(folder: Path) -> list[Path]:
    """Bundles in the folder, the oldest first; links are none."""
    found = [path for path in folder.glob(f"*{SUFFIX}") if path.is_file() and not path.is_symlink()]
    return sorted(found, key=lambda path: path.stat().st_mtime)


def settled(path: Path, sleep: Callable[[float], None]) -> None:
    """Return when the file has not grown for a while: it may be on its way still."""
    size = -1
    while size != path.stat().st_size:
        size = path.stat().st_size
        sleep(QUIET_S)


@contextmanager
def opened(source: Path | str) -> Iterator[Stream]:
    """A file, or what a web server has at an address. Raises UpdateError."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            yield file
        return
    if not source.startswith(("http://", "https://")):
        raise UpdateError(f"{source} is no web address", hint='updates = "https://…" in edgefl.toml')
    try:
        with urllib.request.urlopen(source, timeout=TIMEOUT_S) as answer:  # noqa: S310 (checked above)
            yield cast(BinaryIO, answer)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise UpdateError(f"no update from {source}: {error}", hint="it is tried again tomorrow") from None
