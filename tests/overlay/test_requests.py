"""Open questions end once: answered by the right peer, or timed out; a slow device doubts itself first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from support.overlay_contacts import contact
from support.solo import Solo

from edgefl.overlay.device import Device
from edgefl.overlay.profile import WAN
from edgefl.overlay.requests import MAX_OPEN, REPRIEVE_S, TIMER, Requests


class Waiting:
    """Requests under a test's clock."""

    def __init__(self) -> None:
        self.solo = Solo()
        self.requests = Requests(Device(contact(1), self.solo, WAN))
        self.solo.handlers = [self]
        self.ended: list[tuple[object, float]] = []

    def on_message(self, *_: object) -> bool:
        return False

    def on_timer(self, key: object, now: float) -> bool:
        assert key == TIMER
        self.requests.on_timer(now)
        return True

    def ask(self, name: object, timeout_s: float, peer: int = 7) -> bool:
        return self.requests.open(name, peer, self.solo.now, timeout_s, lambda now: self.ended.append((name, now)))


def test_a_question_times_out_once() -> None:
    world = Waiting()
    world.ask("a", 1.0)
    world.ask("b", 0.5)
    world.solo.advance(5)
    assert world.ended == [("b", 0.5), ("a", 1.0)]
    assert len(world.requests) == 0


def test_only_the_peer_that_was_asked_can_answer() -> None:
    world = Waiting()
    world.ask("a", 1.0, peer=7)
    assert world.requests.close("a", 8) is None
    assert world.requests.close("b", 7) is None
    world.solo.advance(0.25)
    assert world.requests.close("a", 7) == 0.0
    assert world.requests.close("a", 7) is None
    world.solo.advance(5)
    assert world.ended == []


def test_asking_again_under_the_same_name_starts_the_wait_again() -> None:
    world = Waiting()
    world.ask("a", 1.0)
    world.solo.advance(0.5)
    world.ask("a", 1.0)
    world.solo.advance(5)
    assert world.ended == [("a", 1.5)]


def test_cancelled_questions_end_silently() -> None:
    world = Waiting()
    world.ask("a", 1.0)
    world.ask("b", 1.0)
    world.requests.cancel("a")
    world.requests.cancel("nothing")
    world.requests.clear()
    world.solo.advance(5)
    assert world.ended == []


def test_what_waits_is_bounded() -> None:
    world = Waiting()
    assert all(world.ask(n, 1.0) for n in range(MAX_OPEN))
    assert not world.ask("more", 1.0)
    assert world.ask(5, 1.0)  # one that is open already
    for n in range(MAX_OPEN):
        world.requests.close(n, 7)
    for n in range(3 * MAX_OPEN):
        world.ask(n, 1.0)
        world.requests.close(n, 7)
    assert len(world.requests._deadlines) <= 2 * MAX_OPEN + 1


def test_a_late_device_gives_others_one_more_chance_and_more_time() -> None:
    world = Waiting()
    world.solo.late_s = 0.8
    world.ask("a", 1.0)
    world.solo.advance(1.7)
    assert world.ended == []  # 0.8 s late: the answer may wait in our own queue
    assert world.requests.stretch_s(world.solo.now) > 0.5
    world.solo.advance(2)
    assert [name for name, _ in world.ended] == ["a"]  # but only once
    world.solo.late_s = 0
    world.solo.advance(20)
    assert world.requests.stretch_s(world.solo.now) == 0


def test_after_a_long_sleep_the_reprieve_is_bounded() -> None:
    world = Waiting()
    world.ask("a", 1.0)
    world.solo.late_s = 500
    world.solo.advance(2)
    assert world.requests.stretch_s(world.solo.now) == REPRIEVE_S


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0.01, 3), st.booleans()), max_size=60))
def test_every_question_ends_exactly_once(steps: list[tuple[int, float, bool]]) -> None:
    world = Waiting()
    opened: dict[int, float] = {}
    expected = []
    for name, seconds, answered in steps:
        if answered and name in opened and opened[name] > world.solo.now:
            assert world.requests.close(name, 7) is not None
            del opened[name]
        else:
            if name in opened and opened[name] <= world.solo.now:
                expected.append(name)
            world.ask(name, seconds)
            opened[name] = world.solo.now + seconds
        world.solo.advance(0.1)
    world.solo.advance(10)
    expected += list(opened)
    assert sorted(name for name, _ in world.ended) == sorted(expected)


def test_numbers_start_anywhere_and_wrap() -> None:
    world = Waiting()
    world.requests._number = 2**32 - 2
    assert [world.requests.number() for _ in range(3)] == [2**32 - 1, 0, 1]
    other = Requests(Device(contact(1), Solo(seed=2), WAN))
    assert Requests(Device(contact(1), Solo(seed=1), WAN)).number() != other.number()
