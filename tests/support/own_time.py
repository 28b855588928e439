"""Deadlines in seconds that the machine gave us: a test must tell "stuck" from "starved by other work".

Linux counts for every thread how long it ran and how long it was ready to run and had to wait for a processor
(/proc/PID/task/TID/schedstat). While the processes of a test have to wait, its clock runs slower by that share: at a
load of twenty on two cores, sixty of its seconds may be ten minutes. A fleet that hangs is idle, does not wait for any
processor, and its clock runs as every other: a hang is found as soon as on a quiet machine.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

SLOWEST = 0.1
"""The least that a second counts: no deadline is longer than ten times what it says."""

IDLE = 0.02
"""Of a second: processes that did less than this have hardly had anything to wait for."""

LOOK_S = 0.5


def schedstat(pid: int) -> tuple[float, float]:
    """Seconds that all threads of a process ran, and that they waited for a processor. (0, 0) where nobody counts."""
    ran = waited = 0
    with contextlib.suppress(OSError):
        for task in os.scandir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError, ValueError):
                fields = Path(task.path, "schedstat").read_text().split()
                ran, waited = ran + int(fields[0]), waited + int(fields[1])
    return ran / 1e9, waited / 1e9


def descendants(pid: int) -> list[int]:
    """The process and all below it."""
    found = [pid]
    for at in found:
        with contextlib.suppress(OSError):
            for task in os.scandir(f"/proc/{at}/task"):
                with contextlib.suppress(OSError):
                    found += [int(child) for child in Path(task.path, "children").read_text().split()]
    return found


def share(ran_s: float, waited_s: float, elapsed_s: float) -> float:
    """How much of a second counts when processes ran and waited for so long meanwhile."""
    if ran_s + waited_s <= IDLE * elapsed_s:
        return 1.0
    return max(SLOWEST, ran_s / (ran_s + waited_s))


class OwnTime:
    """A clock from 0, of this process and all that it has started."""

    def __init__(self) -> None:
        self._elapsed = 0.0
        self._looked_at = time.monotonic()
        self._counted = self._count()

    def _count(self) -> dict[int, tuple[float, float]]:
        return {pid: schedstat(pid) for pid in descendants(os.getpid())}

    def __call__(self) -> float:
        """Seconds since it was made."""
        now = time.monotonic()
        if now - self._looked_at >= LOOK_S:
            before, self._counted = self._counted, self._count()
            new = [(pid, *counted) for pid, counted in self._counted.items()]
            ran = sum(max(0.0, r - before.get(pid, (0.0, 0.0))[0]) for pid, r, _ in new)
            waited = sum(max(0.0, w - before.get(pid, (0.0, 0.0))[1]) for pid, _, w in new)
            elapsed, self._looked_at = now - self._looked_at, now
            self._elapsed += elapsed * share(ran, waited, elapsed)
        return self._elapsed
