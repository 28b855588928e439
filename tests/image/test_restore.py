"""What a Raspberry Pi's initramfs does for a system on trial: the choice before it is put back, in place."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from edgefl.image.assembly import PI_CONFIG
from edgefl.update.bootloader import CONFIG, GOOD, choice_of, choose

SCRIPT = Path(__file__).resolve().parents[2] / (
    "firmware-images/base/etc/initramfs-tools/scripts/init-premount/edgefl-slot"
)


def start(home: Path, cmdline: str) -> str:
    """Run the script on a card in a folder; the programs that need a kernel are played."""
    card, programs = home / "card", home / "bin"
    programs.mkdir()
    for name in ("mount", "umount", "modprobe"):
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {home}/calls\n')
        (programs / name).chmod(0o755)
    (home / "cmdline").write_text(cmdline)
    text = SCRIPT.read_text()
    for real, played in (
        ("/proc/cmdline", f"{home}/cmdline"),
        ("/dev/disk/by-label/EDGEFL", str(card)),
        ("/card", str(card)),
    ):
        assert real in text
        text = (
            text.replace(f" {real}", f" {played}").replace(f"={real}", f"={played}").replace(f"({real}", f"({played}")
        )
    done = subprocess.run(
        ["sh", "-c", text, "edgefl-slot"],
        env={"PATH": f"{programs}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    calls = home / "calls"
    return calls.read_text() if calls.exists() else ""


@pytest.mark.parametrize("kept", ["a", "b"])
def test_the_choice_before_is_put_back(kept: str, tmp_path: Path) -> None:
    card = tmp_path / "card"
    card.mkdir()
    good = choose(PI_CONFIG.encode(), kept)
    (card / GOOD).write_bytes(good)
    (card / CONFIG).write_bytes(choose(good, "b" if kept == "a" else "a"))
    calls = start(tmp_path, "root=PARTUUID=x edgefl.slot=b ro edgefl.restore quiet\n")
    assert (card / CONFIG).read_bytes() == good
    assert choice_of((card / CONFIG).read_bytes()) == kept
    assert [line.split()[0] for line in calls.splitlines()] == ["modprobe", "mount", "umount"]


def test_a_system_that_was_flashed_touches_nothing(tmp_path: Path) -> None:
    card = tmp_path / "card"
    card.mkdir()
    (card / GOOD).write_text(PI_CONFIG)
    (card / CONFIG).write_bytes(choose(PI_CONFIG.encode(), "b"))
    assert start(tmp_path, "root=PARTUUID=x edgefl.slot=a ro quiet\n") == ""
    assert choice_of((card / CONFIG).read_bytes()) == "b"


def test_initramfs_tools_are_told_what_comes_before() -> None:
    done = subprocess.run(["sh", SCRIPT, "prereqs"], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, "udev\n")
    assert os.access(SCRIPT, os.X_OK)
