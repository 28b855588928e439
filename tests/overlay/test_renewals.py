"""When the tracker is asked again: by position, less and less often while nothing comes of it, at once with news."""

from __future__ import annotations

import pytest
from support.overlay_contacts import contact
from support.solo import Solo

from edgefl.overlay.device import Device
from edgefl.overlay.profile import WAN
from edgefl.overlay.renewals import Renewals
from edgefl.overlay.tree_view import Position


class Timed:
    """Renewals whose timer is read at once."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.renewals = Renewals(Device(contact(1), Solo(), WAN), self.at.append)

    def wait(self) -> float:
        return self.at.pop()

    def series(self, count: int) -> list[float]:
        waits = []
        for _ in range(count):
            self.renewals.asked(Position.SEEKING, content=False, now=0)
            waits.append(self.wait())
        return waits


def around(seconds: float) -> object:
    return pytest.approx(seconds, rel=0.1001)


def test_who_seeks_waits_longer_each_time_and_starts_anew_with_a_change() -> None:
    timed = Timed()
    assert timed.series(8) == [around(s) for s in (2, 2, 4, 8, 16, 30, 30, 30)]
    timed.renewals.on_attempt_failed(Position.SEEKING, now=0)
    assert timed.wait() == around(15)
    timed.renewals.on_parent_lost()
    assert timed.series(3) == [around(s) for s in (2, 2, 4)]
    timed.renewals.on_attached(failed=False, now=0)
    assert timed.wait() == around(120)
    assert timed.series(3) == [around(s) for s in (2, 2, 4)]
    timed.renewals.on_root(now=0)
    assert timed.wait() == around(30)
    assert timed.series(1) == [around(2)]


def test_a_place_is_renewed_by_its_kind() -> None:
    timed = Timed()
    for position, kept, wait_s in (
        (Position.ROOT, True, 30),
        (Position.ATTACHED, True, 120),
        (Position.ATTACHED, False, 1800),
    ):
        timed.renewals.kept = kept
        timed.renewals.asked(position, content=True, now=5)
        assert timed.wait() - 5 == around(wait_s)


def test_news_do_not_wait() -> None:
    timed = Timed()
    timed.renewals.on_attached(failed=True, now=0)
    timed.renewals.soon(now=0)
    timed.renewals.on_attempt_failed(Position.ROOT, now=0)
    assert timed.at == [around(1)] * 3


def test_spares_are_asked_for_no_more_often_than_a_place_at_last() -> None:
    renewals = Timed().renewals
    assert renewals.may_ask_for_spares(now=0)
    renewals.asked(Position.ATTACHED, content=False, now=0)
    renewals.asked(Position.ATTACHED, content=True, now=20)
    assert not renewals.may_ask_for_spares(now=30)
    assert renewals.may_ask_for_spares(now=31)


def test_a_helper_is_idle_when_it_has_been_seen_without_children_for_long() -> None:
    renewals = Timed().renewals
    assert not renewals.is_idle(0, now=100)
    assert not renewals.is_idle(1, now=200)
    assert not renewals.is_idle(0, now=300)
    assert not renewals.is_idle(0, now=479)
    assert renewals.is_idle(0, now=480)
