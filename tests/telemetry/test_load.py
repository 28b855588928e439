"""The load sensor: plausible on this machine, patient with broken sensors."""

from __future__ import annotations

import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

import edgefl.telemetry.load as load_module
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
    sensor._psutil = FakePsutil(50.0, 50.0)  # type: ignore[assignment]
    sensor._process = Pinned(None)  # type: ignore[assignment]
    sensor._own_seconds = 0.0
    sensor._own_cpu_seconds = lambda: 0.6  # type: ignore[method-assign]
    load = sensor.sample(1.0)
    assert load.cpu == pytest.approx(0.5)
    assert load.background_cpu == pytest.approx(0.2)  # 0.6 s of one of two cores is 0.3 of the machine


def test_sensors_that_fail_are_absent() -> None:
    sensor = LoadSensor(0.0)
    sensor._psutil = FakePsutil(1.0)  # type: ignore[assignment]
    load = sensor.sample(1.0)
    assert (load.temperature_c, load.frequency_share, load.battery, load.on_mains) == (None, None, None, None)


def test_only_the_cores_that_we_may_use_count() -> None:
    sensor = LoadSensor(0.0)
    sensor._psutil = FakePsutil(100.0, 20.0, 60.0, 100.0)  # type: ignore[assignment]
    sensor._process = Pinned([1, 2])  # type: ignore[assignment]
    sensor._own_seconds = 0.0
    sensor._own_cpu_seconds = lambda: 0.2  # type: ignore[method-assign]
    load = sensor.sample(1.0)
    assert load.cpu == pytest.approx(0.4)
    assert load.background_cpu == pytest.approx(0.3)  # 0.2 s of one of two cores is 0.1 of them


class Pinned:
    """A process that may run on these cores; None: the system does not tell."""

    def __init__(self, cores: list[int] | None) -> None:
        self._cores = cores

    def cpu_affinity(self) -> list[int]:
        if self._cores is None:
            raise AttributeError("not on this system")
        return self._cores

    def memory_info(self) -> SimpleNamespace:
        return SimpleNamespace(rss=1)


class FakePsutil:
    """A board of these cores whose optional sensors all fail."""

    def __init__(self, *cpu_percent: float) -> None:
        self._cpu_percent = list(cpu_percent)

    def cpu_percent(self, *, percpu: bool) -> list[float]:
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


def test_sensors_of_the_kernel(tmp_path, monkeypatch) -> None:
    zone = tmp_path / "thermal_zone0"
    zone.mkdir()
    (zone / "temp").write_text("48500\n")
    off = tmp_path / "thermal_zone1"
    off.mkdir()
    (off / "temp").write_text("")
    pressure = tmp_path / "memory"
    pressure.write_text("some avg10=12.50 avg60=3.00 avg300=1.00 total=1\nfull avg10=1.00 avg60=0 avg300=0 total=0\n")
    card = tmp_path / "mmcblk0" / "device"
    card.mkdir(parents=True)
    (card / "life_time").write_text("0x02 0x03\n")
    monkeypatch.setattr(load_module, "THERMAL_ZONES", tmp_path)
    monkeypatch.setattr(load_module, "MEMORY_PRESSURE", pressure)
    monkeypatch.setattr(load_module, "WEAR", tmp_path)
    sensor = LoadSensor(0.0)
    sensor._psutil = FakePsutil(1.0)  # type: ignore[assignment]
    sensor._psutil.sensors_temperatures = dict  # type: ignore[attr-defined]
    load = sensor.sample(1.0)
    assert load.temperature_c == 48.5
    assert load.memory_pressure == 0.125
    assert load.wear == 0.3
    assert "battery" in load.as_dict()["absent"]
    assert "wear" not in load.as_dict()["absent"]


def test_the_work_of_children_is_our_own() -> None:
    sensor = LoadSensor(time.monotonic())
    before = sensor._own_cpu_seconds()
    subprocess.run([sys.executable, "-c", "for i in range(3_000_000): pass"], check=True)
    assert sensor._own_cpu_seconds() > before + 0.01
