"""Learning-rate schedules: the values by hand, the laws by many of them."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.errors import ConfigError
from edgefl.trainer.running.schedule import MAX_STEPS, Constant, Cosine, Schedule, Step, parse_schedule


@pytest.mark.parametrize(
    ("text", "factors"),
    [
        ("constant", {0: 1, 1: 1, 10**12: 1}),
        ("step:30", {0: 1, 29: 1, 30: 0.1, 59: 0.1, 60: 0.01}),
        ("step:2:0.5", {0: 1, 1: 1, 2: 0.5, 3: 0.5, 4: 0.25, 10**6: 0}),
        ("step:1:0", {0: 1, 1: 0, 2: 0}),
        ("cosine:100", {0: 1, 50: 0.5, 25: (1 + math.sqrt(0.5)) / 2, 100: 0, 101: 0, 10**12: 0}),
        ("cosine:4:0.2", {0: 1, 2: 0.6, 4: 0.2, 5: 0.2}),
        ("warmup:3", {0: 0.25, 1: 0.5, 2: 0.75, 3: 1, 4: 1}),
        ("warmup:1+constant", {0: 0.5, 1: 1}),
        ("warmup:5+cosine:100", {0: 1 / 6, 4: 5 / 6, 5: 1, 55: 0.5, 105: 0}),
        ("warmup:3+step:2:0.5", {2: 0.75, 3: 1, 4: 1, 5: 0.5, 7: 0.25}),
    ],
)
def test_the_factors_of_a_schedule(text: str, factors: dict[int, float]) -> None:
    schedule = parse_schedule(text)
    assert {step: schedule.factor(step) for step in factors} == pytest.approx(factors)


@pytest.mark.parametrize(
    "text",
    [
        *("", "linear", "Constant", " constant", "constant:1", "constant+warmup:5", "cosine", "cosine:", "cosine:0"),
        *("cosine:-1", "cosine:1.5", "cosine:1e3", "cosine:10:0.1:2", "cosine:10:1.1", "cosine:10:-0.1", "cosine:10:x"),
        *("cosine:10:nan", "cosine:10:inf", "cosine:10:", "cosine:٣", "cosine:²", "step", "step:0:0.1", "step:5:2"),
        *("warmup", "warmup:", "warmup:0.5", "warmup:5:1", "warmup:5+", "warmup:5+warmup:5", "warmup:5+step:1+step:1"),
        *("warmup:5 + constant", "step:1+step:2", f"cosine:{MAX_STEPS + 1}", f"step:{'9' * 5000}", "step:5\n"),
    ],
)
def test_what_is_no_schedule_is_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_schedule(text)
    assert caught.value.hint
    assert len(caught.value.cause) < 150


@pytest.mark.parametrize(
    "make",
    [
        lambda: Step(0),
        lambda: Step(1, 1.5),
        lambda: Cosine(0),
        lambda: Cosine(1, math.nan),
        lambda: Cosine(1, -1.0),
        lambda: Schedule(warmup=-1),
        lambda: Schedule(warmup=MAX_STEPS + 1),
    ],
)
def test_a_schedule_object_is_valid(make: object) -> None:
    with pytest.raises(ConfigError):
        make()  # type: ignore[operator]


steps = st.integers(1, MAX_STEPS)
shares = st.floats(0, 1)
courses = st.one_of(st.just(Constant()), st.builds(Step, steps, shares), st.builds(Cosine, steps, shares))
schedules = st.builds(Schedule, courses, st.integers(0, 1000))


@given(schedules, st.integers(0, 10**12))
def test_factors_lie_between_0_and_1(schedule: Schedule, step: int) -> None:
    assert 0 <= schedule.factor(step) <= 1


@given(schedules)
def test_a_schedule_rises_while_it_warms_up_and_is_then_the_whole_learning_rate(schedule: Schedule) -> None:
    rise = [schedule.factor(step) for step in range(schedule.warmup + 1)]
    assert rise == sorted(set(rise))
    assert rise[0] > 0
    assert rise[-1] == 1


@given(schedules, st.lists(st.integers(0, 10**12), max_size=20))
def test_a_schedule_never_rises_afterwards(schedule: Schedule, later: list[int]) -> None:
    fall = [schedule.factor(schedule.warmup + step) for step in sorted(later)]
    assert all(b <= a + 1e-15 for a, b in pairwise(fall))


@given(courses, st.integers(1, 1000), st.integers(0, 10**12))
def test_warming_up_delays_the_course(course: Step, warmup: int, step: int) -> None:
    assert Schedule(course, warmup).factor(warmup + step) == Schedule(course).factor(step)


@given(schedules)
def test_a_schedule_is_written_as_it_is_read(schedule: Schedule) -> None:
    assert parse_schedule(str(schedule)) == schedule


@given(st.text(alphabet="warmupcosinestepconstant:+.0123456789e- ", max_size=40))
def test_any_text_is_a_schedule_or_a_named_error(text: str) -> None:
    try:
        schedule = parse_schedule(text)
    except ConfigError:
        return
    assert parse_schedule(str(schedule)) == schedule
