"""Whose turn it is on the uplink, at what rate, and what is measured: on a loop of our own, with a clock by hand."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.transport.uplink import BURST_S, SAMPLE_S, TURN_CHUNKS, Bucket, ServingRate, Uplink
from edgefl.wire.blob import CHUNK_BYTES


class Chunks:
    """A flow with so many chunks of one size, sent in so many copies. `room` closes it for a while."""

    def __init__(self, name: str, log: list[str], count: int, size: int = CHUNK_BYTES, copies: int = 1) -> None:
        self.deficit = 0
        self.name, self.log, self.count, self.size, self.copies = name, log, count, size, copies
        self.room = True

    @property
    def waiting(self) -> bool:
        return self.count > 0

    def send_next(self) -> tuple[int, int]:
        if not self.room:
            return 0, 0
        self.count -= 1
        self.log.append(self.name)
        return self.size, self.size * self.copies


def on_a_loop(test: Callable[[list[float]], None]) -> None:
    """Run `test` with a clock (a list of one number) while a loop runs, which timers need."""

    async def main() -> None:
        test([0.0])

    asyncio.run(main())


def send_all(uplink: Uplink, flows: list[Chunks]) -> None:
    for flow in flows:
        flow.room = False
        uplink.add(flow)
    for flow in flows:
        flow.room = True
    while any(flow.waiting for flow in flows):
        uplink.pump()


def test_applications_take_turns_however_much_each_has() -> None:
    def test(now: list[float]) -> None:
        log: list[str] = []
        send_all(Uplink(lambda: now[0], 0.02), [Chunks("a", log, 100), Chunks("b", log, 10), Chunks("c", log, 10)])
        assert Counter(log[:30]) == {"a": 10, "b": 10, "c": 10}
        assert log[30:] == ["a"] * 90

    on_a_loop(test)


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, CHUNK_BYTES)), min_size=2, max_size=6))
def test_shares_differ_by_two_chunks_at_the_most_while_all_wait(flows: list[tuple[int, int]]) -> None:
    """Deficit round robin's bound, in bytes, for chunks of any size."""

    def test(now: list[float]) -> None:
        log: list[str] = []
        made = [Chunks(str(at), log, count, size) for at, (count, size) in enumerate(flows)]
        left = [flow.count for flow in made]
        send_all(Uplink(lambda: now[0], 0.02), made)
        sent = [0] * len(made)
        for name in log:
            if all(left):
                assert max(sent) - min(sent) <= 2 * CHUNK_BYTES
            sent[int(name)] += made[int(name)].size
            left[int(name)] -= 1
        assert left == [0] * len(made)

    on_a_loop(test)


def test_who_has_no_room_loses_its_turn_and_nobody_waits_for_it() -> None:
    def test(now: list[float]) -> None:
        log: list[str] = []
        uplink = Uplink(lambda: now[0], 0.02)
        blocked, free = Chunks("blocked", log, 5), Chunks("free", log, 5)
        blocked.room = False
        uplink.add(blocked)
        uplink.add(free)
        assert log == ["free"] * 5
        blocked.room = True
        uplink.pump()
        assert log == ["free"] * 5 + ["blocked"] * 5, "and no more than its turns"

    on_a_loop(test)


def test_the_loop_gets_its_turn() -> None:
    def test(now: list[float]) -> None:
        log: list[str] = []
        Uplink(lambda: now[0], 0.02).add(Chunks("a", log, 100))
        assert len(log) == TURN_CHUNKS

    on_a_loop(test)


@pytest.mark.parametrize("copies", [1, 4])
def test_all_copies_of_all_chunks_keep_to_the_rate(copies: int) -> None:
    def test(now: list[float]) -> None:
        rate, log = 2_500_000.0, list[str]()
        uplink = Uplink(lambda: now[0], 0.02, rate)
        flows = [Chunks(name, log, 1000, copies=copies) for name in "ab"]
        for flow in flows:
            uplink.add(flow)
        for step in range(1, 10_001):
            now[0] = step * 0.001
            uplink.pump()
            sent = len(log) * CHUNK_BYTES * copies
            assert sent <= rate * (now[0] + BURST_S) + CHUNK_BYTES * copies
        assert sent >= rate * now[0], "and use it"
        assert abs(log.count("a") - log.count("b")) <= 2, "one was first, and has had its turn in this round"

    on_a_loop(test)


def test_without_a_rate_nothing_is_waited_for() -> None:
    bucket = Bucket(0.0, 0.0)
    bucket.take(10**12)
    assert bucket.wait_s(0.0) == 0.0


def test_the_serving_rate_counts_the_time_with_something_waiting() -> None:
    rate = ServingRate()
    assert rate.bytes_s is None
    rate.note(0, 0.0, receivers=2, waiting=True)
    rate.note(1000, SAMPLE_S, receivers=0, waiting=False)
    assert rate.bytes_s == pytest.approx(1000 / SAMPLE_S)
    rate.note(1000, 100.0, receivers=2, waiting=True)
    rate.note(1000 + int(1000 * SAMPLE_S), 100.0 + SAMPLE_S, receivers=2, waiting=True)
    assert 1000 < rate.bytes_s < 1000 / SAMPLE_S, "idle time does not count, and one sample does not decide"


class Line:
    """An uplink that delivers at given rates for a while, to so many peers at once."""

    def __init__(self) -> None:
        self.rate = ServingRate()
        self.now, self.sent = 0.0, 0

    def send(self, bytes_s: float, seconds: float, receivers: int, *, waiting: bool = True) -> float:
        """The serving rate afterwards."""
        self.rate.note(self.sent, self.now, receivers=receivers, waiting=waiting)
        for _ in range(round(seconds / SAMPLE_S)):
            self.now, self.sent = self.now + SAMPLE_S, self.sent + int(bytes_s * SAMPLE_S)
            self.rate.note(self.sent, self.now, receivers=receivers, waiting=waiting)
        self.rate.note(self.sent, self.now, receivers=0, waiting=False)
        self.now += 20.0
        assert self.rate.bytes_s is not None
        return self.rate.bytes_s


def test_a_line_that_is_fast_again_is_believed_within_seconds_of_sending() -> None:
    """Other work of the device made it slow for a minute; afterwards only its own update tells, a second in a round."""
    line = Line()
    assert line.send(100e6, 5.0, 3) == pytest.approx(100e6)
    assert line.send(20e6, 1.0, 3) > 85e6, "a short stall is no slow line"
    assert line.send(20e6, 60.0, 3) == pytest.approx(20e6, rel=0.01)
    line.send(100e6, 2.0, 1)
    assert line.send(100e6, 2.0, 1) > 75e6


def test_one_slow_peer_makes_no_slow_line() -> None:
    line = Line()
    line.send(200e6, 5.0, 3)
    assert line.send(40e6, 10.0, 1) > 160e6
    assert line.send(40e6, 10.0, 2) < 100e6, "if several get little, it is the line"
    assert line.send(40e6, 200.0, 1) < 50e6, "in the end it is believed"


def test_who_passes_on_what_comes_slowly_has_no_slow_line() -> None:
    line = Line()
    line.send(10e6, 5.0, 3)
    assert line.send(2e6, 10.0, 3, waiting=False) > 8e6
    assert line.send(2e6, 10.0, 3) < 4e6, "more was waiting, and went no faster"
