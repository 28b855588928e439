"""An emulated device beside a fleet of this machine: what every trial of an image needs.

Everything is real but the machine: the settings go the way of a person's card, ssh is the guest's own. The serial
console is kept.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgefl.config import split_address
from edgefl.demo.local_fleet import LocalFleet
from edgefl.errors import EdgeflError, LocalError
from edgefl.firstboot.settings import CardSettings, render
from edgefl.identity.fleet import FleetKey
from edgefl.identity.token import Bootstrap
from edgefl.image.customize import write_settings
from edgefl.image.disk import find_slot, partitions
from edgefl.image.machine import Machine
from edgefl.image.payload import run
from edgefl.wire import parse_node_name

CARD_BYTES = 4 << 30
"""A card larger than the image: the data partition grows."""

BOOT_S = 3600.0
"""Emulated, on a machine that may have much other work; a real one takes a minute."""

ADMIN = "edgefl-admin@127.0.0.1"


class TrialError(LocalError):
    """The image did not do what it should."""

    name = "image-trial"


class Guest:
    """One card in the folder `work`, which is left as it is: console, logs, measurements."""

    def __init__(self, image: Path, target: str, work: Path, say: Callable[[str], None], board: str = "") -> None:
        """`board`: of QEMU's machines, where the target has several."""
        self.work, self.target, self.say = work, target, say
        self.image, self.console = work / "card.img", work / "console.log"
        self.right = CardSettings()
        self.source = image
        self._slot = 0
        self._fleet: LocalFleet | None = None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.machine = Machine(self.image, target, self.console, ssh_port=self._port, board=board)

    def start_fleet(self, fleet: LocalFleet) -> None:
        """The daemons of this machine that the device shall join. Raises FleetStartError."""
        fleet.start()
        self._fleet = fleet

    def prepare(self, token: str, data: Path | None = None, **settings: Any) -> None:
        """What a person does: the image onto a card, settings and a file of data onto its first partition."""
        self.new_card()
        key = self.work / "ssh-key"
        if not key.exists():
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "trial", "-f", str(key))
        public = key.with_suffix(".pub").read_text().strip()
        sources = {"data": {"digits": "digits.npz"}} if data is not None else {}
        self.right = CardSettings(token, sources, "", (public,), **settings)
        self._slot = find_slot(self.image)
        write_settings(self.image, self.right)
        if data is not None:
            self.prepare_data(data)

    def prepare_data(self, data: Path) -> None:
        run("mcopy", "-o", "-i", self.fat, str(data), "::digits.npz")

    def new_card(self) -> None:
        run("cp", "--sparse=always", str(self.source), str(self.image))
        os.truncate(self.image, CARD_BYTES)

    def put(self, content: bytes) -> None:
        """Another content of edgefl.toml, in its place."""
        with self.image.open("r+b") as file:
            file.seek(self._slot)
            file.write(content)

    def put_right(self) -> None:
        self.put(render(self.right))

    @property
    def fat(self) -> str:
        """The boot partition, as mtools name it."""
        return f"{self.image}@@{partitions(self.image)[0].start}"

    def card_status(self) -> str:
        return run("mtype", "-i", self.fat, "::edgefl-status.txt").strip()

    def boot_partition(self) -> bytes:
        part = partitions(self.image)[0]
        with self.image.open("rb") as file:
            file.seek(part.start)
            return file.read(part.size)

    def joined(self, times: int) -> list[str]:
        """The devices that the console has shown in the fleet, once it has shown so many. (As a leaf behind QEMU's
        address translation the guest is in nobody's list of contacts; that it counts in rounds is the proof.)"""
        shown = re.findall(r"device ([0-9a-f]{16}) listens|(joined the fleet)", self.machine.said())
        devices = [before[0] for before, now in itertools.pairwise(shown) if now[1]]
        return devices if len(devices) >= times else []

    def until_joined(self, times: int) -> str:
        """Wait until the console has shown this device in the fleet so often; its id. Raises TrialError."""
        devices: list[str] = self.until(lambda: self.joined(times), "the image in the fleet", BOOT_S)
        return devices[-1]

    def until_card_says(self, words: str, timeout_s: float) -> None:
        """Wait for it in the status file. Raises TrialError."""
        self.until(lambda: words in self.card_status(), f"{words!r} on the card", timeout_s)

    def ssh(self, command: str = "true", given: Path | None = None, timeout_s: float = 600) -> str:
        """Run a command in the guest, as the user of the key on the card; `given` is its input. Raises TrialError."""
        options = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=300"]
        words = ["ssh", "-q", "-i", str(self.work / "ssh-key"), "-p", str(self._port)]
        words += [*(word for option in options for word in ("-o", option)), ADMIN, command]
        with Path(given or os.devnull).open("rb") as content:
            try:
                done = subprocess.run(words, stdin=content, capture_output=True, text=True, timeout=timeout_s)
            except subprocess.TimeoutExpired:
                raise TrialError(f"ssh into the image took longer than {timeout_s:g} s") from None
        if done.returncode:
            raise TrialError(f"ssh into the image failed: {done.stderr.strip() or done.returncode}")
        return done.stdout

    def figures(self, file: str) -> dict[str, int]:
        """The guest's own figures, kept as they are; those in kB (and sectors written, as kB) by their names."""
        text = self.ssh(
            "systemctl --failed --no-legend; cat /proc/meminfo; swapon --show; df -m /data; findmnt -n -o OPTIONS /; "
            "grep VmRSS /proc/$(systemctl show -p MainPID --value edgefl)/status; systemd-analyze time; "
            "systemd-analyze blame --no-pager | head -30; systemctl show edgefl -p StatusText -p MemoryCurrent; "
            "systemctl list-units --type service --state running --no-legend --plain; "
            'awk \'{ print "written:", $7 / 2, "kB" }\' /sys/block/[vm]*[ak0]/stat',
        )
        (self.work / file).write_text(text)
        found = (re.fullmatch(r"(\w+):\s+([0-9.]+) kB", line) for line in text.splitlines())
        return {match[1]: int(float(match[2])) for match in found if match}

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float, *, alone: bool = False) -> Any:
        """Wait for it while the machine runs; `alone`: while it does not. Raises TrialError."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with contextlib.suppress(EdgeflError):
                value = condition()
                if value:
                    return value
            if not alone and not self.machine.running():
                raise TrialError(f"the machine stopped while waiting for {what}", hint=f"look at {self.console}")
            if self._fleet is not None and (ended := self._fleet.processes.keys() - set(self._fleet.running())):
                log = self._fleet.directory / f"device-{min(ended)}.log"
                raise TrialError(f"a daemon of this machine ended while waiting for {what}", hint=f"look at {log}")
            time.sleep(0.2)
        raise TrialError(f"waited {timeout_s:g} s in vain for {what}", hint=f"look at {self.console}")


def invite(fleet: LocalFleet, key: Path) -> str:
    """A token for one device, whose door is the first daemon's."""
    first = fleet.status(0)
    door = Bootstrap(*split_address(first["address"]), parse_node_name(first["node"]))
    return FleetKey.load(key).invite([door], uses=1).text


def own_address() -> str:
    """An address of this machine that the guest reaches too: not the loopback. Raises TrialError."""
    import psutil

    for entries in psutil.net_if_addrs().values():
        for entry in entries:
            if entry.family == socket.AF_INET and not entry.address.startswith("127."):
                return str(entry.address)
    raise TrialError("this machine has no address but the loopback", hint="connect it to a network")
