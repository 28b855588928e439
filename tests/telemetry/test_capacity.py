"""The capacity class of devices as they are sold, and of those that do not tell much."""

from __future__ import annotations

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.telemetry.capacity import Hardware, capacity_of, measure
from edgefl.wire import Capacity

MIB, GIB = 1 << 20, 1 << 30


@pytest.mark.parametrize(
    ("device", "hardware", "expected"),
    [
        ("Pi Zero W: 1 core, 512 MB", Hardware(1, 427 * MIB), Capacity.CONSTRAINED),
        ("Pi Zero 2 W: 4 cores, 512 MB", Hardware(4, 416 * MIB), Capacity.CONSTRAINED),
        ("Pi 3 B: 4 cores, 1 GB", Hardware(4, 905 * MIB), Capacity.NORMAL),
        ("Pi 4: 4 cores, 2 GB", Hardware(4, 1845 * MIB), Capacity.NORMAL),
        ("Pi 4: 4 cores, 4 GB", Hardware(4, 3794 * MIB), Capacity.NORMAL),
        ("Pi 4: 4 cores, 8 GB", Hardware(4, 7811 * MIB), Capacity.STRONG),
        ("Pi 5: 4 cores, 8 GB", Hardware(4, 8052 * MIB), Capacity.STRONG),
        ("x86 gateway: 4 cores, 16 GB", Hardware(4, 15 * GIB), Capacity.STRONG),
        ("virtual machine: 1 core, 8 GB", Hardware(1, 8 * GIB), Capacity.CONSTRAINED),
        ("virtual machine: 2 cores, 16 GB", Hardware(2, 16 * GIB), Capacity.NORMAL),
        ("laptop on mains", Hardware(8, 16 * GIB, on_mains=True), Capacity.STRONG),
        ("laptop on battery", Hardware(8, 16 * GIB, on_mains=False), Capacity.CONSTRAINED),
        ("tells nothing", Hardware(None, None), Capacity.NORMAL),
        ("tells no memory", Hardware(16, None), Capacity.NORMAL),
        ("tells no cores", Hardware(None, 64 * GIB), Capacity.NORMAL),
    ],
)
def test_the_class_of_real_devices(device: str, hardware: Hardware, expected: Capacity) -> None:
    assert capacity_of(hardware) is expected, device


@given(st.integers(1, 64), st.integers(0, 64 * GIB), st.integers(0, 8), st.integers(0, GIB))
def test_more_hardware_is_never_a_lower_class(cores: int, memory: int, cores_more: int, memory_more: int) -> None:
    order = [Capacity.CONSTRAINED, Capacity.NORMAL, Capacity.STRONG]
    less, more = capacity_of(Hardware(cores, memory)), capacity_of(Hardware(cores + cores_more, memory + memory_more))
    assert order.index(less) <= order.index(more)


def test_this_device_is_measured() -> None:
    found = measure()
    assert (found.cores, found.memory_bytes) == (psutil.cpu_count(), psutil.virtual_memory().total)


def test_sensors_that_fail_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise OSError("the driver is broken")

    for name in ("cpu_count", "virtual_memory", "sensors_battery"):
        monkeypatch.setattr(psutil, name, broken, raising=False)
    assert measure() == Hardware(None, None, None)


@pytest.mark.parametrize("plugged", [True, False, None])
def test_a_battery_tells_whether_it_is_charged(monkeypatch: pytest.MonkeyPatch, plugged: bool | None) -> None:
    battery = type("Battery", (), {"power_plugged": plugged})
    monkeypatch.setattr(psutil, "sensors_battery", lambda: battery, raising=False)
    assert measure().on_mains is plugged
