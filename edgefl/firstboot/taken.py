"""What tells a boot that the card holds nothing new, without Python: written after settings were taken and nothing was
wrong, and read by /usr/lib/edgefl/take-settings. A folder beside the device's settings, with

    sums       digests (b2sum(1)) of what decides, and of the other three: without them it is as if nothing was written
    files      data files and the like, a line for each: "SIZE SECONDS PATH", or "- - PATH" where there is none
    status     what the card's status begins with
    name       the device's host name

A card with a secret on it is never noted, and the sums go before anything is taken (steps.py): no cut leaves a wrong
note.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from edgefl.durable import write_atomically
from edgefl.errors import ConfigError
from edgefl.firstboot import settings as form
from edgefl.firstboot import steps
from edgefl.firstboot.settings import CardSettings
from edgefl.firstboot.status import as_on_card
from edgefl.firstboot.steps import Places


def note(places: Places, found: CardSettings, text: str, name: str, system: Iterable[Path]) -> None:
    """`found` is in the device, `text` on the card; `system` are files that differ on another board and in another
    system. Raises OSError, StorageError."""
    content = places.card.read(form.FILE, form.MAX_FILE_BYTES) or b""
    with contextlib.suppress(ConfigError):
        if form.read(content) == found.without_secrets():
            _note(places, found, text, name, system)


def _note(places: Places, found: CardSettings, text: str, name: str, system: Iterable[Path]) -> None:
    sums = places.etc / steps.NOTE
    folder = sums.parent
    folder.mkdir(mode=0o700, exist_ok=True)
    for rest in folder.glob(".*"):  # of write_atomically, when the power went
        rest.unlink()
    device = [places.etc / steps.SETTINGS, places.etc / steps.UPDATES, places.ssh / "edgefl-admin"]
    small = [places.card.directory / form.FILE, *device, *system]
    large = [*steps.data_files(places, found), places.etc / steps.TOKEN, places.etc / steps.WIPING]
    large += [path for path in small if not path.exists()]
    if found.ssh_keys:
        large.append(places.host_key)
    if any("\n" in str(path) or str(path) != str(path).strip() for path in large):
        return  # a shell would not read it back
    steps.keep(folder / "files", "".join(f"{_stat(path)} {path}\n" for path in large).encode(), 0o600)
    steps.keep(folder / "status", as_on_card(text), 0o600)
    steps.keep(folder / "name", name.encode(), 0o600)
    small += [folder / "files", folder / "status", folder / "name"]
    lines = "".join(f"{_digest(path)}  {path}\n" for path in small if path.exists())
    write_atomically(sums, lines.encode(), mode=0o600)


def _stat(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "- -"
    return f"{status.st_size} {int(status.st_mtime)}"


def _digest(path: Path) -> str:
    import hashlib  # not above: it loads all of OpenSSL

    return hashlib.blake2b(path.read_bytes()).hexdigest()
