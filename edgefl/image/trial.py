"""The proof that an image does its job: with a fleet of two daemons on this machine it joins, trains, loses its power
in the middle of a round, and is back in the fleet by itself. Takes some minutes; training is the digits'.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from edgefl.demo import digits
from edgefl.demo.local_fleet import LocalFleet
from edgefl.firstboot.settings import SLOT_BYTES
from edgefl.image.guest import BOOT_S, Guest, TrialError, invite, own_address

ROUNDS_S = 300.0

EPOCHS = 10
"""Local epochs: on an emulated processor a round lasts long enough to be struck in its middle."""

HOST = 2
"""Daemons on this machine; the guest has the third part of the data."""


def run_trial(guest: Guest) -> dict[str, Any]:
    """What was measured. Raises TrialError naming what did not happen, and where the console is."""
    guest.work.mkdir(parents=True)
    parts = digits.write_parts(digits.divide(HOST + 1, 0), guest.work)
    fleet = LocalFleet(guest.work, HOST, parts[:HOST], host=own_address())
    with fleet, guest.machine:
        guest.start_fleet(fleet)
        guest.say("two daemons of this machine are a fleet")
        token = invite(fleet, guest.work)
        guest.prepare(token, Path(parts[HOST]["digits"]))
        _wrong_card(guest)
        measured = _join(guest, token)
        return measured | _train(guest, fleet)


def _wrong_card(guest: Guest) -> None:
    """A person's mistake: the device stays up, and says on console and card what is wrong and where."""
    guest.put(b'site = "plant"\ntoken = "edgefl1-oops\n'.ljust(SLOT_BYTES, b"\n"))
    guest.machine.start()
    mistake = "SOMETHING IS WRONG"
    guest.until(lambda: mistake in guest.machine.said(), "the mistake on the console", BOOT_S)
    guest.until(lambda: mistake in guest.card_status(), "the mistake on the card", BOOT_S)
    if not guest.machine.running() or "line 2" not in guest.card_status():
        raise TrialError(f"the card does not say where the mistake is: {guest.card_status()}")
    guest.machine.cut_power()
    guest.say("a mistake on the card is told on console and card, with its line")


def _join(guest: Guest, token: str) -> dict[str, Any]:
    guest.put_right()
    guest.machine.start()
    began = time.monotonic()
    (device,) = guest.until(lambda: guest.joined(1), "the image in the fleet", BOOT_S)
    joined_s = time.monotonic() - began
    guest.say(f"the image is in the fleet: {device}")
    if token.encode() in guest.boot_partition():
        raise TrialError("the token is still on the boot partition")
    guest.say("the token is off its boot partition")
    return {"power_to_joined_s": round(joined_s, 1)}


def _train(guest: Guest, fleet: LocalFleet) -> dict[str, Any]:
    machine, measured = guest.machine, dict[str, Any]()
    artifacts = guest.work / "artifacts"
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
    first = guest.until(lambda: _all_took_part(fleet, app, 0), "a round with all three", ROUNDS_S)
    guest.say(f"round {first} was trained by all three")

    guest.until(lambda: _phase(fleet, app) == "running", "a round under way", ROUNDS_S)
    machine.cut_power()
    at = _round(fleet, app)
    guest.say(f"power cut in round {at}")
    guest.until(lambda: _round(fleet, app) > at, "progress without the image", ROUNDS_S, alone=True)
    machine.start()
    began = time.monotonic()
    lost = _round(fleet, app)
    guest.until(lambda: _all_took_part(fleet, app, lost), "the image back in the training", BOOT_S)
    measured["power_to_trained_again_s"] = round(time.monotonic() - began, 1)
    if len(set(guest.joined(2))) != 1:
        raise TrialError(f"one device left, another came back: {', '.join(guest.joined(2))}")
    guest.say("the same device trains again")
    fleet.client(0).call("app.state", app=app, state="stopped")
    guest.until(lambda: _finished(fleet, app), "the end of the training", ROUNDS_S)
    model = guest.work / "trained.onnx"
    fleet.client(0).pull(app, model)
    measured["accuracy"] = round(digits.accuracy_of_file(model, digits.divide(HOST + 1, 0).test), 4)
    trained = guest.figures("guest-trained.txt")
    measured["trained_memory_available_mb"] = trained["MemAvailable"] // 1024
    text = guest.card_status()
    (guest.work / "edgefl-status.txt").write_text(text)
    if "settings: ok" not in text or "is in its fleet" not in text:
        raise TrialError(f"the status on the card is wrong: {text}")
    guest.say("the status on the card says so")
    return measured


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
