"""A bundle into the place that does not run.

    1  the whole file is copied to where root alone writes, and checked against its signed manifest on the way
    2  the other place is retired: from now on nothing starts it
    3  root unpacked into its partition and read back; kernel and initramfs into its folder on the boot partition
    4  the trial is written down, then the loader is told

A cut anywhere leaves the running system chosen; the next attempt begins anew.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from edgefl.durable import write_atomically
from edgefl.firstboot.card import Card
from edgefl.update.bootloader import Bootloader, write_synced
from edgefl.update.bundle import BLOCK_BYTES, MAX_BOOT_BYTES, Manifest, Stream, UpdateError, copy_part, read_head
from edgefl.update.slots import Running, other
from edgefl.update.trial import Records, Trial

BOOT, ROOT, CMDLINE = "boot.tar", "root.zst", "cmdline"


@dataclass(frozen=True, slots=True)
class Device:
    """Where things are. `partitions` is /dev/disk/by-partuuid, `room` a folder of root's on the data partition."""

    card: Card
    loader: Bootloader
    records: Records
    partitions: Path
    room: Path
    running: Running
    machine_id: str


def fetch(stream: Stream, device: Device, fleet: bytes) -> Manifest | None:
    """Step 1. None: it is not newer than what runs, or was found to be ill before. Raises UpdateError, OSError."""
    manifest = read_head(stream, fleet)
    if manifest.target != device.running.target:
        raise UpdateError(
            f"the update is for {manifest.target}, this device is {device.running.target}",
            hint="make it of an image of the same target",
        )
    if manifest.serial <= device.running.serial or digest_of(manifest) in device.records.refused():
        return None
    device.room.mkdir(mode=0o700, parents=True, exist_ok=True)
    free = shutil.disk_usage(device.room).free
    if free < manifest.size + BLOCK_BYTES:
        raise UpdateError(f"the update needs {manifest.size >> 20} MB, the card has {free >> 20}", hint="make room")
    for name, part in ((BOOT, manifest.boot), (ROOT, manifest.root)):
        with (device.room / name).open("wb") as file:
            copy_part(stream, part, file.write)
    return manifest


def install(manifest: Manifest, device: Device) -> Running:
    """Steps 2 to 4 with what `fetch` has left. Raises UpdateError, OSError."""
    place = Running(other(device.running.slot), manifest.serial, manifest.target)
    device.loader.retire(place.slot)
    _write_root(device.room / ROOT, device.partitions / device.loader.roots[place.slot], manifest)
    _write_boot(device.room / BOOT, device.card, place.slot)
    tidy(device)
    write_atomically(device.room / CMDLINE, manifest.cmdline.encode())  # a trial that is written down can be repeated
    device.records.begin(Trial(place.slot, place.serial, 1, digest_of(manifest)))
    device.loader.stage(place, manifest.cmdline, device.machine_id)
    return place


def stage_again(trial: Trial, device: Device) -> None:
    """The same trial once more; what it needs is in its place. Raises OSError."""
    place = Running(trial.slot, trial.serial, device.running.target)
    device.loader.stage(place, (device.room / CMDLINE).read_text(), device.machine_id)


def tidy(device: Device) -> None:
    for name in (BOOT, ROOT):
        (device.room / name).unlink(missing_ok=True)


def digest_of(manifest: Manifest) -> str:
    return hashlib.sha256(manifest.encode()).hexdigest()[:32]


def _write_root(source: Path, partition: Path, manifest: Manifest) -> None:
    if not partition.exists():
        raise UpdateError(f"there is no partition {partition.name}", hint="flash the newer image onto the card")
    with partition.open("r+b", buffering=0) as target:
        room = target.seek(0, os.SEEK_END)
        target.seek(0)
        if manifest.unpacked.size > room:
            raise UpdateError("the new system is larger than its place", hint="flash the newer image onto the card")
        command = ["zstd", "--decompress", "--quiet", "--stdout", "--memory=64MB", str(source)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as unpacker:
            left = manifest.unpacked.size
            with cast(IO[bytes], unpacker.stdout) as unpacked:
                while left and (block := unpacked.read(min(left, BLOCK_BYTES))):
                    _write_whole(target.fileno(), block)
                    left -= len(block)
        os.fsync(target.fileno())
        os.posix_fadvise(target.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        target.seek(0)
        digest, left = hashlib.sha256(), manifest.unpacked.size
        while left and (block := target.read(min(left, BLOCK_BYTES))):
            digest.update(block)
            left -= len(block)
        # The kernel keeps no page of it: later reads are of what the card has.
        os.posix_fadvise(target.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if digest.hexdigest() != manifest.unpacked.sha256:
        raise UpdateError("the card gave back something else than was written", hint="use another card")


def _write_whole(descriptor: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(descriptor, view) :]


def _write_boot(source: Path, card: Card, slot: str) -> None:
    folder = card.directory / slot
    with card.writable():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        with tarfile.open(source, "r:") as archive:
            total = 0
            for member in archive:
                total += member.size
                path = folder / member.name
                inside = os.path.normpath(path) == str(path) and path.is_relative_to(folder)
                if not inside or total > MAX_BOOT_BYTES or not (member.isreg() or member.isdir()):
                    raise UpdateError("the update has files where none belong", hint="build it again")
                if member.isdir():
                    path.mkdir(exist_ok=True)
                    continue
                write_synced(path, cast(IO[bytes], archive.extractfile(member)).read())
        os.sync()
