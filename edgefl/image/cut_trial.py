"""The power goes in first boot, at random instants, again and again: the device always recovers, and the token is never
lost, and never left on the boot partition of a device that has it.

Instants are in the emulator's processor time. In seconds of a clock, other work of this machine moved them: of four
cuts that were drawn around the taking of the settings, all came after it.
"""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

from edgefl.demo import digits
from edgefl.demo.local_fleet import LocalFleet
from edgefl.image.disk import partitions
from edgefl.image.guest import BOOT_S, Guest, TrialError, invite, own_address

BEFORE_S = 16.0
"""How long before the settings are said to be taken a cut may come. The token is taken some 5 s before that, then the
device makes its ssh key; the data partition is grown before."""


def run_cuts(guest: Guest, cuts: int, seed: int) -> dict[str, Any]:
    """A first boot without a cut, to learn when things happen; then `cuts` fresh cards. Raises TrialError."""
    guest.work.mkdir(parents=True)
    chance = random.Random(seed)
    parts = digits.write_parts(digits.divide(2, 0), guest.work)
    where: dict[str, int] = {}
    with LocalFleet(guest.work, 1, parts[:1], host=own_address()) as fleet, guest.machine:
        guest.start_fleet(fleet)
        guest.prepare(invite(fleet, guest.work), Path(parts[1]["digits"]))
        guest.machine.start()
        guest.until(lambda: "settings: ok" in guest.machine.said(), "the settings taken", BOOT_S)
        taken_s = guest.machine.processor_s()
        guest.until_joined(1)
        joined_s = guest.machine.processor_s()
        guest.say(f"without a cut: settings taken after {taken_s:.1f} s, joined after {joined_s:.1f} s")
        for number in range(1, cuts + 1):
            guest.machine.cut_power()
            token = invite(fleet, guest.work)
            guest.prepare(token, Path(parts[1]["digits"]))
            before = len(guest.joined(0))
            at_s = instant(chance, number, taken_s, joined_s)
            guest.machine.start()
            guest.until(partial(_has_come, guest, at_s), f"processor time of {at_s:.2f} s", BOOT_S)
            guest.machine.cut_power()
            found = _where(guest, token)
            where[found] = where.get(found, 0) + 1
            guest.machine.start()
            guest.until_joined(before + 1)
            guest.machine.cut_power()
            if token.encode() in guest.boot_partition():
                raise TrialError(f"cut {number} at {at_s:.2f} s: the token is still on the boot partition")
            guest.say(f"cut {number} at {at_s:5.2f} s, token {found}: recovered, and off the boot partition")
    return {"cuts": cuts, "recovered": cuts, **{f"token_{name.replace(' ', '_')}": n for name, n in where.items()}}


def instant(chance: random.Random, number: int, taken_s: float, joined_s: float) -> float:
    """When cut `number` comes. Every second one before the settings are said to be taken: the shorter time, with all of
    first boot's writes. The others after it."""
    return chance.uniform(max(1.0, taken_s - BEFORE_S), taken_s) if number % 2 else chance.uniform(taken_s, joined_s)


def _has_come(guest: Guest, at_s: float) -> bool:
    return guest.machine.processor_s() >= at_s


def _where(guest: Guest, token: str) -> str:
    """Raises TrialError when it is nowhere."""
    secret = token.encode()
    on_card = secret in guest.boot_partition()
    data = partitions(guest.image)[-1]
    in_device = False
    with guest.image.open("rb") as file:
        file.seek(data.start)
        tail = b""
        while not in_device and (block := file.read(16 << 20)):
            in_device = secret in tail + block
            tail = block[-len(secret) :]
    if not on_card and not in_device:
        raise TrialError("the token is lost: neither on the boot partition nor in the device")
    return "in both" if on_card and in_device else "on the card" if on_card else "in the device"
