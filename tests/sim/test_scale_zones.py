"""Zones found by anchors are stable when everybody measures again; landmark bins are not."""

from __future__ import annotations

import numpy as np
import pytest

from edgefl.sim.scale import run_zones
from edgefl.sim.scale.world import Devices, generator, make_devices
from edgefl.sim.scale.zones import (
    Found,
    Pings,
    find_zones,
    landmark_bins,
    measure_again,
    merge_small,
    pairs_kept,
    rtts_inside_s,
)

TAU_S = 0.040
TWO_CITIES = [[0.001, 0.150], [0.150, 0.001]]


def of_cities(devices: Devices, cities: int) -> Found:
    """Each city is a zone; its anchors are its first three devices."""
    zone = devices.city.astype(np.int64)
    return Found(zone, np.array([np.flatnonzero(zone == city)[:3] for city in range(cities)]))


def test_pairs_kept_in_literals() -> None:
    zone = np.array([0, 0, 0, 1, 1])
    assert pairs_kept(zone, zone) == 1.0
    assert pairs_kept(zone, np.array([7, 7, 7, 3, 3])) == 1.0  # names do not matter
    assert pairs_kept(zone, np.array([0, 0, 1, 1, 1])) == pytest.approx(2 / 6)
    assert pairs_kept(np.arange(5), np.arange(5)) == 1.0


def test_the_shortest_ping_is_near_the_truth_and_never_below() -> None:
    devices = make_devices(100, 1)
    a, b = np.arange(50), np.arange(50, 100)
    ratio = Pings(devices, generator(1)).rtt_s(a, b) / devices.rtt_s(a, b)
    assert np.all(ratio >= 1.0)
    assert 1.0 < ratio.mean() < 1.1


def test_two_cities_far_apart_are_two_zones() -> None:
    devices = make_devices(300, 1, TWO_CITIES)
    found = find_zones(devices, TAU_S, generator(1))
    assert len(found.anchors) == 2
    assert pairs_kept(found.zone, devices.city.astype(np.int64)) == 1.0
    for zone, anchors in enumerate(found.anchors):
        assert np.all(found.zone[anchors] == zone)
        assert len(set(anchors.tolist())) == 3


def test_a_small_zone_dissolves_only_into_one_within_twice_the_radius() -> None:
    cities = [[1.0, 60.0, 300.0], [60.0, 1.0, 300.0], [300.0, 300.0, 1.0]]
    devices = make_devices(600, 1, [[rtt / 1000 for rtt in row] for row in cities])
    sizes = np.bincount(devices.city, minlength=3)
    found = of_cities(devices, 3)
    few = np.arange(600)
    for city in (1, 2):  # five devices are left of either
        few = few[(devices.city[few] != city) | (np.cumsum(devices.city[few] == city) <= 5)]
    assert min(sizes) > 10
    zone = found.zone.copy()
    zone[np.setdiff1d(np.arange(600), few)] = 0
    merged = merge_small(devices, Found(zone, found.anchors), 0.050, generator(1))
    after = np.bincount(merged.zone)
    assert len(merged.anchors) == 2
    assert after.tolist() == [595, 5]  # the near one has gone, the far one stays small


def test_who_measures_again_moves_only_for_a_real_gain() -> None:
    devices = make_devices(300, 1, TWO_CITIES)
    truth = of_cities(devices, 2)
    wrong = Found(np.zeros(300, np.int64), truth.anchors)
    settled = measure_again(devices, wrong, TAU_S, generator(1), hysteresis=True)
    assert pairs_kept(settled.zone, truth.zone) == 1.0
    near = [[0.001, 0.030], [0.030, 0.001]]  # the own zone is within the radius: nobody moves
    devices = make_devices(300, 1, near)
    truth = of_cities(devices, 2)
    stays = measure_again(devices, Found(np.zeros(300, np.int64), truth.anchors), 0.120, generator(1), hysteresis=True)
    assert not stays.zone.any()
    moves = measure_again(devices, Found(np.zeros(300, np.int64), truth.anchors), 0.120, generator(1), hysteresis=False)
    assert moves.zone.any()


def test_landmark_bins_tell_far_cities_apart() -> None:
    devices = make_devices(200, 1, TWO_CITIES)
    landmarks = np.array([np.flatnonzero(devices.city == city)[0] for city in (0, 1)])
    bins = landmark_bins(devices, landmarks, generator(1))
    assert bins.shape == (200,)
    assert not set(bins[devices.city == 0].tolist()) & set(bins[devices.city == 1].tolist())


def test_rtts_inside_are_of_pairs_that_share_a_zone() -> None:
    devices = make_devices(200, 1, TWO_CITIES)
    assert rtts_inside_s(devices, devices.city.astype(np.int64), generator(1), 500).max() < 0.150
    assert rtts_inside_s(devices, np.zeros(200, np.int64), generator(1), 500).max() > 0.150
    assert len(rtts_inside_s(devices, np.arange(200), generator(1), 500)) == 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_anchors_keep_the_pairs_that_landmarks_lose(seed: int) -> None:
    document = run_zones(nodes=1000, seed=seed)
    kept = {row["method"]: row["pairs_kept"] for row in document["methods"]}
    assert kept["anchors, merged, hysteresis"] >= 0.95
    assert kept["landmark binning, 8"] < kept["landmark binning, 4"] < kept["anchors, merged, hysteresis"]
    assert kept["operator's regions"] == 1.0
    assert document == run_zones(nodes=1000, seed=seed)
