"""One at a time through the processor: jobs on threads of their own, which pass here between two steps.

A job keeps its thread, its session and its optimiser while others have their turn or the device is needed for its real
work: nothing is lost by a pause. Whose turn it is says learning/turns.py; whether there is one at all, the gate that
budget.py opens and closes; how much of the processor, telemetry/duty.py. Chores (opening artifacts, looking at data)
are short, somebody waits for them, and they cost little: they go first, whatever the gate.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from edgefl.learning.turns import Turns
from edgefl.telemetry.duty import Duty

LOOK_S = 1.0
"""A waiting job looks at least this often whether it is still wanted."""


class Turnstile:
    """Thread-safe. `clock` is monotonic (that of the event loop), `cpu_clock` the processor time of this process."""

    def __init__(
        self,
        turns: Turns,
        *,
        cores: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        """`cores`: processor seconds a second that jobs may take."""
        self.turns = turns
        self.clock, self.cpu_clock = clock, cpu_clock
        self._duty = Duty(cores, clock())
        self._changed = threading.Condition()
        self._holder: object | None = None
        self._chores: deque[object] = deque()
        self._inside: set[int] = set()
        self._opens_at = -math.inf
        self._closing = False

    def close_gate(self, opens_at: float) -> None:
        """No steps until `open_gate`, which is expected then: jobs that cannot wait for it give up."""
        with self._changed:
            if opens_at != self._opens_at:
                self._opens_at = opens_at
                self._changed.notify_all()

    def open_gate(self) -> None:
        self.close_gate(-math.inf)

    def hopeless(self, app: int, deadline: float) -> bool:
        """Whether a job with this deadline cannot be done because the gate is closed for too long."""
        with self._changed:
            return self._hopeless(app, deadline)

    def _hopeless(self, app: int, deadline: float) -> bool:
        return self._opens_at > -math.inf and self._opens_at + self.turns.left_s(app) > deadline

    def forget(self, app: int) -> None:
        """The application is no more here; a job of it stops at its next step."""
        with self._changed:
            self.turns.forget(app)
            self._changed.notify_all()

    def wake(self) -> None:
        """Some job may not be wanted any more: let all look."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Every job gives up at its next step, every chore that waits is done at once."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    @contextlib.contextmanager
    def chore(self) -> Iterator[None]:
        """Something short, as soon as the step that is under way has ended."""
        ticket = object()
        with self._changed:
            self._chores.append(ticket)
            self._changed.notify_all()
            while not self._closing and (self._holder is not None or self._chores[0] is not ticket):
                self._changed.wait(LOOK_S)
            self._chores.remove(ticket)
            self._holder = ticket
        try:
            yield
        finally:
            with self._changed:
                self._holder = None
                self._changed.notify_all()

    @contextlib.contextmanager
    def job(self, app: int, deadline: float, unwanted: Callable[[], bool]) -> Iterator[Pass]:
        """A job of an application, which comes in when the one before it has gone. `unwanted()`: nobody waits for it
        any more."""
        mine = Pass(self, app, deadline, unwanted)
        with self._changed:
            while app in self._inside:
                self._changed.wait(LOOK_S)
            self._inside.add(app)
            self.turns.enter(app, deadline)
            self._changed.notify_all()
        try:
            yield mine
        finally:
            with self._changed:
                mine._let_go()
                self.turns.leave(app, done=mine.done)
                self._inside.discard(app)
                self._changed.notify_all()


class Pass:
    """What a job asks between two steps. Set `done` when it went to its end."""

    def __init__(self, gate: Turnstile, app: int, deadline: float, unwanted: Callable[[], bool]) -> None:
        self._gate, self._app, self._deadline, self._unwanted = gate, app, deadline, unwanted
        self._since: tuple[float, float] | None = None
        self.done = False
        self.declined = False
        """Gave up because there will be no turn before the deadline."""

    def should_stop(self) -> bool:
        """Wait for a turn, in the job's own thread. True when the job shall give up instead."""
        gate = self._gate
        with gate._changed:
            self._account()
            while not (gate._closing or self._unwanted()):
                now = gate.clock()
                if gate._hopeless(self._app, self._deadline):
                    self.declined = True
                    break
                if not self._mine(now):
                    self._let_go()
                    gate._changed.wait(LOOK_S)
                    continue
                gate._holder = self
                if self._since is None:
                    self._since = (now, gate.cpu_clock())
                rest_s = gate._duty.rest_s(now)
                if rest_s <= 0.0:
                    return False
                gate._changed.wait(min(rest_s, LOOK_S))
            self._let_go()
            return True

    def _mine(self, now: float) -> bool:
        gate = self._gate
        if gate._opens_at > -math.inf or gate._chores:
            return False
        return gate.turns.turn(now) == self._app and gate._holder in (None, self)

    def _let_go(self) -> None:
        self._account()
        if self._gate._holder is self:
            self._gate._holder = None
            self._gate._changed.notify_all()

    def _account(self) -> None:
        """What this job has had since its turn began, its rests included: that is how long it takes."""
        if self._since is None:
            return
        gate, (since, cpu_before) = self._gate, self._since
        self._since = None
        now = gate.clock()
        gate.turns.charge(self._app, now - since)
        gate._duty.charge(gate.cpu_clock() - cpu_before, now)
