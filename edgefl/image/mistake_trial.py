"""What people do to a card: each mistake is told on the console and on the card, and the corrected card works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgefl.demo import digits
from edgefl.demo.local_fleet import LocalFleet
from edgefl.firstboot.settings import SLOT_BYTES, CardSettings, render
from edgefl.identity.fleet import FleetKey
from edgefl.identity.token import Bootstrap
from edgefl.image.guest import BOOT_S, Guest, TrialError, invite, own_address


def run_mistakes(guest: Guest) -> dict[str, Any]:
    """Broken TOML, data that is not there, and the token of another fleet, one start each; then all is corrected.

    Raises TrialError.
    """
    guest.work.mkdir(parents=True)
    parts = digits.write_parts(digits.divide(2, 0), guest.work)
    with LocalFleet(guest.work, 1, parts[:1], host=own_address()) as fleet, guest.machine:
        guest.start_fleet(fleet)
        token = invite(fleet, guest.work)
        guest.prepare(token)
        door = fleet.status(0)["address"].rpartition(":")
        foreign = FleetKey.generate().invite([Bootstrap(door[0], int(door[2]))]).text
        keys = guest.right.ssh_keys
        broken = b'site = "plant"\ntoken = "edgefl1-oops\n'.ljust(SLOT_BYTES, b"\n")
        _start(guest, broken, ["SOMETHING IS WRONG", "line 2"])
        told = ["refused this device", "ask the fleet's owner"]
        _start(guest, render(CardSettings(foreign, {}, "", keys)), told, spoken="use a token of that fleet")
        missing = render(CardSettings(token, {"data": {"digits": "digits.npz"}}, "", keys))
        _start(guest, missing, ["SOMETHING IS WRONG", "no file digits.npz", "copy digits.npz beside"])
        # Without its data the device is in its fleet all the same.
        guest.until_joined(1)
        guest.machine.cut_power()
        guest.prepare_data(Path(parts[1]["digits"]))
        before = len(guest.joined(0))
        guest.put(render(CardSettings(token, {"data": {"digits": "digits.npz"}}, "", keys)))
        guest.machine.start()
        guest.until_joined(before + 1)
        guest.until_card_says("settings: ok", BOOT_S)
        guest.say("the corrected card works")
    return {"mistakes": 3}


def _start(guest: Guest, content: bytes, told: list[str], *, spoken: str = "") -> None:
    """With this card: the device stays up, and says so on console and card. `spoken`: the daemon's own words, where it
    is the daemon that the console hears."""
    guest.machine.cut_power()
    guest.put(content)
    before = len(guest.machine.said())
    guest.machine.start()
    for words in told:
        guest.until_card_says(words, BOOT_S)
    console = guest.machine.said()[before:]
    if not guest.machine.running():
        raise TrialError("the machine did not stay up")
    if not any(words in console for words in ([spoken] if spoken else told)):
        raise TrialError(f"the console says nothing of it: {spoken or told}", hint=f"look at {guest.console}")
    guest.say(f"told on console and card: {told[-1]}")
