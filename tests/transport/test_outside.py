"""Our own address as others see it: agreement decides, and little is remembered."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgefl.transport.outside import MAX_WITNESSES, OutsideAddress

HERE, THERE = "203.0.113.7", "198.51.100.1"


def told(*words: tuple[int, str]) -> OutsideAddress:
    outside = OutsideAddress()
    for witness, seen in words:
        outside.note(witness, seen)
    return outside


def test_one_witness_is_none() -> None:
    assert told((1, HERE)).agreed is None
    assert told((1, HERE), (1, HERE)).agreed is None, "repeating oneself makes no second witness"
    assert told((1, HERE), (2, THERE)).agreed is None


def test_two_witnesses_that_agree_are_believed() -> None:
    assert told((1, HERE), (2, HERE)).agreed == HERE
    assert told((1, "fd00::7"), (2, HERE), (3, "fd00::7")).agreed == "fd00::7"


def test_a_peer_on_this_machine_or_one_that_knows_nothing_is_no_witness() -> None:
    assert len(told((1, "127.0.0.1"), (2, "::1"), (3, "0.0.0.0"), (4, "224.0.0.251"))) == 0


def test_a_move_that_only_others_see_is_believed_when_more_see_it() -> None:
    words = [(witness, HERE) for witness in range(5)]
    assert told(*words, (0, THERE), (1, THERE)).agreed == HERE
    assert told(*words, (0, THERE), (1, THERE), (2, THERE)).agreed == THERE


def test_clocks_of_the_last_few_are_remembered() -> None:
    outside = OutsideAddress()
    for witness in range(9):
        outside.note_clock(witness, float(witness))
    outside.note_clock(8, 0.5)
    assert outside.clocks_ahead_s == (4.0, 5.0, 6.0, 7.0, 0.5)


def test_after_a_move_that_we_know_of_nothing_is_believed_of_before() -> None:
    outside = told((1, HERE), (2, HERE))
    outside.clear()
    assert outside.agreed is None
    outside.note(3, HERE)
    assert outside.agreed is None


@given(
    st.lists(st.tuples(st.integers(1, 40), st.just(HERE)), min_size=2, max_size=40),
    st.lists(st.integers(0, 79), max_size=40),
    st.randoms(),
)
def test_one_liar_moves_nobody(honest: list[tuple[int, str]], lies: list[int], random: object) -> None:
    """Whatever one peer says, as often as it likes: the address is that of the honest ones, or unknown yet."""
    words = [*honest, *[(0, f"198.51.100.{lie}") for lie in lies]]
    random.shuffle(words)  # type: ignore[attr-defined]
    outside = OutsideAddress()
    for witness, seen in words:
        outside.note(witness, seen)
        assert outside.agreed in (None, HERE)
        assert len(outside) <= MAX_WITNESSES
