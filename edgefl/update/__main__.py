"""The programs of edgefl-update.service and edgefl-health.service (firmware-images/overlay):

    python -m edgefl.update take        install the next bundle, if there is one, and start it on trial
    python -m edgefl.update judge       the system that runs; or see that one has not come up

It ends with 1 when something is wrong: then `take` has left the running system as it is, and edgefl-health starts the
system before the one that it could not judge.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from edgefl.config import control_socket
from edgefl.control import ControlClient
from edgefl.errors import EdgeflError
from edgefl.firstboot import status
from edgefl.firstboot.card import Card
from edgefl.firstboot.steps import TOKEN, read_updates
from edgefl.identity.token import parse
from edgefl.update import steps
from edgefl.update.bootloader import bootloader_of
from edgefl.update.bundle import UpdateError
from edgefl.update.gate import Seen
from edgefl.update.install import Device
from edgefl.update.slots import BY_PARTITION, running
from edgefl.update.sources import dropped
from edgefl.update.trial import Records

BOOT, ETC = Path("/boot/firmware"), Path("/etc/edgefl")
ROOM, INCOMING = Path("/data/update"), Path("/data/incoming")


def this_device() -> Device:
    """Raises UpdateError where there are no two places."""
    runs = running(Path("/proc/cmdline").read_text())
    if runs is None:
        raise UpdateError("this system has no second place for an update", hint="only images of edgefl have")
    card = Card(BOOT)
    machine_id = Path("/etc/machine-id").read_text().strip()
    return Device(card, bootloader_of(card), Records(ROOM), BY_PARTITION, ROOM, runs, machine_id)


def look() -> Seen:
    """What systemd says of the service, and the service of its peers."""
    told = _systemctl("show", "edgefl.service", "--property=ActiveState,MainPID,NRestarts")
    found = dict(line.split("=", 1) for line in told.splitlines() if "=" in line)
    state, peers = found.get("ActiveState", ""), 0
    if state == "active":
        try:
            peers = int(ControlClient(control_socket(None)).call("status")["contacts"])
        except (EdgeflError, OSError, KeyError, ValueError):
            peers = 0
    alive = state in ("active", "activating") and found.get("MainPID", "0") != "0"
    return Seen(alive, state == "active", int(found.get("NRestarts") or 0), peers)


def _systemctl(*words: str) -> str:
    command = ("systemctl", *words)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise UpdateError(f"systemctl {words[0]} failed: {done.stderr.strip()}", hint="see the journal")
    return done.stdout


def take(device: Device) -> None:
    wanted = read_updates(ETC)
    sources: list[Path | str] = [*dropped(INCOMING), *([wanted.updates] if wanted.updates else [])]
    if not sources or device.records.trying() is not None:
        return
    if not (ETC / TOKEN).exists():
        raise UpdateError("this device has no token, which names the fleet's owner", hint="write one into edgefl.toml")
    seen = look()
    if not (seen.active and (seen.peers or wanted.alone)):
        # The new system would be judged by what is wrong already.
        raise UpdateError("this device is not in its fleet now", hint="it is looked for again tomorrow")
    place = steps.take(device, parse((ETC / TOKEN).read_text()).fleet, sources)
    _tell(device)
    if place is not None:
        _systemctl("reboot")


def _tell(device: Device) -> None:
    """On the console and on the card."""
    words = device.records.words()
    if words:
        print(f"update: {words}", flush=True)  # noqa: T201
        status.report_update(device.card, words)


def judge(device: Device) -> int:
    found = steps.judge(device, look, alone=read_updates(ETC).alone)
    _tell(device)
    if found == steps.AGAIN:
        _systemctl("reboot")
    return int(found == steps.GO)


def main(verb: str) -> int:
    device = this_device()
    if verb == "judge":
        return judge(device)
    take(device)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "take"))
    except EdgeflError as error:
        print(f"edgefl-update: {error.cause}; next: {error.hint}", file=sys.stderr, flush=True)  # noqa: T201
        sys.exit(1)
