"""One at a time through the processor: real threads, and a clock that only steps move."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

from edgefl.daemon.turnstile import Pass, Turnstile
from edgefl.learning.turns import ALLOWANCE_S, Turns

PATIENCE_S = 30.0
FAR = 1e9


class Machine:
    """Jobs of `steps` steps, each of which takes a second of the clock and of `cores` cores."""

    def __init__(self, turns: Turns | None = None, **options: Any) -> None:
        self.now = 0.0
        self.taken = 0.0
        self.inside = 0
        self.most_inside = 0
        self.steps: list[int] = []
        self.results: dict[int, str] = {}
        self.threads: list[threading.Thread] = []
        options = {"clock": lambda: self.now, "cpu_clock": lambda: self.taken, **options}
        self.gate = Turnstile(turns or Turns(), **options)

    def step(self, app: int) -> None:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        time.sleep(0)
        self.now += 1.0
        self.taken += 1.0
        self.steps.append(app)
        self.inside -= 1

    def start(
        self,
        app: int,
        steps: int,
        *,
        deadline: float = FAR,
        unwanted: Callable[[], bool] = lambda: False,
        before: Callable[[int], None] = lambda index: None,
    ) -> threading.Thread:
        def work() -> None:
            with self.gate.job(app, deadline, unwanted) as turn:
                self.results[app] = self._run(turn, app, steps, before)

        thread = threading.Thread(target=work, daemon=True)
        self.threads.append(thread)
        thread.start()
        return thread

    def _run(self, turn: Pass, app: int, steps: int, before: Callable[[int], None]) -> str:
        for index in range(steps):
            before(index)
            if turn.should_stop():
                return "declined" if turn.declined else "stopped"
            self.step(app)
        turn.done = True
        return "done"

    def finish(self) -> None:
        for thread in self.threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_one_step_at_a_time_and_fair_shares() -> None:
    machine = Machine()
    machine.gate.close_gate(FAR)  # so that all are there before the first step
    for app in range(5):
        machine.start(app, 100, deadline=2 * FAR)
    until(lambda: len(machine.gate.turns.waiting) == 5)
    machine.gate.open_gate()
    machine.finish()
    assert machine.most_inside == 1
    assert machine.results == dict.fromkeys(range(5), "done")
    assert sorted(machine.steps) == sorted(list(range(5)) * 100)
    ahead = [machine.steps[:250].count(app) for app in range(5)]
    assert max(ahead) - min(ahead) <= ALLOWANCE_S + 1


def test_a_closed_gate_stops_between_two_steps_and_nothing_is_lost() -> None:
    machine, reached = Machine(), threading.Event()

    def close(index: int) -> None:
        if index == 3 and not reached.is_set():
            machine.gate.close_gate(machine.now + 100.0)
            reached.set()

    machine.start(1, 10, before=close)
    assert reached.wait(PATIENCE_S)
    until(lambda: machine.gate._holder is None)
    assert machine.steps == [1] * 3
    assert not machine.gate.hopeless(1, FAR)
    machine.gate.open_gate()
    machine.finish()
    assert (machine.steps, machine.results) == ([1] * 10, {1: "done"})


def test_who_cannot_wait_for_the_gate_gives_up_at_once() -> None:
    machine = Machine()
    machine.gate.close_gate(math.inf)
    assert machine.gate.hopeless(1, 600.0)
    machine.start(1, 10, deadline=600.0)
    machine.start(2, 10, deadline=math.inf)  # nobody has said when it is wanted: it may wait
    until(lambda: machine.results == {1: "declined"})
    machine.gate.open_gate()
    machine.finish()
    assert machine.results == {1: "declined", 2: "done"}
    assert machine.gate.turns.waiting == ()


def test_a_job_knows_from_the_one_before_how_long_it_takes() -> None:
    machine = Machine()
    machine.start(1, 50)
    machine.finish()
    machine.gate.close_gate(machine.now + 100.0)
    assert machine.gate.hopeless(1, machine.now + 149.0)
    assert not machine.gate.hopeless(1, machine.now + 151.0)


def test_a_newer_job_begins_when_the_older_one_has_gone() -> None:
    machine, newer = Machine(), threading.Event()
    begun = threading.Event()

    def wait(index: int) -> None:
        if index == 2:
            begun.set()
            assert newer.wait(PATIENCE_S)

    first = machine.start(1, 10, unwanted=newer.is_set, before=wait)
    assert begun.wait(PATIENCE_S)
    machine.start(1, 4)
    newer.set()
    machine.gate.wake()
    machine.finish()
    assert not first.is_alive()
    assert machine.results == {1: "done"}
    assert machine.steps == [1] * 6
    assert machine.gate._inside == set()


def test_a_chore_goes_first_and_needs_no_open_gate() -> None:
    machine, order = Machine(), []
    asked = threading.Event()

    def chore() -> None:
        with machine.gate.chore():
            order.append(len(machine.steps))
            assert machine.inside == 0

    def start_chore(index: int) -> None:
        if index == 5 and not asked.is_set():
            asked.set()
            thread = threading.Thread(target=chore, daemon=True)
            machine.threads.append(thread)
            thread.start()
            until(lambda: machine.gate._chores or order)

    machine.start(1, 10, before=start_chore)
    assert asked.wait(PATIENCE_S)
    machine.finish()
    assert order == [5]
    machine.gate.close_gate(math.inf)
    chore()
    assert len(order) == 2


def test_closing_wakes_everybody() -> None:
    machine = Machine()
    machine.gate.close_gate(math.inf)
    for app in range(3):
        machine.start(app, 10, deadline=math.inf)
    until(lambda: len(machine.gate.turns.waiting) == 3)
    machine.gate.close()
    machine.finish()
    assert machine.results == dict.fromkeys(range(3), "stopped")
    with machine.gate.chore():
        pass


def test_a_share_of_the_processor_is_kept_over_all_jobs() -> None:
    """Real time: twenty steps of 0.02 processor seconds at half a core take no less than (0.4 - a burst) / 0.5 s."""
    machine = Machine(cores=0.5, clock=time.monotonic)
    machine.gate._duty.charge(0.5, time.monotonic())  # what an idle time has saved up is spent
    began = time.monotonic()

    def work(app: int) -> None:
        with machine.gate.job(app, math.inf, lambda: False) as turn:
            for _ in range(10):
                assert not turn.should_stop()
                machine.taken += 0.02

    threads = [threading.Thread(target=work, args=(app,), daemon=True) for app in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert time.monotonic() - began >= (0.4 - 0.02) / 0.5
