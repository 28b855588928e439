"""The load sensor: plausible on this machine, patient with broken sensors."""

from __future__ import annotations

import time

import pytest

from edgefl.telemetry.load import HALF_LIFE_S, LoadSensor, smooth


def test_smoothing_halves_the_distance_in_one_half_life() -> None:
    assert smooth(None, 0.7, 1.0) == 0.7
    assert smooth(0.0, 1.0, HALF_LIFE_S) == pytest.approx(0.5)
    assert smooth(0.4, 0.4, 123.0) == pytest.approx(0.4)


def test_a_sample_of_this_machine_is_plausible() -> None:
    sensor = LoadSensor(time.monotonic())
    load = sensor.sample(time.monotonic() + 1.0)
    assert 0 <= load.background_cpu <= load.cpu <= 1
    assert 0 < load.memory < 1
    assert load.own_memory_bytes > 1_000_000
    assert load.as_dict()["memory_available_bytes"] > 0


def test_own_work_is_not_background_work() -> None:
    sensor = LoadSensor(0.0)
    sensor._psutil = FakePsutil(cpu_percent=50.0)  # type: ignore[assignment]
    sensor._cores = 2
    sensor._own_seconds = 0.0
    sensor._own_cpu_seconds = lambda: 0.6  # type: ignore[method-assign]
    load = sensor.sample(1.0)
    assert load.cpu == pytest.approx(0.5)
    assert load.background_cpu == pytest.approx(0.2)  # 0.6 s of one of two cores is 0.3 of the machine


def test_sensors_that_fail_are_absent() -> None:
    sensor = LoadSensor(0.0)
    sensor._psutil = FakePsutil(cpu_percent=1.0)  # type: ignore[assignment]
    load = sensor.sample(1.0)
    assert (load.temperature_c, load.frequency_share, load.battery, load.on_mains) == (None, None, None, None)


class FakePsutil:
    """A board whose optional sensors all fail."""

    def __init__(self, cpu_percent: float) -> None:
        self._cpu_percent = cpu_percent

    def cpu_percent(self) -> float:
        return self._cpu_percent

    def virtual_memory(self) -> object:
        class Memory:
            percent = 10.0
            available = 1000

        return Memory()

    def sensors_battery(self) -> object:
        raise RuntimeError("no such driver")

    def sensors_temperatures(self) -> dict[str, list[object]]:
        return {}

    def cpu_freq(self) -> object:
        raise NotImplementedError
