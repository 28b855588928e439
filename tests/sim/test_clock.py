"""Virtual time jumps from call to call."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgefl.sim.clock import Clock


@given(st.lists(st.floats(0, 100), max_size=40))
def test_calls_are_made_in_order_and_equal_times_in_the_order_of_scheduling(times: list[float]) -> None:
    clock = Clock()
    made: list[tuple[float, int]] = []
    for index, at in enumerate(times):
        clock.at(at, lambda at, index: made.append((clock.now, index)), at, index)
    clock.run(100)
    assert made == sorted(made)
    assert [at for at, _ in made] == sorted(times)
    assert (clock.now, clock.events) == (100, len(times))


def test_time_stops_where_it_is_told_to_and_what_is_late_happens_now() -> None:
    clock = Clock()
    made = []
    clock.at(5, made.append, "later")
    clock.run(3)
    assert (clock.now, made) == (3, [])
    clock.at(1, made.append, "late")
    clock.run(3)
    assert (clock.now, made) == (3, ["late"])
    clock.run(9)
    assert made == ["late", "later"]
