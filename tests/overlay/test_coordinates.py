"""Network coordinates: they come to predict RTTs, fit into a few bytes, and no liar throws them far."""

from __future__ import annotations

import math
from random import Random
from statistics import median

from hypothesis import given
from hypothesis import strategies as st

from edgefl.overlay.coordinates import (
    COARSE_BYTES,
    COORDINATE_BYTES,
    MAX_STEP_S,
    Coordinate,
    moved,
    unpack_coarse,
    unpack_coordinate,
)
from edgefl.sim.rtt_model import RttModel

axes = st.floats(-10, 10)
coordinates = st.builds(Coordinate, axes, axes, axes, st.floats(0, 10), st.floats(0, 1))


def test_thirty_devices_learn_to_predict_each_other() -> None:
    random = Random(1)
    model = RttModel(Random(2), 30)
    places = [model.place() for _ in range(30)]
    known = [Coordinate() for _ in places]
    for _ in range(3000):
        a, b = random.sample(range(30), 2)
        rtt_s = model.rtt_s(places[a], places[b]) * (1 + 0.1 * random.random())
        known[a] = moved(known[a], known[b], rtt_s, random)
    pairs = [(a, b) for a in range(30) for b in range(a) if places[a].site != places[b].site]
    errors = [abs(known[a].rtt_s(known[b]) / model.rtt_s(places[a], places[b]) - 1) for a, b in pairs]
    assert median(errors) < 0.25
    assert median(c.error for c in known) < 0.4


@given(coordinates)
def test_a_coordinate_survives_its_packing_and_what_does_not_fit_is_clamped(coordinate: Coordinate) -> None:
    data = coordinate.pack()
    assert len(data) == COORDINATE_BYTES
    again = unpack_coordinate(data)
    assert again.pack() == data
    for axis, packed in ((coordinate.x, again.x), (coordinate.y, again.y), (coordinate.z, again.z)):
        assert abs(max(-3.2768, min(3.2767, axis)) - packed) <= 0.51e-4
    coarse = coordinate.coarse()
    assert len(coarse) == COARSE_BYTES
    assert abs(max(-0.256, min(0.254, coordinate.x)) - unpack_coarse(coarse).x) <= 1.01e-3


@given(st.binary(min_size=8, max_size=8), st.binary(min_size=3, max_size=3), st.floats(0, 10), st.integers(0, 99))
def test_whatever_a_liar_claims_moves_us_by_a_bounded_step(
    claim: bytes, coarse: bytes, rtt_s: float, seed: int
) -> None:
    own = Coordinate(0.01, 0.02, 0.03, 0.004, 0.3)
    after = moved(own, unpack_coordinate(claim), rtt_s, Random(seed))
    step_s = math.dist((own.x, own.y, own.z), (after.x, after.y, after.z))
    assert step_s <= MAX_STEP_S + 1e-9
    assert abs(after.height - own.height) <= MAX_STEP_S + 1e-9
    assert 0.01 <= after.error <= 1.0
    assert after.height > 0
    assert own.rtt_s(unpack_coarse(coarse)) >= 0


def test_a_measurement_without_meaning_changes_nothing() -> None:
    own = Coordinate(0.01)
    assert moved(own, Coordinate(), 0.0, Random(1)) is own
    assert moved(own, Coordinate(), 2.1, Random(1)) is own


def test_two_at_the_same_place_step_apart() -> None:
    after = moved(Coordinate(), Coordinate(), 0.100, Random(1))
    assert math.dist((0, 0, 0), (after.x, after.y, after.z)) > 0.01
