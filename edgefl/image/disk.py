"""What lies where in an image: its partitions (MBR, GPT) and the settings slot, found without any FAT code.

mtools writes a file of a fresh FAT in one piece, so the slot is one run of bytes from its marker, at the beginning of a
sector, to its end. That is checked before anything is written.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from edgefl.errors import LocalError
from edgefl.firstboot.settings import END, MARKER, SLOT_BYTES

SECTOR_BYTES = 512
MBR_SIGNATURE = b"\x55\xaa"
GPT_PROTECTIVE, EXTENDED = 0xEE, (0x05, 0x0F)
MAX_GPT_ENTRIES = 128
EXT_MAGIC, EXT_MAGIC_AT, EXT_LABEL_AT = b"\x53\xef", 1024 + 0x38, 1024 + 0x78
EXT_BLOCKS_AT, EXT_BLOCK_SIZE_AT = 1024 + 0x4, 1024 + 0x18


class ImageError(LocalError):
    """A file that is no image of edgefl, or a damaged one."""

    name = "image"


@dataclass(frozen=True, slots=True)
class Partition:
    number: int
    start: int
    size: int
    """Bytes."""


def partitions(path: Path) -> list[Partition]:
    """The partitions of an image file. Raises ImageError."""
    total = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(SECTOR_BYTES)
        if head[510:] != MBR_SIGNATURE:
            raise ImageError(f"{path} has no partition table", hint="is it an image? a .zst must be unpacked first")
        found = []
        for number in range(1, 5):
            entry = head[446 + 16 * (number - 1) :][:16]
            start, length = struct.unpack_from("<II", entry, 8)
            if entry[4] == GPT_PROTECTIVE:
                found = _gpt(file.read(SECTOR_BYTES), path)
                break
            if length and entry[4] not in EXTENDED:
                found.append(Partition(number, start * SECTOR_BYTES, length * SECTOR_BYTES))
    for part in found:
        if part.start + part.size > total:
            raise ImageError(
                f"{path} is cut off: partition {part.number} ends behind it", hint="download or build it again"
            )
    return found


def _gpt(header: bytes, path: Path) -> list[Partition]:
    if header[:8] != b"EFI PART":
        raise ImageError(f"{path} has a damaged partition table", hint="download or build it again")
    at, count, size = struct.unpack_from("<QII", header, 72)
    found = []
    with path.open("rb") as file:
        file.seek(at * SECTOR_BYTES)
        for number in range(1, min(count, MAX_GPT_ENTRIES) + 1):
            entry = file.read(size)
            if len(entry) == size and entry[:16].strip(b"\0"):
                first, last = struct.unpack_from("<QQ", entry, 32)
                found.append(Partition(number, first * SECTOR_BYTES, (last - first + 1) * SECTOR_BYTES))
    return found


def ext_label(path: Path, part: Partition) -> str:
    """The label of an ext4 file system; empty if there is none."""
    block = _ext_head(path, part)
    if block[EXT_MAGIC_AT : EXT_MAGIC_AT + 2] != EXT_MAGIC:
        return ""
    return block[EXT_LABEL_AT : EXT_LABEL_AT + 16].rstrip(b"\0").decode("ascii", "replace")


def ext_size(path: Path, part: Partition) -> int:
    """The bytes of an ext4 file system, which may be smaller than its partition. Raises ImageError."""
    block = _ext_head(path, part)
    if block[EXT_MAGIC_AT : EXT_MAGIC_AT + 2] != EXT_MAGIC:
        raise ImageError(f"partition {part.number} of {path} has no file system", hint="is it an image of edgefl?")
    (count,) = struct.unpack_from("<I", block, EXT_BLOCKS_AT)
    (size,) = struct.unpack_from("<I", block, EXT_BLOCK_SIZE_AT)
    return int(count) * (1024 << int(size))


def _ext_head(path: Path, part: Partition) -> bytes:
    with path.open("rb") as file:
        file.seek(part.start)
        return file.read(2048)


def find_slot(path: Path) -> int:
    """Where the settings slot begins in an image. Raises ImageError when there is none, several, or a broken one."""
    boot = partitions(path)[0]
    marker, end = MARKER.encode(), END.encode()
    places = []
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        at = view.find(marker, boot.start, boot.start + boot.size)
        while at != -1:
            if (at - boot.start) % SECTOR_BYTES == 0 and view[at + SLOT_BYTES - len(end) : at + SLOT_BYTES] == end:
                places.append(at)
            at = view.find(marker, at + 1, boot.start + boot.size)
    if len(places) != 1:
        raise ImageError(
            f"{path} has {len(places) or 'no'} place{'s' * (len(places) > 1)} for settings",
            hint="put edgefl.toml onto its first partition by hand; only a fresh image of edgefl has the one place",
        )
    return places[0]
