"""From a sample of the sensors to the advert in the routing game."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.telemetry.load import Load
from edgefl.telemetry.price import price_of, quantised, why_closed

IDLE = Load(cpu=0.0, background_cpu=0.0, memory=0.3, memory_available_bytes=1 << 30, own_memory_bytes=1 << 26)


@given(st.floats(1e-12, 1e6))
def test_quantised_to_an_eighth_of_an_octave(value):
    assert quantised(value) / value == pytest.approx(1, abs=0.045)
    assert quantised(quantised(value)) == quantised(value)


def test_background_work_and_throttling_raise_the_price():
    rate = 1e9  # the processor is what counts
    idle = price_of(IDLE, rate).s_per_byte
    assert price_of(replace(IDLE, background_cpu=0.9), rate).s_per_byte > 3 * idle
    assert price_of(replace(IDLE, cpu=0.9, frequency_share=0.4), rate).s_per_byte > idle
    assert price_of(replace(IDLE, frequency_share=0.4), rate).s_per_byte == idle  # slow because it has nothing to do
    assert price_of(replace(IDLE, background_cpu=1.0), rate).s_per_byte < float("inf")


def test_what_was_measured_beats_what_was_assumed():
    assert price_of(IDLE, 100e6).s_per_byte < price_of(IDLE, None).s_per_byte < price_of(IDLE, 0.5e6).s_per_byte


def test_what_a_byte_costs_the_processor_counts_by_what_others_leave_of_it():
    rate, kappa = 10e6, 1e-7
    busy = replace(IDLE, background_cpu=0.9)
    assert price_of(IDLE, rate, kappa).s_per_byte == pytest.approx(2e-7, rel=0.05)
    assert price_of(busy, rate, kappa).s_per_byte == pytest.approx(1e-7 + 1e-6, rel=0.05)
    assert price_of(IDLE, rate, site_bytes_s=5e6).site_s_per_byte == pytest.approx(2e-7, rel=0.05)
    assert price_of(IDLE, rate).site_s_per_byte == 0


def test_penalties():
    assert price_of(IDLE, None).penalty_s == 0
    for worse in ({"memory_pressure": 0.2}, {"on_mains": False, "battery": 0.9}, {"temperature_c": 80.0}):
        price = price_of(replace(IDLE, **worse), None)
        assert price.penalty_s > 0
        assert not price.closed


@pytest.mark.parametrize(
    "trouble", [{"battery": 0.1, "on_mains": False}, {"memory": 0.95}, {"temperature_c": 90.0}], ids=str
)
def test_a_device_in_trouble_takes_nobody_and_says_why(trouble):
    load = replace(IDLE, **trouble)
    assert price_of(load, None).closed
    assert why_closed(load)


def test_a_low_battery_on_mains_is_no_trouble():
    assert why_closed(replace(IDLE, battery=0.1, on_mains=True)) is None
