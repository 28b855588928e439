"""An image onto a card: only onto a whole, removable, unmounted disk that is large enough; synced, then read back."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgefl.errors import UsageError
from edgefl.image.disk import ImageError

BLOCK_BYTES = 4 << 20
"""What an SD card erases at once; smaller writes wear it more."""

BLKFLSBUF = 0x1261
"""ioctl: forget what the kernel has cached of a block device, so that reading back asks the card."""


@dataclass(frozen=True, slots=True)
class Disk:
    """What the kernel says of a block device."""

    path: Path
    whole: bool
    removable: bool
    size: int
    model: str
    mounted: tuple[str, ...]


def examine(path: Path, system: Path = Path("/")) -> Disk:
    """Look a device up under `system`/sys and /proc. Raises UsageError when it is no block device that is known."""
    name = path.resolve().name
    entry = system / "sys/class/block" / name
    if not entry.exists():
        raise UsageError(f"{path} is no disk", hint="name the card's device, for example /dev/sdb; lsblk lists them")
    whole = not (entry / "partition").exists()
    bus = os.fspath(entry.resolve())
    removable = _read(entry / "removable") == "1" or "/usb" in bus or _read(entry / "device/type") == "SD"
    mounts = (system / "proc/mounts").read_text().splitlines()
    mounted = tuple(
        line.split()[1] for line in mounts if line.split()[0].startswith(f"/dev/{name}") and line.startswith("/dev/")
    )
    model = _read(entry / "device/model") or _read(entry / "device/name")
    return Disk(path, whole, removable, int(_read(entry / "size") or 0) * 512, model, mounted)


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text().strip()
    return ""


def refuse(disk: Disk, size: int) -> None:
    """Raise UsageError unless an image of `size` bytes may be written to this disk."""
    if not disk.whole:
        raise UsageError(f"{disk.path} is a partition", hint="name the whole disk")
    if not disk.removable:
        raise UsageError(
            f"{disk.path} ({disk.model or 'unknown'}) is not removable",
            hint="edgefl writes to cards and USB disks alone",
        )
    if disk.mounted:
        raise UsageError(f"{disk.path} is in use: {', '.join(disk.mounted)}", hint="unmount it first")
    if disk.size < size:
        raise UsageError(f"{disk.path} has {disk.size >> 20} MB, the image {size >> 20}", hint="use a larger card")


def write_and_verify(image: Path, target: Path, say: Callable[[int, int], None]) -> None:
    """Copy, sync, read back from the medium and compare; `say` hears bytes done of twice the size.

    Raises ImageError when the medium gives back something else, and OSError.
    """
    size = image.stat().st_size
    with image.open("rb") as source, target.open("r+b", buffering=0) as disk:
        done = 0
        while block := source.read(BLOCK_BYTES):
            view = memoryview(block)
            while view:
                view = view[disk.write(view) :]
            done += len(block)
            say(done, 2 * size)
        os.fsync(disk.fileno())
        os.posix_fadvise(disk.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if stat.S_ISBLK(os.fstat(disk.fileno()).st_mode):
            with contextlib.suppress(OSError):
                fcntl.ioctl(disk.fileno(), BLKFLSBUF)
        source.seek(0)
        disk.seek(0)
        while block := source.read(BLOCK_BYTES):
            back = b""
            while len(back) < len(block) and (piece := disk.read(len(block) - len(back))):
                back += piece
            if back != block:
                raise ImageError(
                    f"{target} gave back something else near byte {source.tell() - len(block):,}",
                    hint="the card is worn out or counterfeit: use another one",
                )
            done += len(block)
            say(done, 2 * size)
