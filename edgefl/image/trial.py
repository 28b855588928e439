"""The proof that an image does its job: with a fleet of two daemons on this machine it joins, trains, loses its power
in the middle of a round, and is back in the fleet by itself.

Everything is real but the machine, which is emulated: the settings go the way of a person's card, training is the
digits', ssh is the guest's own. Takes some minutes. The serial console is kept.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgefl.config import split_address
from edgefl.demo import digits
from edgefl.demo.local_fleet import LocalFleet
from edgefl.errors import EdgeflError, LocalError
from edgefl.firstboot.settings import SLOT_BYTES, CardSettings, render
from edgefl.identity.fleet import FleetKey
from edgefl.identity.token import Bootstrap
from edgefl.image.customize import write_settings
from edgefl.image.disk import find_slot, partitions
from edgefl.image.machine import Machine
from edgefl.image.payload import run
from edgefl.wire import parse_node_name

CARD_BYTES = 2 << 30
"""A card twice as large as the image: the data partition grows."""

BOOT_S, ROUNDS_S = 400.0, 300.0
"""Emulated on a busy machine; a real one takes a tenth."""

EPOCHS = 10
"""Local epochs: on an emulated processor a round lasts long enough to be struck in its middle."""

IDLE_S = 60.0
"""How long writes of a device that has nothing to do are counted."""

HOST = 2
"""Daemons on this machine; the guest has the third part of the data."""


class TrialError(LocalError):
    """The image did not do what it should."""

    name = "image-trial"


class Trial:
    """One run in the folder `work`, which is left as it is: console, logs, measurements."""

    def __init__(self, image: Path, target: str, work: Path, say: Callable[[str], None]) -> None:
        self.work, self.target, self._say = work, target, say
        self.image, self.console = work / "card.img", work / "console.log"
        self.measured: dict[str, Any] = {}
        self._source = image
        self._right = CardSettings()
        self._slot = 0

    def run(self) -> dict[str, Any]:
        """What was measured. Raises TrialError naming what did not happen, and where the console is."""
        self.work.mkdir(parents=True)
        parts = digits.write_parts(digits.divide(HOST + 1, 0), self.work)
        fleet = LocalFleet(self.work, HOST, parts[:HOST], host=_own_address())
        with fleet:
            fleet.start()
            self._say("two daemons of this machine are a fleet")
            token = self._invite(fleet)
            self._prepare(token, Path(parts[HOST]["digits"]))
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            with Machine(self.image, self.target, self.console, ssh_port=port) as machine:
                self._trial(fleet, machine, token, port)
        return self.measured

    def _trial(self, fleet: LocalFleet, machine: Machine, token: str, port: int) -> None:
        self._wrong_card(machine)
        self._put(render(self._right))
        machine.start()
        began = time.monotonic()
        (guest,) = self._until(machine, lambda: self._joined(1), "the image in the fleet", BOOT_S)
        self.measured["power_to_joined_s"] = round(time.monotonic() - began, 1)
        self._say(f"the image is in the fleet: {guest}")
        if token.encode() in self._boot_partition():
            raise TrialError("the token is still on the boot partition")
        self._say("the token is off its boot partition")
        self._measure_idle(port)

        artifacts = self.work / "artifacts"
        digits.build_artifacts("mlp", 0, artifacts)
        recipe = digits.RECIPES["mlp"]
        app = fleet.client(0).call(
            "app.create",
            directory=str(artifacts),
            name="digits",
            data="digits",
            rounds=100_000,
            local_epochs=EPOCHS,
            batch=recipe.batch,
            learning_rate=recipe.lr,
            held_back=0.1,
            min_members=HOST + 1,
            deadline_s=ROUNDS_S,
        )["id"]
        first = self._until(machine, lambda: _all_took_part(fleet, app, 0), "a round with all three", ROUNDS_S)
        self._say(f"round {first} was trained by all three")

        self._until(machine, lambda: _phase(fleet, app) == "running", "a round under way", ROUNDS_S)
        machine.cut_power()
        at = _round(fleet, app)
        self._say(f"power cut in round {at}")
        self._until(None, lambda: _round(fleet, app) > at, "progress without the image", ROUNDS_S)
        machine.start()
        began = time.monotonic()
        lost = _round(fleet, app)
        self._until(machine, lambda: _all_took_part(fleet, app, lost), "the image back in the training", BOOT_S)
        self.measured["power_to_trained_again_s"] = round(time.monotonic() - began, 1)
        back = self._joined(2)
        if set(back) != {guest}:
            raise TrialError(f"{', '.join(back)} came back, not {guest}")
        self._say("the same device trains again")
        fleet.client(0).call("app.state", app=app, state="stopped")
        self._until(machine, lambda: _finished(fleet, app), "the end of the training", ROUNDS_S)
        model = self.work / "trained.onnx"
        fleet.client(0).pull(app, model)
        self.measured["accuracy"] = round(digits.accuracy_of_file(model, digits.divide(HOST + 1, 0).test), 4)
        trained = self._figures(port, "guest-trained.txt")
        self.measured["trained_memory_available_mb"] = trained["MemAvailable"] // 1024
        self._status()

    def _wrong_card(self, machine: Machine) -> None:
        """A person's mistake: the device stays up, and says on console and card what is wrong and where."""
        self._put(b'site = "plant"\ntoken = "edgefl1-oops\n'.ljust(SLOT_BYTES, b"\n"))
        machine.start()
        self._until(machine, lambda: "SOMETHING IS WRONG" in machine.said(), "the mistake on the console", BOOT_S)
        self._until(machine, lambda: "SOMETHING IS WRONG" in self._card_status(), "the mistake on the card", BOOT_S)
        if not machine.running() or "line 2" not in self._card_status():
            raise TrialError(f"the card does not say where the mistake is: {self._card_status()}")
        machine.cut_power()
        self._say("a mistake on the card is told on console and card, with its line")

    def _joined(self, times: int) -> list[str]:
        """The devices that the console has shown in the fleet, once it has shown so many. (As a leaf behind QEMU's
        address translation the guest is in nobody's list of contacts; that it counts in rounds is the proof.)"""
        said = self.console.read_text(errors="replace")
        shown = re.findall(r"device ([0-9a-f]{16}) listens|(joined the fleet)", said)
        devices = [before[0] for before, now in itertools.pairwise(shown) if now[1]]
        return devices if len(devices) >= times else []

    def _invite(self, fleet: LocalFleet) -> str:
        first = fleet.status(0)
        door = Bootstrap(*split_address(first["address"]), parse_node_name(first["node"]))
        return FleetKey.load(self.work).invite([door], uses=1).text

    def _prepare(self, token: str, data: Path) -> None:
        """What a person does: the image onto a card, settings and a file of data onto its first partition."""
        shutil.copy(self._source, self.image)
        os.truncate(self.image, CARD_BYTES)
        key = self.work / "ssh-key"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "trial", "-f", str(key))
        public = key.with_suffix(".pub").read_text().strip()
        self._right = CardSettings(token, {"data": {"digits": "digits.npz"}}, "", (public,))
        write_settings(self.image, self._right)
        self._slot = find_slot(self.image)
        run("mcopy", "-o", "-i", self._fat(), str(data), "::digits.npz")

    def _put(self, content: bytes) -> None:
        """Another content of edgefl.toml, in its place."""
        with self.image.open("r+b") as file:
            file.seek(self._slot)
            file.write(content)

    def _card_status(self) -> str:
        return run("mtype", "-i", self._fat(), "::edgefl-status.txt").strip()

    def _fat(self) -> str:
        return f"{self.image}@@{partitions(self.image)[0].start}"

    def _boot_partition(self) -> bytes:
        part = partitions(self.image)[0]
        with self.image.open("rb") as file:
            file.seek(part.start)
            return file.read(part.size)

    def _status(self) -> None:
        text = self._card_status()
        (self.work / "edgefl-status.txt").write_text(text)
        if "settings: ok" not in text or "is in its fleet" not in text:
            raise TrialError(f"the status on the card is wrong: {text}")
        self._say("the status on the card says so")

    def _ssh(self, port: int, command: str = "true") -> str:
        """Run a command in the guest, as the user of the key on the card."""
        options = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=30"]
        done = subprocess.run(
            [
                *("ssh", "-q", "-i", str(self.work / "ssh-key"), "-p", str(port)),
                *(word for option in options for word in ("-o", option)),
                *("edgefl-admin@127.0.0.1", command),
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode:
            raise TrialError(f"ssh into the image failed: {done.stderr.strip() or done.returncode}")
        return done.stdout

    def _measure_idle(self, port: int) -> None:
        """Memory of a device that has joined and waits, and what it writes meanwhile."""
        before = self._figures(port, "guest-joined.txt")
        time.sleep(IDLE_S)
        after = self._figures(port, "guest-idle.txt")
        caches = sum(after[name] for name in ("MemFree", "Buffers", "Cached", "SReclaimable"))
        self.measured["idle_memory_used_mb"] = (after["MemTotal"] - caches) // 1024
        self.measured["idle_memory_available_mb"] = after["MemAvailable"] // 1024
        self.measured["idle_edgefl_rss_mb"] = after["VmRSS"] // 1024
        self.measured["idle_written_kb_per_min"] = after["written"] - before["written"]
        failed = (self.work / "guest-idle.txt").read_text().count("●")
        if failed:
            raise TrialError(f"{failed} units failed in the image", hint=f"look at {self.work / 'guest-idle.txt'}")

    def _figures(self, port: int, file: str) -> dict[str, int]:
        """The guest's own figures, kept as they are; those in kB (and sectors written, as kB) by their names."""
        text = self._ssh(
            port,
            "systemctl --failed --no-legend; cat /proc/meminfo; swapon --show; df -m /data; findmnt -n -o OPTIONS /; "
            "grep VmRSS /proc/$(systemctl show -p MainPID --value edgefl)/status; systemd-analyze time; "
            "systemd-analyze blame --no-pager | head -30; systemctl show edgefl -p StatusText -p MemoryCurrent; "
            "systemctl list-units --type service --state running --no-legend --plain; "
            'awk \'{ print "written:", $7 / 2, "kB" }\' /sys/block/vda/stat',
        )
        (self.work / file).write_text(text)
        found = (re.fullmatch(r"(\w+):\s+([0-9.]+) kB", line) for line in text.splitlines())
        return {match[1]: int(float(match[2])) for match in found if match}

    def _until(self, machine: Machine | None, condition: Callable[[], Any], what: str, timeout_s: float) -> Any:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with contextlib.suppress(EdgeflError):
                value = condition()
                if value:
                    return value
            if machine is not None and (not machine.running() or "Kernel panic" in machine.said()):
                raise TrialError(f"the machine stopped while waiting for {what}", hint=f"look at {self.console}")
            time.sleep(0.2)
        raise TrialError(f"waited {timeout_s:g} s in vain for {what}", hint=f"look at {self.console}")


def _own_address() -> str:
    """An address of this machine that the guest reaches too: not the loopback. Raises TrialError."""
    import psutil

    for entries in psutil.net_if_addrs().values():
        for entry in entries:
            if entry.family == socket.AF_INET and not entry.address.startswith("127."):
                return str(entry.address)
    raise TrialError("this machine has no address but the loopback", hint="connect it to a network")


def _app(fleet: LocalFleet, app: str) -> list[dict[str, Any]]:
    return [row for status in fleet.statuses().values() for row in status["applications"] if row["id"] == app]


def _round(fleet: LocalFleet, app: str) -> int:
    return max((row["round"] for row in _app(fleet, app)), default=0)


def _phase(fleet: LocalFleet, app: str) -> str:
    return next((str(row["phase"]) for row in _app(fleet, app) if row["is_root"]), "running")


def _finished(fleet: LocalFleet, app: str) -> bool:
    rows = _app(fleet, app)
    return bool(rows) and all(row["finished"] for row in rows)


def _all_took_part(fleet: LocalFleet, app: str, after: int) -> int | None:
    """The number of a round after `after` to which all three contributed."""
    for record in reversed(fleet.client(0).call("app.history", app=app)):
        if record["round"] > after and record["participants"] == HOST + 1:
            return int(record["round"])
    return None
