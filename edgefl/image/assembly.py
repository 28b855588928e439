"""Base layer + package + overlay -> one disk image. Runs as root of a namespace of its own (namespace.py):

    python -m edgefl.image.assembly TASK.json

The same inputs give the same bytes: times are clamped to SOURCE_DATE_EPOCH, identifiers are fixed (a device draws its
own at first boot), and the file system is made by the target's own mke2fs, whose version the base layer fixes.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from edgefl.firstboot import settings, status
from edgefl.image.payload import BuildError, epoch, run
from edgefl.update.bootloader import CONFIG, GOOD, entry
from edgefl.update.slots import GPT_ROOTS, MBR_ROOTS, MBR_SIGNATURE, Running, options

ID = "a1b2c3d4-0000-4000-8000-0000000000{:02d}"
"""Identifiers of file systems and partitions; nothing refers to them, labels count."""

DATA_MEGABYTES = 64
"""Grown to the whole card at first boot."""

ROOT_SPARE = 1.15
"""The file system's own structures; the root is read-only and needs no room to grow."""

DATA_BYTES_PER_INODE = 256 * 1024
"""A sixteenth of mke2fs's inodes: first boot writes them all when it grows the file system (1 GB on a 64 GB card)."""

FAT_ID = "E0FEF10E"

ESP, LINUX = "U", "L"

UNITS = ("firstboot.service", "growdata.service", "zram.service", "health.service", "update.path", "update.timer")

ADMIN = 1000
"""The user and group edgefl-admin, who may leave updates in /data/incoming."""

PI_CONFIG = """\
# The system that starts is the folder after os_prefix. edgefl changes this line when it updates the system.
os_prefix=a/
arm_64bit=1
enable_uart=1
upstream_kernel=1
kernel=vmlinuz
initramfs initrd.img followkernel
"""
"""One sector: it is overwritten in place (edgefl/update/bootloader.py)."""


@dataclass(frozen=True, slots=True)
class Task:
    """Paths as texts; `work` is an empty folder, `image` the result."""

    base: str
    package: str
    recipes: str
    work: str
    image: str
    target: str
    boot: str
    cmdline: str
    boot_megabytes: int
    slot_megabytes: int

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))


def assemble(task: Task) -> None:
    """Raises BuildError."""
    work, root = Path(task.work), Path(task.work) / "root"
    parts = work / "parts"
    for folder in (root, parts / "boot", work / "none"):
        folder.mkdir(parents=True)
    run(str(Path(task.recipes) / "base" / "binfmt"))
    run("tar", "-C", str(root), "--numeric-owner", "--exclude=./dev/*", "-xpf", task.base)
    run("cp", "-r", "--no-preserve=ownership,timestamps", f"{task.recipes}/overlay/.", str(root))
    _install(root, Path(task.package))
    data = _data_folders(parts, root)
    _boot_folder(task, root, parts / "boot")
    _clean(root)
    _clamp(work)
    _file_systems(task, root, data, parts)
    _disk(task, parts, work)


def _install(root: Path, package: Path) -> None:
    """By dpkg in the target itself: its database knows the package, and its scripts are those of any device."""
    shutil.copy(package, root / "edgefl.deb")
    os.environ.update(DEBIAN_FRONTEND="noninteractive", PATH="/usr/sbin:/usr/bin:/sbin:/bin")
    # The overlay has laid settings where the package has a conffile's folder alone: keep what is there, ask nobody.
    run("chroot", str(root), "dpkg", "--force-confdef", "--force-confold", "--force-unsafe-io", "-i", "/edgefl.deb")
    (root / "edgefl.deb").unlink()
    for unit in ("edgefl.service", *(f"edgefl-{name}" for name in UNITS)):
        run("systemctl", f"--root={root}", "--quiet", "enable", unit)
    for unit in ("getty@.service", "serial-getty@.service"):
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")  # nobody can log in: there is no password


def _data_folders(parts: Path, root: Path) -> Path:
    data = parts / "data"
    for name in ("lib/edgefl", "lib/iwd", "etc/edgefl", "ssh/authorized_keys", "sources", "incoming", "update"):
        (data / name).mkdir(parents=True)
    os.chown(data / "incoming", ADMIN, ADMIN)
    (data / "update").chmod(0o700)
    run("cp", "-a", f"{root}/var/lib/systemd", f"{data}/lib/systemd")
    (data / "lib/systemd/random-seed").unlink(missing_ok=True)
    line = next(text for text in (root / "etc/passwd").read_text().splitlines() if text.startswith("edgefl:"))
    user, group = map(int, line.split(":")[2:4])
    os.chown(data / "lib/edgefl", user, group)
    (data / "lib/edgefl").chmod(0o700)
    for name in ("data", "boot/firmware", "var/lib/edgefl", "var/lib/iwd"):
        (root / name).mkdir(parents=True, exist_ok=True)
    return data


def _boot_folder(task: Task, root: Path, boot: Path) -> None:
    """The boot partition: what starts a system, and the system a in its folder."""
    kernel, initrd = _newest(root, "vmlinuz-"), _newest(root, "initrd.img-")
    place = Running("a", 0, task.target)
    (boot / "a").mkdir()
    shutil.copy(kernel, boot / "a" / "vmlinuz")
    shutil.copy(initrd, boot / "a" / "initrd.img")
    if task.boot == "rpi":
        firmware = root / "usr/lib/raspi-firmware"
        for path in (path for path in firmware.iterdir() if path.is_file()):
            shutil.copy(path, boot / path.name)
        shutil.copytree(firmware / "overlays", boot / "a" / "overlays")
        version = kernel.name.removeprefix("vmlinuz-")
        trees = [f"usr/lib/linux-image-{version}/broadcom", f"usr/lib/modules/{version}/dtb/broadcom"]
        for path in (path for folder in trees for path in (root / folder).glob("bcm*.dtb")):
            shutil.copy(path, boot / "a" / path.name)
        (boot / "a" / "cmdline.txt").write_text(options(task.cmdline, MBR_ROOTS["a"], place) + "\n")
        for name in (CONFIG, GOOD):
            (boot / name).write_text(PI_CONFIG)
    else:
        (loader,) = (root / "usr/lib/systemd/boot/efi").glob("systemd-boot*.efi")
        entries = boot / "loader" / "entries"
        for folder in (entries, boot / "EFI" / "BOOT"):
            folder.mkdir(parents=True)
        shutil.copy(loader, boot / "EFI" / "BOOT" / loader.name.replace("systemd-", "").upper())
        (boot / "loader" / "loader.conf").write_text("timeout 0\n")
        (entries / "edgefl-a.conf").write_text(entry(place, options(task.cmdline, GPT_ROOTS["a"], place)))
    for path in [kernel, initrd, *root.glob("vmlinuz*"), *root.glob("initrd.img*")]:
        path.unlink()
    shutil.rmtree(root / "boot/firmware")
    (root / "boot/firmware").mkdir()
    (boot / settings.FILE).write_bytes(settings.render(settings.CardSettings()))
    (boot / status.FILE).write_bytes(b"This device has not been started yet.".ljust(status.SLOT_BYTES))


def _newest(root: Path, prefix: str) -> Path:
    found = sorted((root / "boot").glob(f"{prefix}*"))
    if not found:
        raise BuildError(f"the base layer has no {prefix}*", hint="delete it, and look at its log")
    return found[-1]


def _clean(root: Path) -> None:
    for name in ("var/cache/apt", "var/lib/apt/lists", "var/log", "tmp", "var/tmp"):
        for path in (root / name).iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name in ("var/cache/ldconfig/aux-cache", "var/lib/dpkg/lock", "var/lib/dpkg/lock-frontend"):
        (root / name).unlink(missing_ok=True)
    (root / "usr/lib/clock-epoch").touch()  # a device without a clock begins no earlier than its image


def _clamp(work: Path) -> None:
    for path in work.rglob("*"):
        if path.lstat().st_mtime > epoch():
            os.utime(path, (epoch(), epoch()), follow_symlinks=False)


def _file_systems(task: Task, root: Path, data: Path, parts: Path) -> None:
    used = int(run("du", "-sm", "--apparent-size", str(root)).split()[0])
    size = int(used * ROOT_SPARE) + 96
    if size > task.slot_megabytes:
        raise BuildError(f"the root needs {size} MB, its place has {task.slot_megabytes}", hint="see slot_megabytes")
    _ext4(root, root, parts / "root.ext4", "edgefl-root", ID.format(1), size)
    inodes = ("-i", str(DATA_BYTES_PER_INODE))
    _ext4(root, data, parts / "data.ext4", "edgefl-data", ID.format(2), DATA_MEGABYTES, *inodes)
    fat = parts / "boot.vfat"
    with fat.open("wb") as file:
        file.truncate(task.boot_megabytes << 20)
    run("mkfs.vfat", "-F", "32", "-i", FAT_ID, "-n", "EDGEFL", "--invariant", str(fat))
    for path in sorted((parts / "boot").iterdir()):
        run("mcopy", "-s", "-m", "-i", str(fat), str(path), "::")


def _ext4(root: Path, source: Path, target: Path, label: str, identifier: str, megabytes: int, *more: str) -> None:
    """By the target's mke2fs, run from outside (1.47.1 and later write no times of the building machine)."""
    library = next(root.glob("usr/lib/*-linux-gnu"))
    loader = next(library.glob("ld-linux-*.so.*"))
    os.environ["MKE2FS_CONFIG"] = str(root / "etc/mke2fs.conf")
    options = f"hash_seed={identifier},lazy_itable_init=0,lazy_journal_init=0"
    run(
        *(str(loader), "--library-path", str(library), str(root / "usr/sbin/mke2fs"), "-q", "-t", "ext4", "-m", "1"),
        *("-L", label, "-U", identifier, "-E", options, "-O", "^orphan_file", *more, "-d", str(source)),
        *(str(target), f"{megabytes}M"),
    )


def _disk(task: Task, parts: Path, work: Path) -> None:
    gpt = task.boot == "uefi"
    lines = [f"image {Path(task.image).name} {{", "hdimage {", "align = 4M"]
    lines += [f'partition-table-type = "{"gpt" if gpt else "mbr"}"']
    lines += [f'disk-uuid = "{ID.format(10)}"' if gpt else f"disk-signature = {MBR_SIGNATURE:#x}", "}"]
    slot = f"size = {task.slot_megabytes}M"
    table = [
        ("boot", 'image = "boot.vfat"', ESP, "0xC", ID.format(11)),
        ("root-a", f'image = "root.ext4" {slot}', LINUX, "0x83", GPT_ROOTS["a"]),
        ("root-b", slot, LINUX, "0x83", GPT_ROOTS["b"]),
        ("data", 'image = "data.ext4"', LINUX, "0x83", ID.format(14)),
    ]
    for name, content, uuid, kind, identifier in table:
        what = f'partition-uuid = "{identifier}" partition-type-uuid = "{uuid}"' if gpt else f"partition-type = {kind}"
        flag = " bootable = true" if not gpt and name == "boot" else ""
        lines.append(f"partition {name} {{ {what} {content}{flag} }}")
    config = work / "genimage.cfg"
    config.write_text("\n".join([*lines, "}", ""]))
    run(
        *("genimage", "--config", str(config), "--rootpath", str(work / "none"), "--tmppath", str(work / "tmp")),
        *("--inputpath", str(parts), "--outputpath", str(Path(task.image).parent)),
    )


if __name__ == "__main__":
    assemble(Task(**json.loads(Path(sys.argv[1]).read_text())))
