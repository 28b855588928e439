"""The boot partition of an image: a system in its place, and the loader's choice of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgefl.firstboot.card import SECTOR_BYTES, Card
from edgefl.firstboot.settings import CardSettings, read
from edgefl.image.assembly import Task, _boot_folder
from edgefl.image.payload import BuildError
from edgefl.update.bootloader import CONFIG, GOOD, PiFirmware, SystemdBoot, bootloader_of, choice_of
from edgefl.update.slots import GPT_ROOTS, MBR_ROOTS, Running, running


def task(boot: str) -> Task:
    return Task("base.tar", "a.deb", "recipes", "work", "a.img", boot, boot, "ro quiet", 256, 800)


def root(home: Path, *, loader: str = "", trees: str = "") -> Path:
    """As much of Debian as a boot partition is made from."""
    files = {
        "boot/vmlinuz-6.12": "kernel",
        "boot/initrd.img-6.12": "initramfs",
        "boot/firmware/left-by-a-hook": "",
        "usr/lib/raspi-firmware/start4.elf": "firmware",
        "usr/lib/raspi-firmware/overlays/README.md": "overlays",
    }
    if loader:
        files[f"usr/lib/systemd/boot/efi/{loader}"] = "loader"
    if trees:
        files[f"{trees}/bcm2711-rpi-4-b.dtb"] = "tree"
        files[f"{trees}/other.dtb"] = "no Pi's"
    for name, content in files.items():
        path = home / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (home / "root/vmlinuz").symlink_to("boot/vmlinuz-6.12")
    (home / "boot").mkdir()
    return home / "root"


@pytest.mark.parametrize("trees", ["usr/lib/linux-image-6.12/broadcom", "usr/lib/modules/6.12/dtb/broadcom"])
def test_a_pi_finds_its_system_where_its_config_says(trees: str, tmp_path: Path) -> None:
    found, boot = root(tmp_path, trees=trees), tmp_path / "boot"
    _boot_folder(task("rpi"), found, boot)
    config = (boot / CONFIG).read_bytes()
    assert config == (boot / GOOD).read_bytes()
    assert len(config) <= SECTOR_BYTES
    slot = choice_of(config)
    assert sorted(path.name for path in (boot / slot).iterdir()) == [
        "bcm2711-rpi-4-b.dtb", "cmdline.txt", "initrd.img", "overlays", "vmlinuz",
    ]  # fmt: skip
    line = (boot / slot / "cmdline.txt").read_text()
    assert running(line) == Running("a", 0, "rpi")
    assert f"root=PARTUUID={MBR_ROOTS['a']} " in line
    assert (boot / "start4.elf").exists()
    assert isinstance(bootloader_of(Card(boot, mounted=False)), PiFirmware)
    assert not list((found / "boot/firmware").iterdir())
    assert not list(found.glob("vmlinuz*"))


@pytest.mark.parametrize(
    ("loader", "first"), [("systemd-bootx64.efi", "BOOTX64.EFI"), ("systemd-bootaa64.efi", "BOOTAA64.EFI")]
)
def test_uefi_finds_a_loader_and_its_entry(loader: str, first: str, tmp_path: Path) -> None:
    boot = tmp_path / "boot"
    _boot_folder(task("uefi"), root(tmp_path, loader=loader), boot)
    assert [path.name for path in (boot / "EFI/BOOT").iterdir()] == [first]
    (entry,) = (boot / "loader/entries").iterdir()
    text = entry.read_text()
    assert "linux /a/vmlinuz\ninitrd /a/initrd.img\n" in text
    assert f"root=PARTUUID={GPT_ROOTS['a']} edgefl.slot=a edgefl.serial=0 edgefl.target=uefi ro quiet\n" in text
    assert "default" not in (boot / "loader/loader.conf").read_text()  # a default would beat the counting
    assert isinstance(bootloader_of(Card(boot, mounted=False)), SystemdBoot)
    assert read((boot / "edgefl.toml").read_bytes()) == CardSettings()


def test_a_base_without_a_kernel_is_told(tmp_path: Path) -> None:
    found = root(tmp_path, loader="systemd-bootx64.efi")
    (found / "boot/vmlinuz-6.12").unlink()
    with pytest.raises(BuildError, match="has no vmlinuz"):
        _boot_folder(task("uefi"), found, tmp_path / "boot")
