"""Can others reach this device? Answers in, role out; nobody alone decides, and asking costs little."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.daemon.reachability import (
    ASKED,
    CHECK_S,
    FIRST_S,
    MAX_HISTORY,
    RECHECK_MAX_S,
    RECHECK_S,
    RETRY_S,
    Announced,
    Answer,
    Reachability,
    weigh,
)
from edgefl.transport import DialBack
from edgefl.wire import Role

HERE, OUTSIDE, ELSEWHERE = "192.168.1.5", "203.0.113.7", "198.51.100.1"
FOUND = Announced(HERE, fixed=False, agreed=None)
CHOSEN = Announced(OUTSIDE, fixed=True, agreed=None)
FAILURES = [DialBack.SILENT, DialBack.REFUSED, DialBack.OTHER]


def answer(outcome: DialBack, seen: str = HERE, peer: int = 1) -> Answer:
    return Answer(peer, seen, 7321, outcome, 0.0)


def yes(peer: int = 1) -> Answer:
    return answer(DialBack.REACHED, peer=peer)


def no(peer: int) -> Answer:
    return answer(DialBack.SILENT, peer=peer)


def machine() -> Reachability:
    return Reachability(lambda: 0.5, 0.0)


@pytest.mark.parametrize("failure", FAILURES)
def test_what_an_answer_is_worth(failure: DialBack) -> None:
    assert weigh(answer(DialBack.REACHED), FOUND) is True
    assert weigh(answer(DialBack.REACHED, ELSEWHERE), FOUND) is None, "others will not dial that address"
    assert weigh(answer(DialBack.REACHED, OUTSIDE), Announced(HERE, fixed=False, agreed=OUTSIDE)) is True
    assert weigh(answer(failure), FOUND) is False
    assert weigh(answer(failure, OUTSIDE), FOUND) is False, "from out there we cannot be dialled"
    assert weigh(answer(DialBack.NOT_TRIED), FOUND) is None
    assert weigh(answer(DialBack.REACHED, ELSEWHERE), CHOSEN) is True
    assert weigh(answer(failure, OUTSIDE), CHOSEN) is False
    assert weigh(answer(failure, ELSEWHERE), CHOSEN) is None, "what the operator chose was not tried"


def test_two_are_asked_soon_after_the_start_and_one_now_and_then_when_they_reach_us() -> None:
    found = machine()
    assert (found.wanted(0.0), found.wanted(FIRST_S)) == (0, ASKED)
    found.on_answers([yes(1), no(2)], FOUND, 5, 1.0)
    assert (found.role, found.known, found.proven) == (Role.NODE, True, HERE)
    assert found.wanted(1.0 + 0.7 * CHECK_S) == 0
    assert found.wanted(1.0 + CHECK_S) == 1


def test_nobody_of_two_reaches_us() -> None:
    found = machine()
    found.on_answers([no(1), no(2)], FOUND, 5, 1.0)
    assert found.role is Role.LEAF
    assert (found.wanted(1.0 + RECHECK_S - 1), found.wanted(1.0 + RECHECK_S)) == (0, ASKED)


def test_one_no_alone_makes_nobody_a_leaf_where_others_can_be_asked() -> None:
    found = machine()
    found.on_answers([no(1)], FOUND, 5, 1.0)
    found.on_answers([no(1)], FOUND, 5, 1.0)
    assert (found.role, found.known) == (Role.NODE, False)
    assert found.asked_already(1)
    assert found.wanted(1.0) == ASKED, "others are asked at once"
    found.on_answers([no(2)], FOUND, 5, 2.0)
    assert found.role is Role.LEAF
    assert not found.asked_already(1)


def test_the_only_other_device_is_believed_and_a_second_one_asked_as_soon_as_there_is_one() -> None:
    found = machine()
    found.on_answers([no(1)], FOUND, 1, 1.0)
    assert found.role is Role.LEAF
    assert found.wanted(1.0 + RETRY_S) == ASKED


def test_the_routine_check_that_fails_is_repeated_with_others() -> None:
    found = machine()
    found.on_answers([yes()], FOUND, 9, 0.0)
    found.on_answers([no(2)], FOUND, 9, CHECK_S)
    assert (found.role, found.wanted(CHECK_S)) == (Role.NODE, ASKED)
    found.on_answers([yes(3), no(4)], FOUND, 9, CHECK_S + 1)
    assert (found.role, found.wanted(CHECK_S + 2)) == (Role.NODE, 0)


def test_a_leaf_asks_less_and_less_often_until_somebody_reaches_it() -> None:
    found, now, waits = machine(), 0.0, []
    for _ in range(12):
        found.on_answers([no(1), no(2)], FOUND, 9, now)
        waits.append(found.due_at - now)
        now = found.due_at
    assert waits[:3] == [RECHECK_S, 2 * RECHECK_S, 4 * RECHECK_S]
    assert waits[-1] == RECHECK_MAX_S
    found.on_answers([no(1), yes(2)], FOUND, 9, now)
    assert found.role is Role.NODE
    found.on_answers([no(1), no(2)], FOUND, 9, now)
    assert found.due_at == now + RECHECK_S, "the next time begins from the beginning"


def test_nobody_to_ask_and_no_answer_are_tried_again_and_change_nothing() -> None:
    found = machine()
    for answers in ([], [answer(DialBack.NOT_TRIED)], [answer(DialBack.REACHED, ELSEWHERE)]):
        found.on_answers(answers, FOUND, 0, 10.0)
        assert (found.role, found.known, found.due_at) == (Role.NODE, False, 10.0 + RETRY_S)


def test_after_a_move_everything_is_asked_again() -> None:
    found = machine()
    found.on_answers([no(1), no(2)], FOUND, 9, 0.0)
    found.on_moved(5.0)
    assert (found.role, found.proven, found.wanted(5.0 + FIRST_S)) == (Role.LEAF, None, ASKED)
    found.on_answers([yes()], FOUND, 9, 7.0)
    assert found.role is Role.NODE


@given(st.lists(st.tuples(st.sampled_from(list(DialBack)), st.sampled_from([HERE, OUTSIDE, ELSEWHERE])), max_size=60))
def test_one_peer_alone_never_makes_us_a_leaf(said: list[tuple[DialBack, str]]) -> None:
    found, now = machine(), 0.0
    for outcome, seen in said:
        found.on_answers([answer(outcome, seen, peer=1)], FOUND, 2, now)
        now += 1
        assert found.role is Role.NODE
        assert len(found.history) <= MAX_HISTORY
        assert found.due_at >= now - 1
