"""The two programs: take an update, and judge the system that was started. __main__.py gives them the real device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from edgefl.errors import EdgeflError
from edgefl.update import install
from edgefl.update.gate import Gate, Seen, Verdict
from edgefl.update.install import Device
from edgefl.update.slots import Running
from edgefl.update.sources import opened, settled

LOOK_S = 5.0

KEPT, BACK, AGAIN, GO = "kept", "back", "again", "go"
"""What `judge` finds: nothing to do any more (or this system stays); the system before runs again; the trial is to be
started once more; this system must go."""


def take(
    device: Device, fleet: bytes, sources: Iterable[Path | str], sleep: Callable[[float], None] = time.sleep
) -> Running | None:
    """Install the first newer bundle of the sources, to be started next. A file that was dealt with is deleted.

    None when there is none. What is wrong with one source is written down, and the others are looked at.
    """
    try:
        for source in sources:
            found = None
            try:
                if isinstance(source, Path):
                    settled(source, sleep)
                with opened(source) as stream:
                    found = install.fetch(stream, device, fleet)
                if found is not None:
                    place = install.install(found, device)
                    _done_with(source)
                    device.records.say(f"{found.version} (serial {found.serial}) is installed, and on trial")
                    return place
                _done_with(source)
            except EdgeflError as error:
                device.records.say(f"{_name(source)}: {error.cause}; next: {error.hint}")
            except OSError as error:
                device.records.say(
                    f"{_name(source)}: the card cannot be read or written: {error}; next: use another card"
                )
    finally:
        install.tidy(device)
    return None


def _done_with(source: Path | str) -> None:
    if isinstance(source, Path):
        source.unlink()


def _name(source: Path | str) -> str:
    return source.name if isinstance(source, Path) else source


def judge(
    device: Device,
    look: Callable[[], Seen],
    *,
    alone: bool,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """After every start: is there a trial, and what has come of it? Raises OSError, StorageError."""
    trial = device.records.trying()
    if trial is None:
        return KEPT
    if (device.running.slot, device.running.serial) != (trial.slot, trial.serial):
        # It was started, and this one runs: it died before it was judged, or its power went.
        if device.records.again(trial) is not None:
            install.stage_again(trial, device)
            return AGAIN
        device.loader.retire(trial.slot)
        device.records.end(
            f"serial {trial.serial} did not come up in {trial.attempts} starts; the system before it runs",
            refuse=trial.digest,
        )
        return BACK
    gate = Gate(clock(), alone=alone)
    while (verdict := gate.on_look(look(), clock())) is Verdict.WAIT:
        sleep(LOOK_S)
    if verdict is Verdict.HEALTHY:
        device.loader.keep(trial.slot)
        device.records.end(f"serial {trial.serial} is healthy, and stays")
        return KEPT
    device.loader.retire(trial.slot)
    words = f"serial {trial.serial} was ill ({gate.why}); the system before it runs"
    device.records.end(words, refuse=trial.digest)
    return GO
