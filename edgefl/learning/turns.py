"""Whose turn it is to train: one processor, the jobs of many applications, a deadline each, and shares.

One application trains at a time; between two steps it asks `turn`, and another may go on in its place. The order:

1. A job that can still meet its deadline goes before one that cannot: a round closes without it, its work is in vain.
2. An application that has had its share goes after one that has not. Processor seconds are divided by the application's
   weight (virtual time, as in Demers, Keshav and Shenker 1989); who is ALLOWANCE_S ahead of the one that has had least
   is overdrawn, and no longer so at half of that. Nobody saves up by not asking: a newcomer starts where others are.
3. The earlier deadline first (Liu and Layland 1973). Where every deadline can be met within the shares, all are met.

A running job is not interrupted for an earlier deadline if it would then miss its own: under overload that would waste
what it has done, and the next one would suffer the same.

How long a job takes is known from those of its application before it. Nothing is known of the first: it counts as
short. Pure: times are monotonic seconds, nothing here waits.
"""

from __future__ import annotations

from collections.abc import Callable

from edgefl.declared import dataclass

ALLOWANCE_S = 30.0
"""Processor seconds (for weight 1) by which an application may be ahead: longer than most jobs, so that these are not
interrupted; much shorter than a round's deadline."""

KEEP = 0.5
"""Weight of the earlier estimate when a job has ended."""


@dataclass(slots=True)
class _Job:
    deadline: float
    order: int
    used_s: float = 0.0
    late: bool = False
    overdrawn: bool = False


class Turns:
    """At most one job of each application. `weight(app)` is above 0; twice the weight, twice the processor."""

    def __init__(self, weight: Callable[[int], float] = lambda app: 1.0) -> None:
        self._weight = weight
        self._jobs: dict[int, _Job] = {}
        self._had: dict[int, float] = {}  # virtual time of each application
        self._costs: dict[int, float] = {}
        self._running: int | None = None
        self._floor = 0.0
        self._entered = 0

    @property
    def waiting(self) -> tuple[int, ...]:
        """Applications with a job, running or not, in the order in which they came."""
        return tuple(self._jobs)

    @property
    def running(self) -> int | None:
        """Whose turn it was when that was last asked."""
        return self._running

    def had(self, app: int) -> float:
        """Processor seconds divided by the weight, on the clock that all applications share."""
        return self._had.get(app, self._floor)

    def left_s(self, app: int) -> float:
        """Processor seconds that the job of an application still needs, as far as is known; 0 if nothing is."""
        used_s = self._jobs[app].used_s if app in self._jobs else 0.0
        return max(0.0, self._costs.get(app, 0.0) - used_s)

    def enter(self, app: int, deadline: float) -> None:
        """A job wants to run; it takes the place of an earlier one of its application."""
        self._had[app] = max(self.had(app), self._least())
        self._entered += 1
        self._jobs[app] = _Job(deadline, self._entered)

    def charge(self, app: int, seconds: float) -> None:
        """The job of this application has had the processor for so long."""
        job = self._jobs.get(app)
        if job is not None:
            job.used_s += seconds
            self._had[app] += seconds / self._weight(app)

    def leave(self, app: int, *, done: bool = False) -> None:
        """The job has ended; `done`: to the end, so that its length says how long the next will take."""
        job = self._jobs.pop(app, None)
        if job is None:
            return
        self._floor = max(self._floor, self._least() if self._jobs else self._had[app])
        if self._running == app:
            self._running = None
        if done:
            before = self._costs.get(app, job.used_s)
            self._costs[app] = KEEP * before + (1 - KEEP) * job.used_s

    def forget(self, app: int) -> None:
        """The application is no more here."""
        self.leave(app)
        self._had.pop(app, None)
        self._costs.pop(app, None)

    def turn(self, now: float) -> int | None:
        """The application whose job shall go on now; None when there is no job."""
        if not self._jobs:
            return None
        self._mark(now)
        first = min(self._jobs, key=self._rank)
        if self._running is None or self._running not in self._jobs or self._gives_way(self._running, first, now):
            self._running = first
        return self._running

    def _gives_way(self, running: int, first: int, now: float) -> bool:
        if self._rank(running)[:2] > self._rank(first)[:2]:
            return True
        job = self._jobs[running]
        if self._jobs[first].deadline >= job.deadline:
            return False
        return now + self.left_s(first) + self.left_s(running) <= job.deadline

    def _rank(self, app: int) -> tuple[bool, bool, float, int]:
        job = self._jobs[app]
        return job.late, job.overdrawn, job.deadline, job.order

    def _mark(self, now: float) -> None:
        for app, job in self._jobs.items():
            job.late = now + self.left_s(app) > job.deadline
        least = self._least()
        for app, job in self._jobs.items():
            ahead = self._had[app] - least
            job.overdrawn = ahead > (ALLOWANCE_S / 2 if job.overdrawn else ALLOWANCE_S)

    def _least(self) -> float:
        """Virtual time of the one that has had least of those who want to run, and can still make it."""
        in_time = [self._had[app] for app, job in self._jobs.items() if not job.late]
        return min(in_time or [self._had[app] for app in self._jobs], default=self._floor)
