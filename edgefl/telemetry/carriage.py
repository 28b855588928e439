"""kappa: what carrying a byte costs this device's processor, measured: decrypting, adding, encrypting, in seconds.

The threads that do it are the loop's and ZeroMQ's; training has threads of its own, which do not count. What the loop
costs without any traffic is measured in quiet times and taken off. Where the kernel does not tell of threads (other
systems than Linux), kappa is what was assumed (price.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

TASKS = Path("/proc/self/task")

CARRIERS = "ZMQbg/IO"
"""How the names of ZeroMQ's input and output threads begin."""

ENOUGH_BYTES, QUIET_BYTES = 4 << 20, 64 << 10
"""A sample with more of traffic tells what a byte costs (8 ms of a processor that is ten times slower than the loop's
idle share is noisy); one with less tells what none costs."""

HALF_LIFE_BYTES = 64 << 20
"""Of the smoothing: some rounds of a model of a few megabytes."""

LEAST_S_PER_BYTE, MOST_S_PER_BYTE = 1e-10, 1e-6
"""A sensor that says less or more is broken: a gigabyte in 0.1 s, and in a quarter of an hour."""


def carrier_seconds() -> float | None:
    """Processor time of the loop's thread and of ZeroMQ's so far; None where it cannot be known."""
    ticks, own = 0, str(os.getpid())
    try:
        for task in TASKS.iterdir():
            if task.name == own or (task / "comm").read_text().startswith(CARRIERS):
                fields = (task / "stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])  # utime, stime: proc(5) counts from the state
        return ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


class Carriage:
    """kappa of this process, smoothed over bytes."""

    def __init__(self, seconds: Callable[[], float | None] = carrier_seconds) -> None:
        self.s_per_byte: float | None = None
        """None until there was enough traffic."""
        self._seconds = seconds
        self._then: tuple[float, float, int] | None = None
        self._idle_share: float | None = None

    def sample(self, now: float, moved_bytes: int) -> None:
        """`moved_bytes`: sent and received so far; `now` is monotonic, in seconds."""
        seconds, then = self._seconds(), self._then
        self._then = None if seconds is None else (now, seconds, moved_bytes)
        if seconds is None or then is None or now <= then[0]:
            return
        elapsed_s, spent_s, moved = now - then[0], seconds - then[1], moved_bytes - then[2]
        if moved <= QUIET_BYTES:
            share = spent_s / elapsed_s
            self._idle_share = share if self._idle_share is None else min(share, (self._idle_share + share) / 2)
        elif moved >= ENOUGH_BYTES:
            idle_s = (self._idle_share or 0.0) * elapsed_s
            found = min(MOST_S_PER_BYTE, max(LEAST_S_PER_BYTE, (spent_s - idle_s) / moved))
            keep = 0.5 ** (moved / HALF_LIFE_BYTES)
            self.s_per_byte = found if self.s_per_byte is None else keep * self.s_per_byte + (1 - keep) * found
