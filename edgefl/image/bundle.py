"""The system in an image as an update for devices in the field (edgefl/update): one file, signed by the fleet's key."""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from edgefl import __version__
from edgefl.identity.fleet import FleetKey
from edgefl.image.disk import ImageError, ext_size, partitions
from edgefl.image.payload import BuildError, epoch, run
from edgefl.update.bootloader import GOOD
from edgefl.update.bundle import BLOCK_BYTES, Manifest, Part, head
from edgefl.update.slots import Running, running

COMPRESSION_LEVEL = "-10"

OWN_WORDS = ("root=", "edgefl.", "systemd.machine_id=")
"""Of the kernel's command line: they belong to a place or a device, not to the system."""


def make_bundle(image: Path, out: Path, key: FleetKey, serial: int) -> Manifest:
    """Write the update `out`. Devices take only a higher `serial` than they have. Raises ImageError, BuildError."""
    parts = partitions(image)
    fat = f"{image}@@{parts[0].start}"
    with tempfile.TemporaryDirectory(prefix="edgefl-bundle-", dir=out.parent) as scratch:
        room = Path(scratch)
        run("mcopy", "-s", "-m", "-i", fat, "::a", str(room))
        line, place = _system(image)
        (room / "a" / "cmdline.txt").unlink(missing_ok=True)
        boot, root = room / "boot.tar", room / "root.zst"
        _tar(room / "a", boot)
        unpacked = _compress(image, parts[1].start, ext_size(image, parts[1]), root)
        words = " ".join(word for word in line.split() if not word.startswith(OWN_WORDS))
        manifest = Manifest(place.target, serial, __version__, words, _part(boot), _part(root), unpacked)
        with out.open("wb") as file:
            file.write(head(manifest, key))
            for path in (boot, root):
                for block in _blocks(path):
                    file.write(block)
    return manifest


def target_of(image: Path) -> str:
    """The recipe that an image was built from. Raises ImageError."""
    return _system(image)[1].target


def _system(image: Path) -> tuple[str, Running]:
    """The command line of the system a, and what it says of it."""
    fat = f"{image}@@{partitions(image)[0].start}"
    names = run("mdir", "-b", "-i", fat, "::")
    if GOOD in names:
        line = run("mtype", "-i", fat, "::a/cmdline.txt").strip()
    else:
        text = run("mtype", "-i", fat, "::loader/entries/edgefl-a.conf")
        line = next((line.removeprefix("options ") for line in text.splitlines() if line.startswith("options ")), "")
    place = running(line)
    if place is None:
        raise ImageError(f"{image} has no place for updates", hint="build it again with this version")
    return line, place


def _tar(folder: Path, out: Path) -> None:
    """The same bytes for the same files."""
    with tarfile.open(out, "w:", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(folder.rglob("*")):
            member = archive.gettarinfo(path, str(path.relative_to(folder)))
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mode, member.mtime = 0o644, epoch()
            if path.is_dir():
                archive.addfile(member)
            else:
                with path.open("rb") as content:
                    archive.addfile(member, content)


def _compress(image: Path, start: int, size: int, out: Path) -> Part:
    """The root file system through zstd; what it is unpacked."""
    digest, left = hashlib.sha256(), size
    command = ["zstd", "--quiet", COMPRESSION_LEVEL, "-T0", "--force", "-o", str(out)]
    with image.open("rb") as source, subprocess.Popen(command, stdin=subprocess.PIPE) as packer:
        source.seek(start)
        with cast(IO[bytes], packer.stdin) as pipe:
            while left and (block := source.read(min(left, BLOCK_BYTES))):
                digest.update(block)
                pipe.write(block)
                left -= len(block)
    if packer.returncode:
        raise BuildError(f"zstd failed with {packer.returncode}", hint="is there room on the disk?")
    return Part(size, digest.hexdigest())


def _part(path: Path) -> Part:
    digest = hashlib.sha256()
    for block in _blocks(path):
        digest.update(block)
    return Part(path.stat().st_size, digest.hexdigest())


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block
