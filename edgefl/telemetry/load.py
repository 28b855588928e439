"""The device's load: what else it is busy with, and whether it suffers.

Background processor use is that of everything but this daemon: a load that counted the daemon's own work would chase
itself (overlay study, 2.6). Samples are smoothed with a half-life of 20 s. Every sensor is optional: a board without a
battery or a thermometer gives None, never an error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

SAMPLE_S = 5.0
"""Seconds between samples: a sample costs about 0.2 ms of processor time."""

HALF_LIFE_S = 20.0


@dataclass(frozen=True, slots=True)
class Load:
    """`cpu` and `background_cpu` are shares of all cores (0 to 1), `memory` the share in use, sizes in bytes."""

    cpu: float
    background_cpu: float
    memory: float
    memory_available_bytes: int
    own_memory_bytes: int
    temperature_c: float | None = None
    frequency_share: float | None = None
    battery: float | None = None
    on_mains: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def smooth(before: float | None, sample: float, elapsed_s: float) -> float:
    """Exponential moving average with HALF_LIFE_S; the first sample counts in full."""
    if before is None:
        return sample
    keep: float = 0.5 ** (elapsed_s / HALF_LIFE_S)
    return keep * before + (1 - keep) * sample


class LoadSensor:
    """Reads the sensors of this device. `sample` never raises."""

    def __init__(self, now: float) -> None:
        import psutil  # only the daemon pays for it

        self._psutil = psutil
        self._process = psutil.Process()
        self._cores = psutil.cpu_count() or 1
        self._then = now
        self._cpu: float | None = None
        self._background: float | None = None
        self._own_seconds = self._own_cpu_seconds()
        psutil.cpu_percent()  # the first call only starts the counter

    def sample(self, now: float) -> Load:
        """The load since the last sample; `now` is monotonic, in seconds."""
        elapsed_s = max(now - self._then, 1e-3)
        self._then = now
        own_seconds = self._own_cpu_seconds()
        own = min(1.0, (own_seconds - self._own_seconds) / elapsed_s / self._cores)
        self._own_seconds = own_seconds
        cpu = self._psutil.cpu_percent() / 100
        self._cpu = smooth(self._cpu, cpu, elapsed_s)
        self._background = smooth(self._background, max(0.0, cpu - own), elapsed_s)
        memory = self._psutil.virtual_memory()
        battery = self._optional(lambda: self._psutil.sensors_battery())
        return Load(
            cpu=self._cpu,
            background_cpu=self._background,
            memory=memory.percent / 100,
            memory_available_bytes=memory.available,
            own_memory_bytes=self._process.memory_info().rss,
            temperature_c=self._optional(self._temperature),
            frequency_share=self._optional(self._frequency),
            battery=battery.percent / 100 if battery is not None else None,
            on_mains=battery.power_plugged if battery is not None else None,
        )

    def _own_cpu_seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def _temperature(self) -> float | None:
        readings = [entry.current for group in self._psutil.sensors_temperatures().values() for entry in group]
        return max(readings, default=None)

    def _frequency(self) -> float | None:
        frequency = self._psutil.cpu_freq()
        return frequency.current / frequency.max if frequency is not None and frequency.max else None

    @staticmethod
    def _optional(read: Callable[[], Any]) -> Any:
        """The reading, or None on a system without that sensor (or with a broken driver)."""
        with contextlib.suppress(Exception):
            return read()
        return None
