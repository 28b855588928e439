"""Only a whole, removable, unmounted disk that is large enough is written, and it is read back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgefl.cli import main
from edgefl.errors import UsageError
from edgefl.image.disk import ImageError
from edgefl.image.flash import Disk, examine, refuse, write_and_verify
from tests.image.sample import image


def system(
    root: Path, name: str = "sdz", *, bus: str = "ata1", removable: str = "1", mounts: str = "", **files: str
) -> Path:
    """A /sys and a /proc that know one disk."""
    disk = root / "sys/devices" / bus / name
    disk.mkdir(parents=True)
    (root / "sys/class/block").mkdir(parents=True)
    (root / "sys/class/block" / name).symlink_to(disk)
    for path, text in {"removable": removable, "size": "65536", **files}.items():
        (disk / path).parent.mkdir(exist_ok=True)
        (disk / path).write_text(f"{text}\n")
    (root / "proc").mkdir()
    (root / "proc/mounts").write_text(f"proc /proc proc rw 0 0\n{mounts}")
    return root


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, None),
        ({"bus": "usb1", "removable": "0"}, None),
        ({"removable": "0", "device/type": "SD"}, None),
        ({"removable": "0", "device/model": "the system's disk"}, "not removable"),
        ({"partition": "1"}, "is a partition"),
        ({"mounts": "/dev/sdz1 /media/card vfat rw 0 0\n"}, "in use: /media/card"),
        ({"size": "100"}, "the image 13"),
    ],
    ids=["card reader", "usb", "sd slot", "fixed", "partition", "mounted", "small"],
)
def test_what_may_be_overwritten(options: dict[str, str], said: str | None, tmp_path: Path) -> None:
    disk = examine(Path("/dev/sdz"), system(tmp_path, **options))
    if said is None:
        refuse(disk, 13 << 20)
        return
    with pytest.raises(UsageError, match=said):
        refuse(disk, 13 << 20)


def test_a_plain_file_is_no_disk(tmp_path: Path) -> None:
    path = image(tmp_path / "a.img")
    target = tmp_path / "not-a-card"
    target.write_bytes(b"precious")
    done = CliRunner().invoke(main, ["image", "flash", str(path), str(target), "--yes"])
    assert done.exit_code == 2
    assert "is no disk" in done.output
    assert target.read_bytes() == b"precious"


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    path, card = image(tmp_path / "a.img"), tmp_path / "card"
    card.write_bytes(b"\xff" * (14 << 20))
    heard = []
    write_and_verify(path, card, lambda done, whole: heard.append((done, whole)))
    assert card.read_bytes()[: 13 << 20] == path.read_bytes()
    assert heard[-1] == (26 << 20, 26 << 20)


def test_a_card_that_forgets_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, card = image(tmp_path / "a.img"), tmp_path / "card"
    card.write_bytes(bytes(14 << 20))
    synced = os.fsync

    def forget(descriptor: int) -> None:
        synced(descriptor)
        os.pwrite(descriptor, b"\xff", (4 << 20) + 70 * 512)

    monkeypatch.setattr(os, "fsync", forget)
    with pytest.raises(ImageError, match="gave back something else near byte 4,194,304"):
        write_and_verify(path, card, lambda *_: None)


def test_a_disk_tells_its_name_when_it_is_refused() -> None:
    with pytest.raises(UsageError, match="Samsung"):
        refuse(Disk(Path("/dev/sda"), True, False, 1 << 40, "Samsung", ()), 1)
