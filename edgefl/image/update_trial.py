"""The proof that an update is safe: two that are ill fall back by themselves, one that is healthy stays.

One has a service that cannot start, the other a kernel that dies (a Raspberry Pi's: a root without its first program,
because its kernel has to come as far as that). Both are signed and whole: nothing but the trial on
the device can find them out.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from edgefl.demo import digits
from edgefl.demo.local_fleet import LocalFleet
from edgefl.identity.fleet import FleetKey
from edgefl.image.bundle import make_bundle
from edgefl.image.disk import partitions
from edgefl.image.guest import BOOT_S, Guest, TrialError, invite, own_address
from edgefl.image.payload import run

TRIAL_S = 7200.0
"""An ill system is installed, started, found to be ill, and given up: all of it emulated."""


def run_updates(guest: Guest) -> dict[str, Any]:
    """Raises TrialError."""
    guest.work.mkdir(parents=True)
    parts = digits.write_parts(digits.divide(3, 0), guest.work)
    with LocalFleet(guest.work, 2, parts[:2], host=own_address()) as fleet, guest.machine:
        guest.start_fleet(fleet)
        guest.prepare(invite(fleet, guest.work), Path(parts[2]["digits"]))
        guest.machine.start()
        guest.until_joined(1)
        _runs(guest, "a", 0)
        guest.say("the image is in the fleet, system a")
        key = FleetKey.load(guest.work)
        measured = {"ill_service_to_back_s": _falls_back(guest, key, 1, "service", "a", 0)}
        began = time.monotonic()
        _install(guest, guest.source, key, 2)
        guest.until_card_says("serial 2 is healthy", TRIAL_S)
        measured["healthy_to_kept_s"] = round(time.monotonic() - began)
        guest.say(f"a healthy update stays: {_update_line(guest)}")
        before = len(guest.joined(0))
        guest.machine.cut_power()
        guest.machine.start()
        guest.until_joined(before + 1)
        _runs(guest, "b", 2)
        if len(set(guest.joined(0))) != 1:
            raise TrialError(f"the device changed its identity: {guest.joined(0)}")
        guest.say("the updated system is the same device, and starts again after a power cut")
        kind = "root" if guest.target == "rpi" else "kernel"
        measured[f"ill_{kind}_to_back_s"] = _falls_back(guest, key, 3, kind, "b", 2)
    return measured


def _falls_back(guest: Guest, key: FleetKey, serial: int, kind: str, slot: str, before: int) -> int:
    """Install an ill system, and see the one before (`slot`, serial `before`) again by itself; the seconds it took."""
    began = time.monotonic()
    _install(guest, _ill(guest, kind), key, serial)
    guest.until_card_says(f"serial {serial} {'was ill' if kind == 'service' else 'did not come up'}", TRIAL_S)
    guest.until(lambda: _answers(guest), "the system before it", BOOT_S)
    _runs(guest, slot, before)
    guest.say(f"an update whose {kind} is broken fell back: {_update_line(guest)}")
    return round(time.monotonic() - began)


def _install(guest: Guest, image: Path, key: FleetKey, serial: int) -> None:
    bundle = guest.work / f"{serial}.update"
    make_bundle(image, bundle, key, serial)
    target = f"/data/incoming/{serial}"
    guest.ssh(f"cat > {target}.part && mv {target}.part {target}.update", bundle, timeout_s=TRIAL_S)
    bundle.unlink()
    guest.until(
        lambda: f"(serial {serial}) is installed" in guest.machine.said(), f"update {serial} installed", TRIAL_S
    )
    guest.say(f"update {serial} is installed")


def _ill(guest: Guest, kind: str) -> Path:
    """A copy of the image whose service, root or kernel is of no use."""
    copy = guest.work / "ill.img"
    run("cp", "--sparse=always", str(guest.source), str(copy))
    boot, root = partitions(copy)[:2]
    system = f"{copy}?offset={root.start}"
    if kind == "root":
        run("debugfs", "-w", "-R", "rm /usr/lib/systemd/systemd", system)
    elif kind == "service":
        program = guest.work / "broken"
        program.write_text("#!/bin/sh\nexit 1\n")
        for request in ("rm /opt/edgefl/bin/edgefl", f"write {program} /opt/edgefl/bin/edgefl"):
            run("debugfs", "-w", "-R", request, system)
        run("debugfs", "-w", "-R", "sif /opt/edgefl/bin/edgefl mode 0100755", system)
    else:
        nothing = guest.work / "no-initrd"
        nothing.write_bytes(b"\0" * 4096)
        run("mcopy", "-o", "-i", f"{copy}@@{boot.start}", str(nothing), "::a/initrd.img")
    return copy


def _answers(guest: Guest) -> bool:
    guest.ssh()
    return True


def _runs(guest: Guest, slot: str, serial: int) -> None:
    words = guest.ssh("cat /proc/cmdline")
    if f"edgefl.slot={slot} edgefl.serial={serial} " not in words:
        raise TrialError(f"another system runs than {slot}, serial {serial}: {words}")


def _update_line(guest: Guest) -> str:
    return next((line for line in guest.card_status().splitlines() if line.startswith("update: ")), "")
