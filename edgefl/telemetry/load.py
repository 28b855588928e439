"""The device's load: what else it is busy with, and whether it suffers.

Background processor use is that of everything but this daemon and its children: a load that counted our own work would
chase itself (overlay study, 2.6). What counts are the cores that this process may run on: where it was pinned to some
(taskset, a cpuset), the others are no help to it. Samples are smoothed with a half-life of 20 s. Every sensor is
optional: a board without a battery or a thermometer gives None, never an error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgefl.declared import dataclass

SAMPLE_S = 5.0
"""Seconds between samples: a sample costs about 0.2 ms of processor time."""

HALF_LIFE_S = 20.0

MEMORY_PRESSURE = Path("/proc/pressure/memory")
"""Pressure stall information: kernels since 4.20 that are built with it (not those of all boards)."""

THERMAL_ZONES = Path("/sys/class/thermal")
"""Where a Jetson shows its thermal zones; psutil reads them only where there is no hwmon."""

WEAR = Path("/sys/block")
"""eMMC cards tell how much of their life is used (JEDEC 84-B50, EXT_CSD 268 and 269), in tenths."""

MAX_ZONES = 32
"""Thermal zones read: a Jetson has nine."""


@dataclass(frozen=True, slots=True)
class Load:
    """`cpu` and `background_cpu` are shares of the cores that this process may use (0 to 1), `memory` the share in use,
    sizes in bytes."""

    cpu: float
    background_cpu: float
    memory: float
    memory_available_bytes: int
    own_memory_bytes: int
    temperature_c: float | None = None
    frequency_share: float | None = None
    battery: float | None = None
    on_mains: bool | None = None
    runnable: float | None = None
    """Load average over one minute, per core."""
    memory_pressure: float | None = None
    """Share of the last ten seconds in which some process waited for memory."""
    sent_bytes_s: float | None = None
    received_bytes_s: float | None = None
    """Of all network interfaces but loopback."""
    wear: float | None = None
    """Share of the storage's life that is used, as the most worn card has it."""

    def as_dict(self) -> dict[str, Any]:
        """With the names of the sensors that this device does not have."""
        document = asdict(self)
        return {**document, "absent": [name for name, value in document.items() if value is None]}


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
        self._then = now
        self._cpu: float | None = None
        self._background: float | None = None
        self._own_seconds = self._own_cpu_seconds()
        self._network: tuple[int, int] | None = self._optional(self._network_bytes)
        psutil.cpu_percent(percpu=True)  # the first call only starts the counters

    def sample(self, now: float) -> Load:
        """The load since the last sample; `now` is monotonic, in seconds."""
        elapsed_s = max(now - self._then, 1e-3)
        self._then = now
        own_seconds = self._own_cpu_seconds()
        cpu, cores = self._busy()
        own = min(1.0, max(0.0, own_seconds - self._own_seconds) / elapsed_s / cores)
        self._own_seconds = own_seconds
        self._cpu = smooth(self._cpu, cpu, elapsed_s)
        self._background = smooth(self._background, max(0.0, cpu - own), elapsed_s)
        memory = self._psutil.virtual_memory()
        battery = self._optional(lambda: self._psutil.sensors_battery())
        sent, received = self._network_rates(elapsed_s)
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
            runnable=self._optional(lambda: self._psutil.getloadavg()[0] / (self._psutil.cpu_count() or 1)),
            memory_pressure=self._optional(_memory_pressure),
            sent_bytes_s=sent,
            received_bytes_s=received,
            wear=self._optional(_wear),
        )

    def _busy(self) -> tuple[float, int]:
        """(share in use, how many) of the cores that this process may run on at this moment."""
        shares: list[float] = self._psutil.cpu_percent(percpu=True)
        allowed = self._optional(self._process.cpu_affinity) or range(len(shares))
        ours = [shares[core] for core in allowed if core < len(shares)] or shares
        return sum(ours) / len(ours) / 100, len(ours)

    def _own_cpu_seconds(self) -> float:
        """Of this process and its children: those that run, and those that have been waited for."""
        times = self._process.cpu_times()
        seconds = times.user + times.system + times.children_user + times.children_system
        for child in self._optional(lambda: self._process.children(recursive=True)) or ():
            of_child = self._optional(child.cpu_times)
            if of_child is not None:
                seconds += of_child.user + of_child.system
        return float(seconds)

    def _temperature(self) -> float | None:
        readings = [entry.current for group in self._psutil.sensors_temperatures().values() for entry in group]
        return max(readings, default=None) or _hottest_zone()

    def _network_bytes(self) -> tuple[int, int]:
        counters = self._psutil.net_io_counters(pernic=True)
        outside = [counter for name, counter in counters.items() if name != "lo"]
        return sum(counter.bytes_sent for counter in outside), sum(counter.bytes_recv for counter in outside)

    def _network_rates(self, elapsed_s: float) -> tuple[float | None, float | None]:
        before, self._network = self._network, self._optional(self._network_bytes)
        if before is None or self._network is None:
            return None, None
        sent, received = (max(0, now - then) / elapsed_s for now, then in zip(self._network, before, strict=True))
        return sent, received

    def _frequency(self) -> float | None:
        frequency = self._psutil.cpu_freq()
        return frequency.current / frequency.max if frequency is not None and frequency.max else None

    @staticmethod
    def _optional(read: Callable[[], Any]) -> Any:
        """The reading, or None on a system without that sensor (or with a broken driver)."""
        with contextlib.suppress(Exception):
            return read()
        return None


def _memory_pressure() -> float:
    """`some avg10` of the kernel's pressure stall information, as a share."""
    some = MEMORY_PRESSURE.read_text().splitlines()[0].split()
    return next(float(field.removeprefix("avg10=")) for field in some if field.startswith("avg10=")) / 100


def _hottest_zone() -> float | None:
    """Thermal zones in degrees; those that cannot be read (switched off) do not count."""
    readings = []
    for zone in sorted(THERMAL_ZONES.glob("thermal_zone*"))[:MAX_ZONES]:
        with contextlib.suppress(OSError, ValueError):
            readings.append(int((zone / "temp").read_text()) / 1000)
    return max(readings, default=None)


def _wear() -> float | None:
    """The higher of both estimates of the most worn card: 1 is at most a tenth of its life, 10 all of it."""
    tenths = []
    for card in WEAR.glob("mmcblk*/device/life_time"):
        tenths += [int(word, 16) for word in card.read_text().split()]
    known = [tenth for tenth in tenths if 0 < tenth <= 11]
    return min(1.0, max(known) / 10) if known else None
