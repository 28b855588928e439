"""The two places for a system on a card: a and b. Each is a partition for the root, and a folder on the boot partition.

Places are named by partition, not by label: both hold the same file system. An image has fixed partition ids.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

SLOTS = ("a", "b")

GPT_ROOTS = {"a": "a1b2c3d4-0000-4000-8000-000000000012", "b": "a1b2c3d4-0000-4000-8000-000000000013"}
MBR_SIGNATURE = 0xEDEF10E1
MBR_ROOTS = {"a": f"{MBR_SIGNATURE:08x}-02", "b": f"{MBR_SIGNATURE:08x}-03"}

BY_PARTITION = Path("/dev/disk/by-partuuid")


@dataclass(frozen=True, slots=True)
class Running:
    """What the kernel was told. `target` is the image's recipe; `serial` is 0 for the system that was flashed."""

    slot: str
    serial: int
    target: str


def other(slot: str) -> str:
    return SLOTS[1 - SLOTS.index(slot)]


def running(cmdline: str) -> Running | None:
    """From /proc/cmdline; None: not an image with two places."""
    found = dict(re.findall(r"\bedgefl\.(slot|serial|target)=(\S+)", cmdline))
    if found.get("slot") not in SLOTS or not found.get("serial", "").isdecimal() or "target" not in found:
        return None
    return Running(found["slot"], int(found["serial"]), found["target"])


def options(cmdline: str, root: str, place: Running, machine_id: str = "") -> str:
    """The whole command line of a system whose root is the partition `root`. `machine_id` keeps a device what it is to
    its network: a fresh root has none yet."""
    own = f"root=PARTUUID={root} edgefl.slot={place.slot} edgefl.serial={place.serial} edgefl.target={place.target}"
    return f"{own} {cmdline}" + (f" systemd.machine_id={machine_id}" if machine_id else "")
