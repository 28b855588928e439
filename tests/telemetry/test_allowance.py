"""Bytes of a day or a month, across restarts and crashes, with few writes."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.limits import Quota
from edgefl.telemetry.allowance import Allowance

TODAY = date(2026, 11, 26)
BUDGET = 10_000


class Device:
    """A device with a disk: restarts and crashes keep what was written."""

    def __init__(self, period: str = "month") -> None:
        self.quota = Quota(BUDGET, period)
        self.disk: bytes | None = None
        self.writes = 0
        self.start()

    def start(self) -> None:
        self.allowance = Allowance(self.quota, self.disk)
        self.total = 0

    def transfer(self, size: int, today: date = TODAY) -> None:
        self.total += size
        if self.allowance.count(self.total, today):
            self.disk = self.allowance.record()
            self.writes += 1

    def stop(self) -> None:
        self.disk = self.allowance.record(exact=True)


def test_counts_to_its_end_and_begins_anew_in_the_next_month() -> None:
    device = Device()
    device.transfer(BUDGET - 1)
    assert not device.allowance.spent
    device.transfer(1)
    assert device.allowance.spent
    device.transfer(5, date(2026, 11, 30))
    assert (device.allowance.spent, device.allowance.used_bytes) == (True, BUDGET + 5)
    device.transfer(7, date(2026, 12, 1))
    assert (device.allowance.spent, device.allowance.used_bytes) == (False, 7)


def test_a_day_is_a_day() -> None:
    device = Device("day")
    device.transfer(BUDGET)
    device.transfer(0, TODAY + timedelta(days=1))
    assert device.allowance.used_bytes == 0


def test_a_stop_in_good_order_loses_and_adds_nothing() -> None:
    device = Device()
    device.transfer(1234)
    device.stop()
    device.start()
    device.transfer(1)
    assert device.allowance.used_bytes == 1235


@given(st.lists(st.one_of(st.integers(0, 600), st.just("crash"), st.just("stop")), max_size=60))
def test_crashes_give_nothing_away_and_cost_a_hundredth_each(events: list[int | str]) -> None:
    device, truly, crashes = Device(), 0, 0
    for event in events:
        if isinstance(event, int):
            device.transfer(event)
            truly += event
            continue
        if event == "stop":
            device.stop()
        else:
            crashes += 1
        device.start()
    device.transfer(0)
    assert truly <= device.allowance.used_bytes <= truly + crashes * BUDGET // 100


def test_a_budget_is_written_a_hundred_times_however_it_trickles() -> None:
    device = Device()
    for _ in range(BUDGET):
        device.transfer(1)
    assert device.writes <= 101


@pytest.mark.parametrize("period", ["day", "month"])
def test_a_clock_that_was_not_set_begins_no_new_period(period: str) -> None:
    device = Device(period)
    device.transfer(500)
    device.stop()
    device.start()
    device.transfer(5, date(1970, 1, 1))
    device.transfer(5, TODAY)
    assert device.allowance.used_bytes == 510


def test_a_clock_that_was_wrong_takes_the_count_along() -> None:
    """It was in 2031 for a moment: no new budget when it comes back, and a new one in the next month."""
    device = Device()
    device.transfer(500)
    device.transfer(0, date(2031, 1, 1))
    device.transfer(100, date(2031, 1, 2))
    device.transfer(0, TODAY)
    assert device.allowance.used_bytes == 100
    device.transfer(0, date(2026, 12, 1))
    assert device.allowance.used_bytes == 0


def test_another_period_in_the_settings_keeps_what_was_used() -> None:
    device = Device("month")
    device.transfer(300)
    device.stop()
    device.quota = Quota(BUDGET, "day")
    device.start()
    device.transfer(1)
    assert device.allowance.used_bytes == 301


@pytest.mark.parametrize("kept", [None, b"", b"\xff", b"[]", b"{}", b'{"period": "2026-11", "used": 1e999}'])
def test_what_cannot_be_read_counts_as_nothing(kept: bytes | None) -> None:
    assert Allowance(Quota(BUDGET, "month"), kept).used_bytes == 0


def test_counters_that_begin_anew_take_nothing_back() -> None:
    device = Device()
    device.transfer(700)
    device.allowance.count(0, TODAY)
    assert device.allowance.used_bytes == 700
