"""The program: from the card into the device, in an order that a power cut cannot hurt.

    1  what an earlier cut left is tidied: half-written copies removed, a wipe that had begun finished
    2  token                -> etc/token, 0600: written, synced, renamed, folder synced; likewise a Wi-Fi passphrase
    3  settings             -> etc/edgefl.toml, without the token
    4  "a wipe has begun"   -> etc/wiping: digests of the card's sectors, so that a half-overwritten file is known
    5  edgefl.toml on the card is overwritten in place by the same settings without the token, synced
    6  etc/wiping is removed
    7  data files of the card are copied, name and ssh keys set, the status written

Each step looks at what is there and does nothing if it is done: running the program again is how it recovers, and how
settings that a person has changed on the card come into the device at the next boot.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from edgefl.declared import dataclass
from edgefl.durable import sync_directory, write_atomically
from edgefl.errors import ConfigError, EdgeflError
from edgefl.firstboot import settings as form
from edgefl.firstboot.card import Card, sectors
from edgefl.firstboot.settings import CardSettings
from edgefl.firstboot.status import Outcome

TOKEN, SETTINGS, UPDATES, WIPING = "token", "edgefl.toml", "updates.toml", "wiping"

NOTE = Path("taken", "sums")
"""While it is there, the next boot may find that nothing has changed (taken.py)."""

TAKEN = "The device has taken token and passphrase off this card; it keeps them."


@dataclass(frozen=True, slots=True)
class Places:
    """`etc`: the device's settings. `data`: copies of data files, for `owner` (user and group number), in a folder that
    the daemon cannot write. `ssh`: authorized keys. `wifi`: networks as iwd knows them. `host_key`: ssh's own."""

    card: Card
    etc: Path
    data: Path
    ssh: Path
    wifi: Path
    host_key: Path
    owner: tuple[int, int] | None = None


def take_settings(places: Places) -> tuple[CardSettings, Outcome]:
    """Steps 1 to 7 (but the status). What is wrong is in the outcome; the device goes on with what it has.

    Raises StorageError when the device itself cannot be written.
    """
    outcome = Outcome()
    found = CardSettings()
    try:
        _tidy(places)
        content = places.card.read(form.FILE, form.MAX_FILE_BYTES)
        if content is None:
            raise ConfigError(f"there is no {form.FILE} on this card", hint="write one; the image had an example")
        found = form.read(content)
        keep(places.etc / TOKEN, found.token.encode() + b"\n", 0o600, wanted=bool(found.token))
        keep(places.etc / SETTINGS, _for_daemon(places, found), 0o644, wanted=not found.empty)
        keep(places.etc / UPDATES, _for_updates(found), 0o644, wanted=not found.empty)
        if found.passphrase:
            keep(*_network(places, found), 0o600)
        if found.secret:
            _wipe(places, content, form.render(found.without_secrets(), TAKEN))
            outcome.done.append("the secrets are in the device, and no longer on this card")
        _ssh(places, found)
        _data(places, found, outcome)
    except OSError as error:
        outcome.problems.append((f"the card or the device cannot be written: {error}", "try another card"))
    except EdgeflError as error:
        outcome.problems.append((error.cause, error.hint))
    if not outcome.problems and not (places.etc / TOKEN).exists():
        outcome.done.append("there is no token: the device looks for a fleet around it and waits to be approved")
    return found, outcome


def _tidy(places: Places) -> None:
    if (places.etc / NOTE).exists():
        _forget(places.etc / NOTE)
    places.etc.mkdir(parents=True, exist_ok=True)
    places.wifi.mkdir(parents=True, exist_ok=True)
    for rest in [*places.etc.glob(".*"), *places.wifi.glob(".*.psk.*")]:  # temporary files of write_atomically
        rest.unlink()
    note = places.etc / WIPING
    if not note.exists():
        return
    content = places.card.read(form.FILE, form.MAX_FILE_BYTES) or b""
    old, new = json.loads(note.read_bytes())["old"], json.loads(note.read_bytes())["new"].encode()
    if _half_done(content, old, sectors(new)):
        places.card.overwrite(form.FILE, new)
    _forget(note)


def _network(places: Places, found: CardSettings) -> tuple[Path, bytes]:
    """The file in which iwd keeps a network (iwd.network(5)): its name in hexadecimal digits, which fits any."""
    return places.wifi / f"={found.ssid.encode().hex()}.psk", f"[Security]\nPassphrase={found.passphrase}\n".encode()


def _half_done(content: bytes, old: list[str], new: list[str]) -> bool:
    """Whether the file is what a cut wipe leaves: each sector the old or the new one; or it cannot be read at all."""
    now = sectors(content)
    mixed = all(digest in (*old[at : at + 1], *new[at : at + 1]) for at, digest in enumerate(now))
    with contextlib.suppress(ConfigError):
        form.read(content)
        return mixed
    return True


def _wipe(places: Places, content: bytes, new: bytes) -> None:
    new = new.ljust(len(content))
    note = places.etc / WIPING
    write_atomically(note, json.dumps({"old": sectors(content), "new": new.decode()}).encode(), mode=0o600)
    places.card.overwrite(form.FILE, new)
    _forget(note)


def _forget(note: Path) -> None:
    note.unlink()
    sync_directory(note.parent)


def keep(path: Path, content: bytes, mode: int, *, wanted: bool = True) -> None:
    if wanted and (not path.exists() or path.read_bytes() != content):
        write_atomically(path, content, mode=mode)


def _for_daemon(places: Places, found: CardSettings) -> bytes:
    daemon: dict[str, Any] = dict(found.daemon)
    if "data" in daemon:
        daemon["data"] = {
            name: str(_copy_of(places, name, source)) if _on_card(source) else source
            for name, source in daemon["data"].items()
        }
    return form.to_toml(CardSettings(daemon=daemon)).encode()


def _for_updates(found: CardSettings) -> bytes:
    return form.to_toml(CardSettings(updates=found.updates, alone=found.alone)).encode()


def read_updates(etc: Path) -> CardSettings:
    """What edgefl.update is told: `updates` and `alone`. Raises ConfigError."""
    path = etc / UPDATES
    return form.read(path.read_bytes()) if path.exists() else CardSettings()


def _on_card(source: str) -> bool:
    """A relative path means a file on the card."""
    return not source.startswith(("/", "plugin:"))


def _copy_of(places: Places, name: str, source: str) -> Path:
    return places.data / (name.replace("/", "_") + Path(source).suffix)


def data_files(places: Places, found: CardSettings) -> list[Path]:
    """All files that the settings name, on the card and in the device."""
    sources = found.daemon.get("data", {}).items()
    originals = [places.card.directory / source for _, source in sources if _on_card(source)]
    copies = [_copy_of(places, name, source) for name, source in sources if _on_card(source)]
    return [*originals, *copies, *(Path(source) for _, source in sources if source.startswith("/"))]


def _data(places: Places, found: CardSettings, outcome: Outcome) -> None:
    for name, source in found.daemon.get("data", {}).items():
        if not _on_card(source):
            if source.startswith("/") and not Path(source).exists():
                outcome.problems.append((f"data {name}: there is no {source} on the device", "correct its path"))
            continue
        original, copy = places.card.directory / source, _copy_of(places, name, source)
        if not original.is_file() or not original.resolve().is_relative_to(places.card.directory.resolve()):
            if not copy.exists():
                outcome.problems.append(
                    (f"data {name}: there is no file {source} on this card", f"copy {source} beside {form.FILE}")
                )
            continue
        if _copy(original, copy, places.owner):
            outcome.done.append(f"data {name}: {source} was copied to the device, and may be deleted here")


def _copy(original: Path, copy: Path, owner: tuple[int, int] | None) -> bool:
    """Copy a file if it has changed since; whether it had."""
    status = original.stat()
    if copy.exists() and (copy.stat().st_size, copy.stat().st_mtime) == (status.st_size, status.st_mtime):
        return False
    import shutil  # not above: after first boot nothing is copied

    copy.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    temporary = copy.with_name(f".{copy.name}.new")
    with original.open("rb") as source, temporary.open("wb") as target:
        shutil.copyfileobj(source, target)
        target.flush()
        os.fsync(target.fileno())
    os.utime(temporary, (status.st_atime, status.st_mtime))
    temporary.chmod(0o640)
    if owner is not None:
        os.chown(copy.parent, *owner)
        os.chown(temporary, *owner)
    os.replace(temporary, copy)
    sync_directory(copy.parent)
    return True


def _ssh(places: Places, found: CardSettings) -> None:
    """The keys of edgefl-admin; ssh starts only where this file is."""
    path = places.ssh / "edgefl-admin"
    if found.ssh_keys:
        path.parent.mkdir(parents=True, exist_ok=True)
        keep(path, "".join(f"{key}\n" for key in found.ssh_keys).encode(), 0o644)
    elif path.exists():
        _forget(path)
