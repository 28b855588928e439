"""Settings into an image, or into many copies of it, each with a token of its own: overwritten in place, on any PC."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgefl.errors import UsageError
from edgefl.firstboot.settings import SLOT_BYTES, CardSettings, read, render
from edgefl.image.disk import find_slot

BLOCK_BYTES = 1 << 20


def settings_in(image: Path) -> CardSettings:
    """What an image is set to. Raises ImageError and ConfigError."""
    at = find_slot(image)
    with image.open("rb") as file:
        file.seek(at)
        return read(file.read(SLOT_BYTES))


def write_settings(image: Path, settings: CardSettings) -> None:
    """Overwrite the slot of an image. Raises ImageError, ConfigError (what no device would take), UsageError."""
    slot = render(settings)
    read(slot)
    at = find_slot(image)
    with image.open("r+b") as file:
        file.seek(at)
        file.write(slot)
        file.flush()
        os.fsync(file.fileno())


def write_copies(image: Path, settings: Sequence[CardSettings]) -> list[Path]:
    """One copy of the image for each, NAME-001.img and so on beside it. Raises as `write_settings`, and UsageError."""
    for number in range(1, len(settings) + 1):
        if numbered(image, number).exists():
            raise UsageError(f"{numbered(image, number)} exists already", hint="move it away, or delete it")
    made = []
    for number, one in enumerate(settings, 1):
        copy = numbered(image, number)
        _copy(image, copy)
        if one.hostname:
            one = replace(one, hostname=f"{one.hostname}-{number:03d}")
        write_settings(copy, one)
        made.append(copy)
    return made


def numbered(image: Path, number: int) -> Path:
    return image.with_name(f"{image.stem}-{number:03d}{image.suffix}")


def _copy(source: Path, target: Path) -> None:
    """Blocks of zeros become holes: half of an image is empty."""
    empty = bytes(BLOCK_BYTES)
    with source.open("rb") as reader, target.open("xb") as writer:
        target.chmod(0o600)  # it will hold a token
        while block := reader.read(BLOCK_BYTES):
            if block == empty:
                writer.seek(BLOCK_BYTES, os.SEEK_CUR)
            else:
                writer.write(block)
        writer.truncate(source.stat().st_size)
