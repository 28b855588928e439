"""Healthy is: active, with a peer, for a while. Anything else is ill in the end."""

from __future__ import annotations

import pytest

from edgefl.update.gate import ALONE_SETTLE_S, HEALTH_S, MAX_STARTS, SETTLE_S, Gate, Seen, Verdict

GOOD = Seen(running=True, active=True, starts=0, peers=2)
LONELY = Seen(running=True, active=False, starts=0, peers=0)
DEAD = Seen(running=False, active=False, starts=0, peers=0)


def verdicts(gate: Gate, looks: list[tuple[float, Seen]]) -> list[Verdict]:
    return [gate.on_look(seen, now) for now, seen in looks]


def test_a_good_service_is_healthy_when_it_has_lasted() -> None:
    looks = [(0.0, DEAD), (40.0, GOOD), (40 + SETTLE_S - 1, GOOD), (40 + SETTLE_S, GOOD)]
    assert verdicts(Gate(0.0), looks) == [Verdict.WAIT] * 3 + [Verdict.HEALTHY]


def test_a_break_begins_the_wait_anew() -> None:
    looks = [(0.0, GOOD), (20.0, DEAD), (25.0, GOOD), (25 + SETTLE_S - 1, GOOD), (25 + SETTLE_S, GOOD)]
    assert verdicts(Gate(0.0), looks) == [Verdict.WAIT] * 4 + [Verdict.HEALTHY]


def test_a_start_unseen_between_two_looks_is_a_break_too() -> None:
    again = Seen(running=True, active=True, starts=1, peers=2)
    looks = [(0.0, GOOD), (SETTLE_S, again), (2 * SETTLE_S - 1, again), (2 * SETTLE_S, again)]
    assert verdicts(Gate(0.0), looks) == [Verdict.WAIT] * 3 + [Verdict.HEALTHY]


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (DEAD, "the service did not start"),
        (LONELY, "the service did not find its fleet"),
        (Seen(running=True, active=True, starts=0, peers=0), "the device found no peer"),
    ],
)
def test_what_is_missing_at_the_end_is_named(seen: Seen, why: str) -> None:
    gate = Gate(0.0)
    assert verdicts(gate, [(HEALTH_S - 1, seen), (HEALTH_S, seen)]) == [Verdict.WAIT, Verdict.ILL]
    assert gate.why == why


def test_a_service_that_keeps_dying_is_ill_at_once() -> None:
    gate = Gate(0.0)
    assert gate.on_look(Seen(running=False, active=False, starts=MAX_STARTS, peers=0), 60.0) is Verdict.ILL
    assert gate.why == f"the service ended {MAX_STARTS} times"


def test_a_device_that_may_be_alone_has_to_last_longer() -> None:
    gate = Gate(0.0, alone=True)
    looks = [(0.0, LONELY), (SETTLE_S, LONELY), (ALONE_SETTLE_S - 1, LONELY), (ALONE_SETTLE_S, LONELY)]
    assert verdicts(gate, looks) == [Verdict.WAIT] * 3 + [Verdict.HEALTHY]
    assert verdicts(Gate(0.0, alone=True), [(0.0, DEAD), (HEALTH_S, DEAD)]) == [Verdict.WAIT, Verdict.ILL]
