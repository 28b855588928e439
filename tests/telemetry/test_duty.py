"""A share of the processor on average."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from edgefl.telemetry.duty import BURST_S, Duty


@given(st.floats(0.05, 4.0), st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(1.0, 4.0)), min_size=1, max_size=40))
def test_never_more_than_the_share_and_a_burst(rate: float, steps: list[tuple[float, float]]) -> None:
    """Steps of any length on any number of cores, with rests as told: whenever one begins, what was taken is within the
    rate and the burst; and a step that takes no more than the rate needs no rest."""
    now = taken = 0.0
    duty = Duty(rate, now)
    for seconds, cores in steps:
        now += duty.rest_s(now)
        assert taken <= rate * (now + BURST_S) + 1e-6
        now += seconds
        duty.charge(seconds * cores, now)
        taken += seconds * cores
        if cores <= rate:
            assert duty.rest_s(now) <= 1e-9


def test_half_of_one_core_rests_as_long_as_it_works() -> None:
    duty, now, worked = Duty(0.5, 0.0), 0.0, 0.0
    while now < 1000.0:
        now += duty.rest_s(now) + 0.3
        duty.charge(0.3, now)
        worked += 0.3
    assert abs(worked / now - 0.5) < 0.01


def test_idleness_saves_up_a_burst_and_no_more() -> None:
    duty = Duty(0.5, 0.0)
    duty.charge(0.0, 3600.0)
    duty.charge(0.5 * BURST_S, 3600.0)
    assert duty.rest_s(3600.0) == 0.0
    duty.charge(0.5, 3600.0)
    assert duty.rest_s(3600.0) == 1.0
    assert abs(duty.rest_s(3600.4) - 0.6) < 1e-9


def test_without_a_limit_there_is_no_rest() -> None:
    duty = Duty(math.inf, 0.0)
    duty.charge(1e9, 1.0)
    assert duty.rest_s(1.0) == 0.0
