"""The arrays of the vectorised model describe the same world as the event simulator's."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from edgefl.sim.rtt_model import LAN_RTT_S, RttModel
from edgefl.sim.scale.cross_check import snapshot
from edgefl.sim.scale.world import CLASS_SHARES, Devices, arrange, city_matrix, generator, make_devices
from edgefl.sim.world import World


def rtts_of_places(model: RttModel, count: int) -> list[float]:
    places = [model.place() for _ in range(count)]
    return [model.rtt_s(a, b) for a, b in zip(places[::2], places[1::2], strict=True)]


def rtts_of_rows(devices: Devices, count: int) -> list[float]:
    random = generator(1)
    a, b = random.integers(0, len(devices), (2, count))
    return list(devices.rtt_s(a, b))


def test_rtts_are_distributed_as_in_the_event_simulator() -> None:
    """Several worlds of each kind: a single one is shaped by where its large cities are."""
    places = [rtt for seed in range(12) for rtt in rtts_of_places(RttModel(Random(seed), 2000), 2000)]
    rows = [rtt for seed in range(12) for rtt in rtts_of_rows(make_devices(2000, 100 + seed), 1000)]
    for share, tolerance in ((5, 0.2), (25, 0.2), (50, 0.15), (75, 0.15), (95, 0.15)):
        assert np.percentile(rows, share) == pytest.approx(np.percentile(places, share), rel=tolerance)


def test_every_pair_is_as_far_apart_as_in_the_model_that_it_was_taken_from() -> None:
    world = World(devices=40, seed=3)
    for _ in range(40):
        world.start(world.add(), first=not world.alive()[1:])
    devices = snapshot(world)
    members = [world.members[int(node_id)] for node_id in devices.ids]
    a, b = np.meshgrid(np.arange(40), np.arange(40), indexing="ij")
    expected = [[world.model.rtt_s(m.node.place, n.node.place) for n in members] for m in members]
    np.testing.assert_allclose(devices.rtt_s(a, b), expected)
    zones = [member.overlay.contact.zone for member in members]
    assert [[x == y for x in zones] for y in zones] == (devices.zone[:, None] == devices.zone).tolist()


def test_devices_stand_in_the_order_of_ids_and_of_zones() -> None:
    devices = make_devices(3000, 1)
    assert len(devices) == 3000
    assert np.all(devices.ids[1:] >> np.uint64(16) > devices.ids[:-1] >> np.uint64(16))
    assert devices.zone_sizes().sum() == 3000
    assert np.all(devices.zone_keys[1:] > devices.zone_keys[:-1])
    np.testing.assert_array_equal(devices.zone_order[devices.zone_place], np.arange(3000))
    for zone in range(devices.zones):
        np.testing.assert_array_equal(devices.in_zone(zone), np.flatnonzero(devices.zone == zone))


def test_devices_of_a_site_share_its_city_its_leg_and_a_fast_network() -> None:
    devices = make_devices(500, 2)
    row = np.flatnonzero(devices.site == devices.site[0])
    assert len(row) > 5
    assert len(set(devices.city[row])) == len(set(devices.site_leg_s[row])) == 1
    legs_s = devices.device_leg_s[row]
    np.testing.assert_allclose(devices.rtt_s(row[:1], row[1:]), LAN_RTT_S + legs_s[0] + legs_s[1:])


def test_classes_have_their_shares() -> None:
    devices = make_devices(20_000, 1)
    for capacity, share in CLASS_SHARES.items():
        assert (devices.capacity == capacity).mean() == pytest.approx(share, abs=0.01)
    assert sum(CLASS_SHARES.values()) == pytest.approx(1.0)


def test_a_measured_matrix_can_be_used() -> None:
    matrix = [[0.001, 0.05], [0.05, 0.001]]
    devices = make_devices(200, 1, matrix)
    np.testing.assert_array_equal(city_matrix(RttModel(Random(1), 1, matrix)), matrix)
    np.testing.assert_array_equal(devices.city_rtt_s, matrix)
    assert devices.zones == 2


def test_the_same_seed_gives_the_same_world() -> None:
    def world(seed: int) -> list[float]:
        devices = make_devices(200, seed)
        return [*devices.ids.tolist(), *devices.device_leg_s.tolist(), *devices.zone.tolist()]

    assert world(1) == world(1) != world(2)


def test_ids_that_agree_in_their_first_48_bits_are_refused() -> None:
    two, places = np.zeros(2, np.int64), np.zeros(2)
    fields = {"city": two, "site": two, "site_leg_s": places, "device_leg_s": places, "zone": two, "capacity": two}
    with pytest.raises(ValueError, match="48 bits"):
        arrange(ids=np.array([7 << 20, (7 << 20) + 1], np.uint64), city_rtt_s=np.zeros((1, 1)), **fields)
