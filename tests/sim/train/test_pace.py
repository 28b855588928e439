"""Slow devices under each pace of the forest, with real gradients."""

from __future__ import annotations

import pytest

from edgefl.sim.train.pace import compare_paces, with_stragglers


def test_a_tenth_of_the_devices_is_ten_times_slower() -> None:
    plain, slowed = with_stragglers(50, 0.0, 10.0, 1), with_stragglers(50, 0.1, 10.0, 1)
    ratios = [b.step_s / a.step_s for a, b in zip(plain, slowed, strict=True)]
    assert sorted(ratios) == pytest.approx([1.0] * 45 + [10.0] * 5)
    assert [(t.uplink_bytes_s, t.delay_s) for t in plain] == [(t.uplink_bytes_s, t.delay_s) for t in slowed]


def test_with_slow_devices_buffered_rounds_reach_the_same_accuracy_three_times_sooner() -> None:
    sync, quantile, buffered = compare_paces(devices=20, accuracy=0.85, seed=2)
    assert sync.seconds is not None
    assert quantile.seconds is not None
    assert buffered.seconds is not None
    assert sync.seconds / buffered.seconds >= 3.0
    assert quantile.seconds > buffered.seconds
    assert buffered.device_seconds < sync.device_seconds
