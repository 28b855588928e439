"""What carrying a byte costs: traffic minus what the loop does anyway."""

from __future__ import annotations

import pytest

import edgefl.telemetry.carriage as module
from edgefl.telemetry.carriage import (
    ENOUGH_BYTES,
    HALF_LIFE_BYTES,
    LEAST_S_PER_BYTE,
    MOST_S_PER_BYTE,
    Carriage,
    carrier_seconds,
)


class Clocked:
    """A device whose loop takes a tenth of a core by itself, and `s_per_byte` for traffic."""

    def __init__(self, s_per_byte: float) -> None:
        self.s_per_byte = s_per_byte
        self.now = self.spent = 0.0
        self.moved = 0
        self.carriage = Carriage(lambda: self.spent)

    def pass_5_s(self, moved: int) -> None:
        self.now += 5.0
        self.moved += moved
        self.spent += 0.5 + moved * self.s_per_byte
        self.carriage.sample(self.now, self.moved)


def test_the_cost_of_a_byte_is_found_beside_that_of_idling() -> None:
    device = Clocked(3e-8)
    for moved in (0, 0, 100 << 20, 0, 100 << 20):
        device.pass_5_s(moved)
    assert device.carriage.s_per_byte == pytest.approx(3e-8)
    device.s_per_byte = 1e-8
    device.pass_5_s(HALF_LIFE_BYTES)
    assert device.carriage.s_per_byte == pytest.approx(2e-8)


def test_little_traffic_tells_nothing() -> None:
    device = Clocked(3e-8)
    for moved in (0, ENOUGH_BYTES - 1, 0, ENOUGH_BYTES - 1):
        device.pass_5_s(moved)
    assert device.carriage.s_per_byte is None


@pytest.mark.parametrize(("s_per_byte", "believed"), [(1.0, MOST_S_PER_BYTE), (0.0, LEAST_S_PER_BYTE)])
def test_nonsense_is_bounded(s_per_byte: float, believed: float) -> None:
    device = Clocked(s_per_byte)
    for moved in (0, 0, 100 << 20):
        device.pass_5_s(moved)
    assert device.carriage.s_per_byte == believed


def test_this_process_is_measured_and_others_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    before = carrier_seconds()
    assert before is not None
    while (after := carrier_seconds()) is not None and after < before + 0.03:
        sum(range(100_000))
    monkeypatch.setattr(module, "TASKS", tmp_path / "none")
    assert carrier_seconds() is None
    nowhere = Carriage()
    nowhere.sample(1.0, 0)
    nowhere.sample(2.0, 1 << 30)
    assert nowhere.s_per_byte is None
