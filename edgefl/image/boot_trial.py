"""What edgefl adds to a boot: the time until this device's first heartbeat in its fleet, beside the same card with
edgefl's units masked, which is up when its services run and its network has an address.

All times are the guest's own, since its kernel started. Its clock counts its instructions, so other work of this
machine does not count, but for what the guest waits for its card and for the daemon here: where both is slow, the
processor time is what to look at. Both kinds of boot alternate.
"""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import Any

from edgefl.demo import digits
from edgefl.demo.local_fleet import LocalFleet
from edgefl.image.guest import BOOT_S, Guest, TrialError, invite, own_address
from edgefl.image.payload import run

MASKED = ("edgefl.service", *(f"edgefl-{name}" for name in ("firstboot.service", "health.service", "update.path")))
"""Of ours, all that starts at boot; growing the data partition and swap in memory belong to the image."""

NETWORK_FILES = "/run/systemd/netif/leases/*"
"""Written by networkd when it has an address."""


def run_boots(guest: Guest, boots: int) -> dict[str, Any]:
    """So many boots of each kind; medians in seconds. Raises TrialError."""
    guest.work.mkdir(parents=True)
    parts = digits.write_parts(digits.divide(2, 0), guest.work)
    joined, bare, cpu = list[float](), list[float](), list[float]()
    with LocalFleet(guest.work, 1, parts[:1], host=own_address()) as fleet, guest.machine:
        guest.start_fleet(fleet)
        guest.prepare(invite(fleet, guest.work), Path(parts[1]["digits"]))
        guest.machine.start()
        guest.until_joined(1)
        guest.ssh("sync")  # first boot is another matter: it grows the data partition and makes keys
        guest.say("first boot is done")
        for _ in range(boots):
            before = guest.machine.said()
            _start(guest, "")
            guest.until_joined(len(guest.joined(0)) + 1)
            joined.append(joined_at(guest.machine.said()[len(before) :]))
            cpu.append(cpu_of(guest.ssh(f"sync; systemctl show {' '.join(MASKED)} -p CPUUsageNSec")))
            guest.say(f"with edgefl: in the fleet after {joined[-1]:.1f} s of the guest's clock")
            _start(guest, "".join(f" systemd.mask={unit}" for unit in MASKED))
            bare.append(_up_at(guest))
            guest.say(f"without: up after {bare[-1]:.1f} s")
    with_s, without_s = statistics.median(joined), statistics.median(bare)
    return {
        "boots_of_each": boots,
        "heartbeat_s": round(with_s, 2),
        "without_edgefl_up_s": round(without_s, 2),
        "added_s": round(with_s - without_s, 2),
        "ratio": round(with_s / without_s, 3),
        "processor_s": round(statistics.median(cpu), 2),
    }


def _start(guest: Guest, words: str) -> None:
    """From power on, with more words on the kernel's command line."""
    guest.machine.cut_power()
    name = "a/cmdline.txt" if guest.target == "rpi" else "loader/entries/edgefl-a.conf"
    file = guest.work / "words"
    file.write_text(with_words(run("mtype", "-i", guest.fat, f"::{name}"), words))
    run("mcopy", "-o", "-i", guest.fat, str(file), f"::{name}")
    guest.machine.start()


def with_words(text: str, words: str) -> str:
    """A loader entry or cmdline.txt whose command line ends with `words`, and has no mask but theirs."""
    lines = re.sub(r" systemd\.mask=\S+", "", text.replace("\r", "")).rstrip("\n").split("\n")
    return "\n".join([*lines[:-1], lines[-1] + words]) + "\n"


def joined_at(console: str) -> float:
    """Seconds of the kernel's clock at which the console says that the device is in its fleet. Raises TrialError."""
    found = re.search(r"\[ *([0-9]+\.[0-9]+)\] [^\n]*joined the fleet", console)
    if found is None:
        raise TrialError("the console has no time beside `joined the fleet`", hint="its kernel wants printk.time=1")
    return float(found[1])


def cpu_of(told: str) -> float:
    """Seconds of processor time of the units; a unit that did not start has none."""
    return sum(int(value) for value in re.findall(r"CPUUsageNSec=(\d{1,18})$", told, re.MULTILINE)) / 1e9


def _up_at(guest: Guest) -> float:
    """Without edgefl the console is silent, and nobody can log in before the device is up."""
    guest.until(lambda: _answers(guest), "ssh into the device without edgefl", BOOT_S)
    guest.until(lambda: "=active" in guest.ssh("systemctl show multi-user.target -p ActiveState"), "its boot", BOOT_S)
    told = guest.ssh(
        "systemctl show multi-user.target -p ActiveEnterTimestampMonotonic; systemctl is-active edgefl.service; "
        f"cut -d' ' -f1 /proc/uptime; date +%s.%N; stat -c %.9Y {NETWORK_FILES}"
    )
    return up_at(told)


def up_at(told: str) -> float:
    """From what the guest said: the later of `services run` and `has an address`. Raises TrialError."""
    target, edgefl, uptime, now, *leases = told.split()
    if edgefl == "active" or not leases:
        raise TrialError(f"this is no boot without edgefl, or none with a network: {told}")
    services_s = int(target.partition("=")[2]) / 1e6
    network_s = float(uptime) - (float(now) - min(map(float, leases)))
    if not 0 < network_s < float(uptime):
        raise TrialError(f"the guest's clock was set meanwhile: {told}", hint="try again")
    return max(services_s, network_s)


def _answers(guest: Guest) -> bool:
    guest.ssh()
    return True
