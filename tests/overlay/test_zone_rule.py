"""The rule of zones as literals and laws, and that the vectorised model follows it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.overlay.zone_rule import ZoneView, better, dissolve_into, distance_s, is_small, nearest
from edgefl.sim.scale.world import generator, make_devices
from edgefl.sim.scale.zones import Found, Pings, measure_again

TAU_S = 0.040

views = st.builds(ZoneView, st.integers(1, 99), st.none() | st.floats(0.001, 0.3), st.integers(0, 50))


def test_the_distance_is_the_median_of_the_anchors_that_answered() -> None:
    assert distance_s([0.030, 0.010, 0.500]) == 0.030
    assert distance_s([0.010, 0.030]) == 0.020
    assert distance_s([]) is None


def test_the_nearest_within_a_distance() -> None:
    near, far, silent = ZoneView(1, 0.030, 9), ZoneView(2, 0.041, 9), ZoneView(3, None, 9)
    assert nearest([far, near, silent], TAU_S) is near
    assert nearest([far, silent], TAU_S) is None
    assert nearest([], TAU_S) is None
    assert nearest([ZoneView(7, 0.02, 1), ZoneView(6, 0.02, 1)], TAU_S) == ZoneView(6, 0.02, 1)


@pytest.mark.parametrize(
    ("members", "fleet", "small"), [(7, 10, True), (8, 10, False), (8, 1600, False), (8, 1601, True)]
)
def test_a_small_zone(members: int, fleet: int, small: bool) -> None:
    assert is_small(members, fleet) is small


def test_a_small_zone_dissolves_into_the_nearest_larger_one_within_reach() -> None:
    own = ZoneView(5, 0.001, 3)
    assert dissolve_into(own, [ZoneView(1, 0.081, 99)], TAU_S) is None
    assert dissolve_into(own, [ZoneView(1, 0.010, 2)], TAU_S) is None
    large = ZoneView(1, 0.079, 4)
    assert dissolve_into(own, [ZoneView(2, 0.010, 2), large], TAU_S) is large


@given(views, views)
def test_two_zones_never_dissolve_into_each_other(one: ZoneView, other: ZoneView) -> None:
    if one.zone != other.zone:
        assert None in (dissolve_into(one, [other], TAU_S), dissolve_into(other, [one], TAU_S))


@given(st.floats(0.001, 0.3), st.lists(views))
def test_nobody_leaves_a_zone_that_is_near_or_for_a_small_gain(own_s: float, others: list[ZoneView]) -> None:
    found = better(own_s, others, TAU_S)
    if own_s <= TAU_S:
        assert found is None
    elif found is not None:
        assert found.rtt_s is not None
        assert found.rtt_s <= 0.8 * own_s


@pytest.mark.parametrize("seed", [1, 2])
def test_the_vectorised_model_moves_whom_the_shipped_rule_moves(seed: int) -> None:
    """Both look twice at the same measurements."""
    devices = make_devices(300, seed)
    random = generator(seed, 9)
    anchors = random.choice(300, (12, 3), replace=False)
    before = random.integers(0, 12, 300)
    model = measure_again(devices, Found(before, anchors), TAU_S, generator(seed), hysteresis=True)
    pings = Pings(devices, generator(seed))
    looks = [pings.rtt_s(np.arange(300)[:, None, None], anchors) for _ in range(2)]
    moved = 0
    for device in range(300):
        wishes = set()
        for look in looks:
            seen = [ZoneView(zone, distance_s(look[device, zone].tolist()), 99) for zone in range(12)]
            own_s = seen[before[device]].rtt_s
            assert own_s is not None
            gain = better(own_s, [view for view in seen if view.zone != before[device]], TAU_S)
            wishes.add(int(before[device]) if gain is None else gain.zone)
        expected = wishes.pop() if len(wishes) == 1 else before[device]
        assert model.zone[device] == expected
        moved += expected != before[device]
    assert 20 < moved < 280
