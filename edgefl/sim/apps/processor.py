"""One processor under virtual time. After every step the shipped scheduler says whose job goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgefl.learning.turns import Turns
from edgefl.sim.clock import Clock


@dataclass(slots=True, eq=False)
class _Job:
    steps: int
    deadline: float
    ended: Callable[[bool], None]


class Processor:
    """A step of any application takes `step_s`. `busy_s`: the time in which it computed."""

    def __init__(self, clock: Clock, step_s: float) -> None:
        self._clock = clock
        self.step_s = step_s
        self.busy_s = 0.0
        self.turns = Turns()
        self._jobs: dict[int, _Job] = {}
        self._stepping = False

    def submit(self, app: int, steps: int, deadline: float, ended: Callable[[bool], None]) -> None:
        """A job in place of an earlier one of its application. `ended(True)` when its steps are done, `ended(False)`
        when its deadline has passed before."""
        self._jobs[app] = _Job(steps, deadline, ended)
        self.turns.enter(app, deadline)
        self._go_on()

    def _go_on(self) -> None:
        if self._stepping:
            return
        now = self._clock.now
        for app, job in list(self._jobs.items()):
            if now > job.deadline and self._jobs.get(app) is job:
                self._end(app, done=False)
        app_now = self.turns.turn(now)
        if app_now is not None and not self._stepping:  # who was told of an end may have begun something already
            self._stepping = True
            self._clock.at(now + self.step_s, self._stepped, app_now, self._jobs[app_now])

    def _stepped(self, app: int, job: _Job) -> None:
        self._stepping = False
        self.busy_s += self.step_s
        self.turns.charge(app, self.step_s)
        job.steps -= 1
        if job.steps <= 0 and self._jobs.get(app) is job:
            self._end(app, done=True)
        self._go_on()

    def _end(self, app: int, *, done: bool) -> None:
        job = self._jobs.pop(app)
        self.turns.leave(app, done=done)
        job.ended(done)
