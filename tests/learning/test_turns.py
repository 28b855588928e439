"""Whose turn it is: deadlines, shares, and what an interruption costs (nothing)."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.learning.turns import ALLOWANCE_S, Turns

STEP_S = 0.5
FOREVER = 1e9


@dataclass
class Processor:
    """Runs jobs step by step as the turns say. `jobs`: (arrival, application, seconds, deadline)."""

    turns: Turns
    jobs: list[tuple[float, int, float, float]]
    now: float = 0.0
    left: dict[int, float] = field(default_factory=dict)
    ended: dict[int, float] = field(default_factory=dict)
    had: dict[int, float] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)

    def run(self, until: float = FOREVER) -> Processor:
        ahead = sorted(self.jobs)
        while self.now < until:
            while ahead and ahead[0][0] <= self.now:
                _, app, seconds, deadline = ahead.pop(0)
                self.left[app] = seconds
                self.turns.enter(app, deadline)
            app = self.turns.turn(self.now)
            if app is None:
                if not ahead:
                    break
                self.now = ahead[0][0]
                continue
            if not self.order or self.order[-1] != app:
                self.order.append(app)
            step = min(STEP_S, self.left[app])
            self.now += step
            self.left[app] -= step
            self.had[app] = self.had.get(app, 0.0) + step
            self.turns.charge(app, step)
            if self.left[app] <= 1e-9:
                self.ended[app] = self.now
                self.turns.leave(app, done=True)
        return self


def taught(costs: dict[int, float]) -> Turns:
    """Turns that have seen one job of each application before."""
    turns = Turns()
    for app, seconds in costs.items():
        turns.enter(app, FOREVER)
        turns.charge(app, seconds)
        turns.leave(app, done=True)
    turns._had.clear()
    turns._floor = 0.0
    return turns


def test_the_earlier_deadline_goes_first_and_the_order_of_arrival_decides_between_equals() -> None:
    assert Processor(Turns(), [(0, 1, 5, 100), (0, 2, 5, 50), (0, 3, 5, 100)]).run().order == [2, 1, 3]


def test_an_earlier_deadline_interrupts_and_the_interrupted_one_goes_on_where_it_was() -> None:
    done = Processor(taught({1: 20, 2: 5}), [(0, 1, 20, 100), (2, 2, 5, 30)]).run()
    assert done.order == [1, 2, 1]
    assert done.ended == {2: 7.0, 1: 25.0}


def test_nobody_is_interrupted_who_would_then_miss() -> None:
    done = Processor(taught({1: 20, 2: 5}), [(0, 1, 20, 22), (2, 2, 5, 21)]).run()
    assert done.order == [1, 2]
    assert done.ended[1] == 20.0


def test_a_job_that_cannot_make_it_waits_until_nobody_else_wants_the_processor() -> None:
    done = Processor(taught({1: 20, 2: 10, 3: 10}), [(0, 1, 20, 15), (0, 2, 10, 40), (0, 3, 10, 50)]).run()
    assert done.order == [2, 3, 1]


def test_twice_the_weight_is_twice_the_processor() -> None:
    turns = Turns(lambda app: {1: 2.0}.get(app, 1.0))
    done = Processor(turns, [(0, 1, 1e4, 1e6), (0, 2, 1e4, 2e6)]).run(until=900.0)
    assert done.had[1] == pytest.approx(600.0, abs=2 * ALLOWANCE_S)


def test_who_did_not_ask_has_nothing_saved_up() -> None:
    """Application 2 comes after 1 has had the processor alone for an hour: it does not get the next hour for it."""
    jobs = [(0, 1, 1e5, 1e7), (3600, 2, 1e5, 2e7)]
    done = Processor(Turns(), jobs).run(until=3600.0 + 400.0)
    assert done.had[2] == pytest.approx(200.0, abs=2 * ALLOWANCE_S)


def test_an_application_that_is_gone_is_forgotten() -> None:
    turns = Turns()
    turns.enter(1, 10.0)
    assert turns.turn(0.0) == 1
    turns.charge(1, 5.0)
    turns.forget(1)
    turns.charge(1, 5.0)
    turns.leave(1)
    assert (turns.turn(0.0), turns.waiting, turns._costs, turns.left_s(1)) == (None, (), {}, 0.0)


jobs_with_slack = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 5), st.integers(0, 60)), min_size=1, max_size=6)


def plain_edf(jobs: list[tuple[float, int, float, float]]) -> dict[int, float]:
    """When each job ends if the earliest deadline always runs, in steps of half a second."""
    left = {app: seconds for _, app, seconds, _ in jobs}
    ended: dict[int, float] = {}
    now = 0.0
    while len(ended) < len(jobs):
        ready = [(deadline, app) for at, app, _, deadline in jobs if at <= now and app not in ended]
        now += STEP_S
        if ready:
            app = min(ready)[1]
            left[app] -= STEP_S
            if left[app] <= 0:
                ended[app] = now
    return ended


@given(jobs_with_slack)
def test_where_all_deadlines_can_be_met_all_are_met(drawn: list[tuple[int, int, int]]) -> None:
    """Against the optimum: whenever plain EDF, which is optimal on one processor, meets all of them, so do the turns.
    (All jobs together are shorter than the allowance here, so that shares do not matter.)"""
    jobs = [(float(at), app, float(cost), float(at + cost + slack)) for app, (at, cost, slack) in enumerate(drawn)]
    optimum = plain_edf(jobs)
    deadlines = {app: deadline for _, app, _, deadline in jobs}
    done = Processor(taught({app: cost for _, app, cost, _ in jobs}), jobs).run()
    if all(optimum[app] <= deadline for app, deadline in deadlines.items()):
        assert all(done.ended[app] <= deadlines[app] + 1e-9 for app in deadlines)
    assert set(done.ended) == set(deadlines)


@given(
    st.dictionaries(st.integers(1, 5), st.sampled_from([0.5, 1.0, 2.0, 4.0]), min_size=2, max_size=5),
    st.lists(st.integers(1_000_000, 2_000_000), min_size=5, max_size=5),
    st.integers(100, 2000),
)
def test_shares_hold_whatever_the_deadlines(weights: dict[int, float], deadlines: list[int], seconds: int) -> None:
    """Applications that always want the processor, and all could make it: nobody is further ahead than the allowance
    and a step, on the clock of their weights."""
    turns = Turns(weights.__getitem__)
    jobs = [(0.0, app, 1e5, float(deadlines[app - 1])) for app in weights]
    done = Processor(turns, jobs).run(until=float(seconds))
    had = [done.had.get(app, 0.0) / weight for app, weight in weights.items()]
    assert max(had) - min(had) <= ALLOWANCE_S + STEP_S / min(weights.values())
    assert sum(done.had.values()) == pytest.approx(done.now)  # never idle, nothing done twice


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 120), st.integers(1, 400)), min_size=1, max_size=8))
def test_every_job_ends_and_is_done_once_under_any_overload(drawn: list[tuple[int, int, int]]) -> None:
    jobs = [(float(at), app, float(cost), float(at + within)) for app, (at, cost, within) in enumerate(drawn)]
    done = Processor(Turns(), jobs).run()
    assert done.had == {app: cost for _, app, cost, _ in jobs}
    assert done.turns.waiting == ()


def test_taking_turns_does_not_thrash() -> None:
    """Two that share evenly change places once in half an allowance, not at every step."""
    done = Processor(Turns(), [(0, 1, 1e4, 1e6), (0, 2, 1e4, 2e6)]).run(until=1000.0)
    assert len(done.order) <= 2 + 1000.0 / (ALLOWANCE_S / 2)
