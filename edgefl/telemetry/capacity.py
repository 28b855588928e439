"""The device's capacity class, from what is measured: how much of others' work it can carry (overlay study, 1.3).

What counts is what the kernel reports, which is less than what is printed on the box: the firmware and the graphics
processor of a small board keep up to a tenth, so the thresholds lie below the sizes that memory is sold in. A gateway
is a promise to be there for others, which no sensor can see: only the configuration makes one.
"""

from __future__ import annotations

import contextlib

from edgefl.declared import dataclass
from edgefl.wire.contact import Capacity

CONSTRAINED_BELOW_BYTES = 768 << 20
"""Less memory than boards sold with 1 GB report (about 900 MiB), more than those sold with 512 MB do."""

STRONG_FROM_BYTES = 7 << 30
"""What is left at least of 8 GB."""

STRONG_FROM_CORES = 4


@dataclass(frozen=True, slots=True)
class Hardware:
    """Logical cores, memory in bytes, and whether it runs on mains. None: this system does not tell (a board without
    a battery has no sensor for one, and hangs on a wire)."""

    cores: int | None
    memory_bytes: int | None
    on_mains: bool | None = None


def capacity_of(hardware: Hardware) -> Capacity:
    """Constrained with little memory, one core or on battery; strong with much memory and four cores; else normal,
    also where the system does not tell. Never a gateway."""
    cores, memory_bytes = hardware.cores, hardware.memory_bytes
    if (
        hardware.on_mains is False
        or (cores is not None and cores <= 1)
        or (memory_bytes is not None and memory_bytes < CONSTRAINED_BELOW_BYTES)
    ):
        return Capacity.CONSTRAINED
    if (cores or 0) >= STRONG_FROM_CORES and (memory_bytes or 0) >= STRONG_FROM_BYTES:
        return Capacity.STRONG
    return Capacity.NORMAL


def told(name: str) -> Capacity | None:
    """The class of this name (edgefl/config.py, CAPACITIES); None for `auto`: as measured."""
    return None if name == "auto" else Capacity[name.upper()]


def measure() -> Hardware:
    """This device. Never raises: what cannot be read is None."""
    import psutil  # only the daemon pays for it

    cores = memory_bytes = on_mains = None
    with contextlib.suppress(Exception):  # drivers fail in many ways
        cores = psutil.cpu_count()
    with contextlib.suppress(Exception):
        memory_bytes = psutil.virtual_memory().total
    with contextlib.suppress(Exception):
        battery = psutil.sensors_battery()
        on_mains = battery.power_plugged if battery is not None else None
    return Hardware(cores, memory_bytes, on_mains)
