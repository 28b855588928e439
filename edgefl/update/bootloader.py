"""Which system starts next. One that is on trial is started once; unless it is kept until then, the next start is of
the system before, whatever became of it.

UEFI: systemd-boot counts (systemd.io/AUTOMATIC_BOOT_ASSESSMENT). `edgefl-b+1.conf` has one try left; the loader renames
it to `edgefl-b+0-1.conf` before it starts it, and then prefers any other. Kept means renamed to `edgefl-b.conf`.

Raspberry Pi: its firmware reads config.txt and counts nothing. The system on trial itself puts `config.good` back, as
the first act of its initramfs (firmware-images/base/etc/initramfs-tools). Kept means that both files name it. A kernel
that dies before its initramfs is not recovered from (firmware-images/README.md has what was looked at).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Protocol

from edgefl.durable import sync_directory
from edgefl.firstboot.card import SECTOR_BYTES, Card
from edgefl.update.slots import GPT_ROOTS, MBR_ROOTS, Running, options

CONFIG, GOOD = "config.txt", "config.good"

RESTORE = "edgefl.restore"
"""Tells the initramfs to put `config.good` back."""


class Bootloader(Protocol):
    """All raise OSError when the boot partition cannot be written."""

    @property
    def roots(self) -> dict[str, str]:
        """The partition ids of the two roots."""
        ...

    def retire(self, slot: str) -> None:
        """Never start this system again: it is about to be overwritten, or was found to be ill."""
        ...

    def stage(self, place: Running, cmdline: str, machine_id: str) -> None:
        """Start this system next, once."""
        ...

    def keep(self, slot: str) -> None:
        """Start this system from now on."""
        ...


def bootloader_of(card: Card) -> Bootloader:
    return PiFirmware(card) if (card.directory / GOOD).exists() else SystemdBoot(card)


class SystemdBoot:
    roots = GPT_ROOTS

    def __init__(self, card: Card) -> None:
        self._card = card
        self._entries = card.directory / "loader" / "entries"

    def retire(self, slot: str) -> None:
        with self._card.writable():
            for path in self._of(slot):
                path.unlink()
            sync_directory(self._entries)

    def stage(self, place: Running, cmdline: str, machine_id: str) -> None:
        text = entry(place, options(cmdline, self.roots[place.slot], place, machine_id))
        new = self._entries / f"{place.slot}.new"  # no entry to the loader, until it is whole
        with self._card.writable():
            write_synced(new, text.encode())
            for path in self._of(place.slot):
                path.unlink()
            os.replace(new, self._entries / f"edgefl-{place.slot}+1.conf")
            sync_directory(self._entries)

    def keep(self, slot: str) -> None:
        kept = self._entries / f"edgefl-{slot}.conf"
        with self._card.writable():
            for path in self._of(slot):
                if path != kept:
                    os.replace(path, kept)
            sync_directory(self._entries)

    def _of(self, slot: str) -> list[Path]:
        return [path for path in self._entries.iterdir() if re.fullmatch(rf"edgefl-{slot}(\+.*)?\.conf", path.name)]


def entry(place: Running, line: str) -> str:
    """A boot loader entry (systemd.io/BOOT_LOADER_SPECIFICATION). The newest is first, one without tries last."""
    return (
        f"title edgefl ({place.slot})\nsort-key edgefl\nversion {place.serial}\n"
        f"linux /{place.slot}/vmlinuz\ninitrd /{place.slot}/initrd.img\noptions {line}\n"
    )


class PiFirmware:
    roots = MBR_ROOTS

    def __init__(self, card: Card) -> None:
        self._card = card

    def retire(self, slot: str) -> None:
        good = self._good()
        if choice_of(good) == slot:
            raise OSError(f"system {slot} is the one that is kept")
        self._card.overwrite(CONFIG, good)

    def stage(self, place: Running, cmdline: str, machine_id: str) -> None:
        line = options(f"{cmdline} {RESTORE}", self.roots[place.slot], place, machine_id)
        with self._card.writable():
            write_synced(self._card.directory / place.slot / "cmdline.txt", f"{line}\n".encode())
        self._card.overwrite(CONFIG, choose(self._good(), place.slot))

    def keep(self, slot: str) -> None:
        # In this order: a cut between the two leads to the other system, whose edgefl-health tries this one again.
        chosen = choose(self._good(), slot)
        self._card.overwrite(CONFIG, chosen)
        self._card.overwrite(GOOD, chosen)

    def _good(self) -> bytes:
        content = self._card.read(GOOD, SECTOR_BYTES)
        if not content or choice_of(content) == "":
            raise OSError(f"{GOOD} on the boot partition is damaged")
        return content


def choose(config: bytes, slot: str) -> bytes:
    """The same config.txt with the other choice: as long as it was, one sector."""
    return re.sub(rb"(?m)^os_prefix=[ab]/", b"os_prefix=" + slot.encode() + b"/", config)


def choice_of(config: bytes) -> str:
    found = re.search(rb"(?m)^os_prefix=([ab])/", config)
    return found[1].decode() if found else ""


def write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
