"""May this device train now? Not while its owner needs it: the limits of the configuration against its load.

Each limit has its own memory, so that training does not flicker at its edge: heat and battery must get better by a
margin, other work must have been quiet for a while. Pure: fed with samples, `now` in monotonic seconds.
"""

from __future__ import annotations

import math

from edgefl.declared import dataclass
from edgefl.limits import MINUTES, DeviceLimits
from edgefl.telemetry.load import Load

COOLER_C = 5.0
CHARGED = 0.05
QUIET_S = 30.0
"""Other work must have stayed below its limit for so long: somebody who uses a device stops to think."""

SHRUNK = 0.9
"""Of the memory limit, below which training goes on."""

SHORTEST_S = 30.0
"""A pause that has just begun is expected to last so long, and any other as long again as it has lasted."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Why there is no training, for people, since when, and when that will end: as expected, in monotonic seconds."""

    why: str
    since: float
    until: float


class Permit:
    """`pause` is None while this device may train."""

    def __init__(self, limits: DeviceLimits) -> None:
        self._limits = limits
        self._hot = self._low = self._busy = self._full = False
        self._quiet_since: float | None = None
        self.pause: Pause | None = None

    def look(self, load: Load | None, minute: int, spent: str, now: float) -> None:
        """What holds now. `load`: the last sample, if there is one; `minute`: of the day, by the device's own clock;
        `spent`: that the bytes of the period are used up, for people, or nothing."""
        why, until = spent, math.inf
        if not why:
            why, until = self._closed(minute, now)
        if load is not None:
            # Every memory is kept up to date, whichever of the reasons is shown.
            found = [self._battery(load), self._heat(load), self._memory(load), self._background(load, now)]
            why = why or next((reason for reason in found if reason), "")
        if not why:
            self.pause = None
            return
        since = now if self.pause is None else self.pause.since
        if math.isnan(until):
            until = math.inf if self._low else now + max(SHORTEST_S, now - since)
        self.pause = Pause(why, since, until)

    def _closed(self, minute: int, now: float) -> tuple[str, float]:
        hours = self._limits.hours
        if hours is None or in_hours(minute, hours):
            return "", math.nan
        first, last = hours
        text = f"{first // 60:02}:{first % 60:02} to {last // 60:02}:{last % 60:02}"
        return f"training is from {text} only", now + (first - minute) % MINUTES * 60.0

    def _battery(self, load: Load) -> str:
        limit = self._limits.battery
        if load.battery is None or load.on_mains is not False:
            self._low = False
        else:
            self._low = load.battery < (limit + CHARGED if self._low and limit else limit)
        return f"the battery is at {load.battery:.0%} (battery = {limit:g})" if self._low else ""

    def _heat(self, load: Load) -> str:
        limit = self._limits.temperature_c
        hottest = load.temperature_c
        self._hot = bool(limit) and hottest is not None and hottest > (limit - COOLER_C if self._hot else limit)
        return f"it is at {hottest:.0f} °C (temperature = {limit:g})" if self._hot else ""

    def _memory(self, load: Load) -> str:
        limit = self._limits.memory_bytes
        self._full = bool(limit) and load.own_memory_bytes > (limit * SHRUNK if self._full else limit)
        megabytes = f"{load.own_memory_bytes / 1e6:.0f} MB of {limit / 1e6:.0f} MB"
        return f"the daemon takes {megabytes} (memory)" if self._full else ""

    def _background(self, load: Load, now: float) -> str:
        limit = self._limits.background_cpu
        if not limit:
            return ""
        if load.background_cpu > limit:
            self._busy, self._quiet_since = True, None
        elif self._quiet_since is None:
            self._quiet_since = now
        if self._busy and self._quiet_since is not None and now - self._quiet_since >= QUIET_S:
            self._busy = False
        return f"the device is needed for other work (background_cpu = {limit:g})" if self._busy else ""


def in_hours(minute: int, hours: tuple[int, int]) -> bool:
    """Whether a minute of the day is in a window that may pass midnight."""
    first, last = hours
    return first <= minute < last if first < last else minute >= first or minute < last
