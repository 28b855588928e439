"""Links that come and go."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.sim.train.learner import Learner
from edgefl.sim.train.links import Links
from edgefl.sim.train.traces import Trace
from edgefl.sim.train.world import FETCH_TIMEOUT_S, Recipe, World
from edgefl.wire.sampled import ViewGet


@pytest.mark.parametrize("down", [0.1, 0.3, 0.8])
@pytest.mark.parametrize("now", [0.0, 4.0, 12345.6])
def test_the_wanted_share_is_down_at_any_time(down: float, now: float) -> None:
    links = Links(down, seed=1)
    states = [links.is_up(a, b, now) for a, b in combinations(range(100), 2)]
    assert abs(1 - np.mean(states) - down) < 0.03


def test_one_link_is_down_for_the_wanted_share_of_the_time_in_stretches() -> None:
    links = Links(0.3, seed=1, hold_s=10.0)
    states = [links.is_up(3, 9, second + 0.5) for second in range(50_000)]
    assert abs(1 - np.mean(states) - 0.3) < 0.03
    falls = sum(before and not after for before, after in pairwise(states))
    assert abs(states.count(False) / falls - 10 / 0.7) < 1.5  # the mean length of a drop, in seconds


@given(st.integers(0, 50), st.integers(0, 50), st.floats(0, 1e4), st.floats(0, 50))
def test_both_directions_share_a_link_and_it_stays_up_when_it_is_up_throughout(
    a: int, b: int, begin: float, length: float
) -> None:
    links = Links(0.2, seed=7)
    assert links.is_up(a, b, begin) == links.is_up(b, a, begin)
    looks = [links.is_up(a, b, begin + length * part / 400) for part in range(401)]
    if links.stays_up(a, b, begin, begin + length):
        assert all(looks)
    else:
        assert not all(looks)


class Listener:
    """Notes when it heard what."""

    def __init__(self) -> None:
        self.heard: list[tuple[float, Any]] = []

    def on_message(self, sender: Any, message: Any, now: float) -> None:
        self.heard.append((now, message))

    def on_fetched(self, token: Any, blob: Any, data: Any, now: float) -> None:
        self.heard.append((now, data))

    def on_timer(self, name: str, now: float) -> None: ...
    def on_kept(self, token: Any, blob: Any, now: float) -> None: ...
    def on_trained(self, tag: Any, result: Any, now: float) -> None: ...


def pair(links_down: float) -> tuple[World, Listener, Callable[[float, bool], None]]:
    """Two devices 0.2 s apart with 1 MB/s, the second one listens; and how to let time pass to a state of the link."""
    world = World([Trace(1.0, 1e6, 1e6, 0.1)] * 2, Learner(4, 2), Recipe(), 1, links_down=links_down)
    world.devices[1].machine = listener = Listener()

    def until(seconds: float, up: bool) -> None:
        """To a moment from which the link keeps this state for so long."""
        now = world.clock.now
        while any(world.links.is_up(0, 1, now + seconds * part / 100) is not up for part in range(101)):
            now += 0.1
        world.clock.run(now)

    return world, listener, until


def test_a_message_over_a_link_that_is_down_is_lost() -> None:
    world, listener, until = pair(0.5)
    message = ViewGet(1, 0)
    until(1.0, False)
    world.devices[0].send(world.devices[1].contact, message)
    world.clock.run(world.clock.now + 5)
    assert listener.heard == []
    until(1.0, True)
    world.devices[0].send(world.devices[1].contact, message)
    sent = world.clock.now
    world.clock.run(sent + 5)
    assert listener.heard == [(pytest.approx(sent + 0.2), message)]


def test_a_fetch_fails_when_the_link_is_down_or_goes_down_on_the_way() -> None:
    world, listener, until = pair(0.5)
    sender, receiver = world.devices
    blob = sender.hold(bytes(3_000_000))  # 3 s
    until(1.0, False)
    began = world.clock.now
    receiver.fetch(1, ("a",), blob, (sender.contact,))
    world.clock.run(began + 30)
    assert listener.heard.pop() == (pytest.approx(began + FETCH_TIMEOUT_S), None)
    assert world.bytes == 0
    until(0.5, True)
    while world.links.stays_up(0, 1, world.clock.now, world.clock.now + 2) or not world.links.is_up(
        0, 1, world.clock.now
    ):
        world.clock.run(world.clock.now + 0.1)
    began = world.clock.now
    receiver.fetch(1, ("b",), blob, (sender.contact,))
    world.clock.run(began + 30)
    assert listener.heard.pop() == (pytest.approx(began + 3.4 + FETCH_TIMEOUT_S), None)
    assert world.bytes == blob.size  # what was sent was sent
    until(4.0, True)
    began = world.clock.now
    receiver.fetch(1, ("c",), blob, (sender.contact,))
    world.clock.run(began + 30)
    assert listener.heard.pop() == (pytest.approx(began + 3.4), bytes(3_000_000))


def test_another_source_serves_when_the_first_is_cut_off() -> None:
    world = World([Trace(1.0, 1e6, 1e6, 0.1)] * 3, Learner(4, 2), Recipe(), 1, links_down=0.5)
    world.devices[2].machine = listener = Listener()
    first, second, receiver = world.devices
    blob = first.hold(bytes(100))
    second.hold(bytes(100))
    while world.links.is_up(0, 2, world.clock.now) or not world.links.stays_up(
        1, 2, world.clock.now, world.clock.now + 1
    ):
        world.clock.run(world.clock.now + 0.1)
    receiver.fetch(1, ("a",), blob, (first.contact, second.contact))
    world.clock.run(world.clock.now + 1)
    assert [data for _, data in listener.heard] == [bytes(100)]
