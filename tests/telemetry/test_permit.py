"""When a device may train: edges that do not flicker, and pauses that are no longer than they need to be."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.limits import DeviceLimits
from edgefl.telemetry.load import Load
from edgefl.telemetry.permit import QUIET_S, SHORTEST_S, Permit, in_hours

IDLE = Load(cpu=0.1, background_cpu=0.1, memory=0.3, memory_available_bytes=10**9, own_memory_bytes=10**8)


class Device:
    """A permit that is shown one sample after the other."""

    def __init__(self, **limits: Any) -> None:
        self.permit = Permit(DeviceLimits(**limits))
        self.now = 0.0

    def paused(self, *, seconds: float = 5.0, minute: int = 0, spent: str = "", **sensors: Any) -> str:
        self.now += seconds
        self.permit.look(replace(IDLE, **sensors), minute, spent, self.now)
        return "" if self.permit.pause is None else self.permit.pause.why


def test_without_limits_a_device_always_trains() -> None:
    device = Device()
    busy = {"background_cpu": 1.0, "temperature_c": 99.0, "battery": 0.01, "on_mains": False, "memory": 1.0}
    assert device.paused(**busy, own_memory_bytes=10**12) == ""


def test_heat_pauses_until_it_is_cooler_by_a_margin() -> None:
    device = Device(temperature_c=75.0)
    temperatures = [75.0, 75.5, 74.0, 70.5, 70.0, 74.0, None]
    paused = [bool(device.paused(temperature_c=temperature)) for temperature in temperatures]
    assert paused == [False, True, True, True, False, False, False]


def test_a_battery_pauses_until_it_is_charged_by_a_margin_or_on_mains() -> None:
    device = Device(battery=0.3)
    samples = [(0.31, False), (0.29, False), (0.33, False), (0.35, False), (0.29, False), (0.1, True), (None, None)]
    paused = [bool(device.paused(battery=level, on_mains=mains)) for level, mains in samples]
    assert paused == [False, True, True, False, True, False, False]
    device.paused(battery=0.2, on_mains=False)
    assert device.permit.pause is not None
    assert device.permit.pause.until == math.inf


def test_other_work_pauses_until_it_has_been_quiet_for_a_while() -> None:
    device = Device(background_cpu=0.5)
    assert "other work" in device.paused(background_cpu=0.6)
    assert device.paused(background_cpu=0.2, seconds=QUIET_S - 1) != ""
    assert device.paused(background_cpu=0.6) != ""
    assert device.paused(background_cpu=0.2) != ""
    assert device.paused(background_cpu=0.2, seconds=QUIET_S) == ""


def test_memory_pauses_until_the_daemon_has_become_smaller() -> None:
    device = Device(memory_bytes=100)
    assert [bool(device.paused(own_memory_bytes=size)) for size in (100, 101, 95, 90)] == [False, True, True, False]


def test_hours_pass_midnight_and_the_end_of_the_pause_is_known() -> None:
    device = Device(hours=(22 * 60, 6 * 60))
    assert device.paused(minute=23 * 60) == ""
    assert device.paused(minute=0) == ""
    assert "22:00 to 06:00" in device.paused(minute=6 * 60)
    assert device.permit.pause is not None
    assert device.permit.pause.until - device.now == 16 * 3600
    assert device.paused(minute=22 * 60) == ""


def test_a_pause_keeps_its_beginning_while_reasons_change_and_is_expected_to_last_as_long_again() -> None:
    device = Device(temperature_c=75.0, background_cpu=0.5)
    assert "°C" in device.paused(temperature_c=80.0)
    assert device.permit.pause is not None
    assert device.permit.pause.until == device.now + SHORTEST_S
    assert "other work" in device.paused(temperature_c=20.0, background_cpu=0.9, seconds=100.0)
    assert device.permit.pause.since == 5.0
    assert device.permit.pause.until == device.now + 100.0


def test_bytes_that_are_used_up_pause_without_a_sample_and_with_no_end_in_sight() -> None:
    permit = Permit(DeviceLimits())
    permit.look(None, 0, "used up", 1.0)
    assert permit.pause is not None
    assert (permit.pause.why, permit.pause.until) == ("used up", math.inf)
    permit.look(None, 0, "", 2.0)
    assert permit.pause is None


@given(st.integers(0, 1439), st.integers(0, 1439), st.integers(0, 1439))
def test_a_window_and_its_complement_share_no_minute(minute: int, first: int, last: int) -> None:
    if first != last:
        assert in_hours(minute, (first, last)) != in_hours(minute, (last, first))


@given(st.lists(st.tuples(st.floats(20, 100), st.floats(0, 1), st.floats(0, 1), st.booleans()), max_size=30))
def test_never_trains_above_a_limit(samples: list[tuple[float, float, float, bool]]) -> None:
    device = Device(temperature_c=75.0, background_cpu=0.5, battery=0.3)
    for temperature, background, level, mains in samples:
        why = device.paused(temperature_c=temperature, background_cpu=background, battery=level, on_mains=mains)
        if temperature > 75.0 or background > 0.5 or (level < 0.3 and not mains):
            assert why
        assert (why == "") == (device.permit.pause is None)


@pytest.mark.parametrize("sensor", ["temperature_c", "battery", "on_mains"])
def test_a_sensor_that_is_gone_pauses_nothing(sensor: str) -> None:
    device = Device(temperature_c=75.0, battery=0.3)
    hot = {"temperature_c": 80.0, "battery": 0.1, "on_mains": False}
    assert device.paused(**hot)
    calm = {"temperature_c": 20.0, "battery": 0.9, "on_mains": False, sensor: None}
    assert device.paused(**calm) == ""
