"""A device with two systems, made of plain folders and files, and bundles for it. It starts as its loader would."""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import tarfile
from pathlib import Path

from edgefl.firstboot.card import Card
from edgefl.identity.fleet import FleetKey
from edgefl.update.bootloader import CONFIG, GOOD, bootloader_of, choice_of, entry
from edgefl.update.bundle import Manifest, Part, head
from edgefl.update.install import Device
from edgefl.update.slots import GPT_ROOTS, MBR_ROOTS, Running, options, running
from edgefl.update.trial import Records

KEY = FleetKey(bytes(32))
PLACE_BYTES = 64 * 1024

PI_CONFIG = b"# comment\nos_prefix=a/\nkernel=vmlinuz\n"


def device(home: Path, *, pi: bool) -> Device:
    """As it is flashed: system a, serial 0."""
    boot, partitions, room = home / "boot", home / "partitions", home / "update"
    for folder in (boot / "a", partitions, room):
        folder.mkdir(parents=True)
    (boot / "a" / "vmlinuz").write_bytes(b"kernel 0")
    for name in (MBR_ROOTS if pi else GPT_ROOTS).values():
        (partitions / name).write_bytes(bytes(PLACE_BYTES))
    place = Running("a", 0, "pc")
    if pi:
        for name in (CONFIG, GOOD):
            (boot / name).write_bytes(PI_CONFIG)
        (boot / "a" / "cmdline.txt").write_text(options("ro", MBR_ROOTS["a"], place))
    else:
        entries = boot / "loader" / "entries"
        entries.mkdir(parents=True)
        (entries / "edgefl-a.conf").write_text(entry(place, options("ro", GPT_ROOTS["a"], place)))
    return of(home, place)


def of(home: Path, runs: Running) -> Device:
    card = Card(home / "boot", mounted=False)
    return Device(
        card, bootloader_of(card), Records(home / "update"), home / "partitions", home / "update", runs, "cafe"
    )


def start(home: Path) -> tuple[Device, str]:
    """Switch it on: the device as the loader starts it, and its whole command line."""
    boot = home / "boot"
    line = _pi_starts(boot) if (boot / GOOD).exists() else _systemd_boot_starts(boot / "loader" / "entries")
    runs = running(line)
    assert runs is not None
    return of(home, runs), line


def _pi_starts(boot: Path) -> str:
    slot = choice_of((boot / CONFIG).read_bytes())
    line = (boot / slot / "cmdline.txt").read_text()
    if "edgefl.restore" in line.split():  # the initramfs (firmware-images/base/etc/initramfs-tools)
        (boot / CONFIG).write_bytes((boot / GOOD).read_bytes())
    return line


def _systemd_boot_starts(entries: Path) -> str:
    """The newest version that has tries left; counted down before it starts (sd-boot(7))."""

    def rank(path: Path) -> tuple[bool, int]:
        version = re.search(r"^version (\d+)$", path.read_text(), re.MULTILINE)
        assert version is not None
        return not re.search(r"\+0(-\d+)?\.conf$", path.name), int(version[1])

    chosen = max((path for path in entries.iterdir() if path.suffix == ".conf"), key=rank)
    text = chosen.read_text()
    left = re.fullmatch(r"(edgefl-[ab])\+(\d+)(?:-(\d+))?\.conf", chosen.name)
    if left is not None and int(left[2]) > 0:
        chosen.rename(entries / f"{left[1]}+{int(left[2]) - 1}-{int(left[3] or 0) + 1}.conf")
    return next(line.removeprefix("options ") for line in text.splitlines() if line.startswith("options "))


def bundle(
    serial: int, *, root: bytes = b"root" * 1000, key: FleetKey = KEY, target: str = "pc", name: str = ""
) -> bytes:
    packed = subprocess.run(["zstd", "--quiet", "--stdout"], input=root, capture_output=True, check=True).stdout
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:") as archive:
        for path in ("vmlinuz", "initrd.img", *([name] if name else [])):
            member = tarfile.TarInfo(path)
            member.size = len(path)
            archive.addfile(member, io.BytesIO(path.encode()))
    boot = content.getvalue()
    parts = [Part(len(one), hashlib.sha256(one).hexdigest()) for one in (boot, packed, root)]
    manifest = Manifest(target, serial, "1.2.3", "ro quiet", *parts)
    return head(manifest, key) + boot + packed


def damaged(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]
