"""The synthetic world resembles the measured one in what matters."""

from __future__ import annotations

import statistics
from pathlib import Path
from random import Random

import pytest

from edgefl.sim.rtt_model import LAN_RTT_S, RttModel, read_matrix


def test_the_median_pair_of_cities_is_66_ms_apart_and_some_triangles_are_violated() -> None:
    model = RttModel(Random(1), 1000)
    cities = model._cities
    n = len(cities)
    pairs = [cities[a][b] for a in range(n) for b in range(a)]
    assert n == 227
    assert statistics.median(pairs) == pytest.approx(0.066, abs=0.012)
    assert all(cities[a][b] == cities[b][a] for a in range(n) for b in range(a))
    random = Random(2)
    triples = [random.sample(range(n), 3) for _ in range(5000)]
    violated = sum(cities[a][c] > cities[a][b] + cities[b][c] for a, b, c in triples) / 5000
    assert 0.01 < violated < 0.12


def test_rtts_are_symmetric_and_small_within_a_site() -> None:
    model = RttModel(Random(1), 200)
    places = [model.place() for _ in range(200)]
    for a, b in zip(places, reversed(places), strict=True):
        assert model.rtt_s(a, b) == pytest.approx(model.rtt_s(b, a))
    same = [(a, b) for a in places for b in places if a is not b and a.site == b.site]
    assert same
    assert all(LAN_RTT_S < model.rtt_s(a, b) < 0.03 for a, b in same)


def test_devices_of_a_region_are_near_each_other() -> None:
    model = RttModel(Random(3), 2000)
    for a in range(0, 227, 5):
        for b in range(0, 227, 7):
            if a != b and model.regions[a] == model.regions[b]:
                assert model._cities[a][b] < 0.045
    assert 20 < len(set(model.regions)) < 90
    assert model.region(model.place()).startswith("region-")


def test_a_measured_matrix_can_be_used(tmp_path: Path) -> None:
    file = tmp_path / "rtt.csv"
    file.write_text("0.5,20\n20,0.5\n\n")
    matrix = read_matrix(file)
    assert matrix == [[0.0005, 0.02], [0.02, 0.0005]]
    model = RttModel(Random(1), 500, matrix)
    places = [model.place() for _ in range(50)]
    assert {place.city for place in places} == {0, 1}
    file.write_text("1,2\n3\n")
    with pytest.raises(ValueError, match="no square matrix"):
        read_matrix(file)


def test_the_same_seed_gives_the_same_world() -> None:
    def world(seed: int) -> list[object]:
        model = RttModel(Random(seed), 100)
        return [model.place() for _ in range(10)]

    assert world(1) == world(1) != world(2)
