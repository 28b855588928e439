"""Slots as ranges, contacts as functions, routes in columns: held against the shipped tables and the shipped router."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgefl.overlay.ids import ID_SPACE, digit, shared_digits
from edgefl.overlay.leaf_set import LeafSet
from edgefl.overlay.liveness import Peer
from edgefl.overlay.profile import NODE
from edgefl.overlay.routing import MAX_TRIES, Router
from edgefl.overlay.routing_table import RoutingTable
from edgefl.sim.scale import tables
from edgefl.sim.scale.route_study import half_vanishes, inside_zones, random_lookups, route_figures, table_figures
from edgefl.sim.scale.routes import Routes, follow, owners
from edgefl.sim.scale.world import Devices, generator, make_devices
from edgefl.wire import Contact
from edgefl.wire.overlay import Scope

NODES = 200
EVERYBODY = NODES
"""So many candidates that all devices of a slot are measured."""


class ReferenceDevice:
    """One device with the shipped routing table and leaf sets, which were offered everybody, the best first."""

    def __init__(self, devices: Devices, number: int) -> None:
        own_id, zone = int(devices.ids[number]), int(devices.zone[number])
        rtts_s = devices.rtt_s(np.array(number), np.arange(len(devices)))
        others = [n for n in range(len(devices)) if n != number]
        peers = [
            Peer(Contact(int(devices.ids[n]), "10.0.0.1", 7000, int(devices.zone[n])), 0.0, float(rtts_s[n]))
            for n in sorted(others, key=lambda n: (devices.zone[n] != zone, rtts_s[n]))
        ]
        self.table = RoutingTable(own_id, zone)
        self.zone_leaves, self.fleet_leaves = LeafSet(own_id, NODE.zone_side), LeafSet(own_id, NODE.fleet_side)
        for peer in peers:
            self.table.offer(peer)
            self.fleet_leaves.offer(peer)
            if peer.contact.zone == zone:
                self.zone_leaves.offer(peer)
        known = [*self.table, *self.zone_leaves.peers(), *self.fleet_leaves.peers()]
        self.known = {peer.node_id: peer for peer in known}
        self._router: Any = SimpleNamespace(
            _device=SimpleNamespace(contact=Contact(own_id, "10.0.0.1", 7000, zone)),
            _membership=SimpleNamespace(by_id=lambda: self.known, table=self.table),
        )

    def next_hop(self, key: int, tried: list[int]) -> int | None:
        peer = Router._next_hop(self._router, key, Scope.GLOBAL, tried)
        return None if peer is None else peer.node_id


@pytest.fixture(scope="module")
def devices() -> Devices:
    return make_devices(NODES, 5)


@pytest.fixture(scope="module")
def reference(devices: Devices) -> list[ReferenceDevice]:
    return [ReferenceDevice(devices, number) for number in range(NODES)]


def random_requests(devices: Devices, count: int, seed: int) -> tuple[Any, Any]:
    random = generator(seed)
    return random.integers(0, len(devices), count), random.integers(0, ID_SPACE, count, dtype=np.uint64)


def way(routes: Routes, number: int) -> list[int]:
    """The devices on one route, each once."""
    return [int(at) for at in routes.path[: routes.hops[number] + 1, number]]


def test_digits_are_those_of_the_overlay() -> None:
    random = Random(1)
    a = [random.getrandbits(64) for _ in range(300)]
    b = [x ^ random.getrandbits(random.randrange(17, 65)) for x in a]
    ids, others = np.array(a, np.uint64), np.array(b, np.uint64)
    for row in range(tables.ROWS):
        assert tables.digits(ids, np.full(300, row)).tolist() == [digit(x, row) for x in a]
    expected = [min(tables.ROWS, shared_digits(x, y)) for x, y in zip(a, b, strict=True)]
    assert tables.shared_digits(ids, others).tolist() == expected


def test_contacts_are_those_that_the_shipped_tables_keep(devices: Devices, reference: list[ReferenceDevice]) -> None:
    whose, contact = tables.all_contacts(devices, np.arange(NODES), EVERYBODY)
    for number, device in enumerate(reference):
        known = sorted(device.known)
        assert devices.ids[contact[whose == number]].tolist() == known


def test_table_sizes_are_counted_without_tables(devices: Devices, reference: list[ReferenceDevice]) -> None:
    sizes = tables.table_sizes(devices)
    for number, device in enumerate(reference):
        filled = {(shared_digits(int(devices.ids[number]), p.node_id), p.node_id) for p in device.table}
        assert sizes.slots[number] == len({(row, digit(node_id, row)) for row, node_id in filled})
        assert sizes.places[number] == len(device.table)
        assert sizes.leaves[number] == len(device.zone_leaves) + len(device.fleet_leaves)


def test_routes_visit_what_the_shipped_router_visits(devices: Devices, reference: list[ReferenceDevice]) -> None:
    start, keys = random_requests(devices, 400, 1)
    routes = follow(devices, start, keys, candidates=EVERYBODY)
    position = {int(node_id): number for number, node_id in enumerate(devices.ids)}
    for number, (at, key) in enumerate(zip(start.tolist(), keys.tolist(), strict=True)):
        expected = [at]
        while (hop := reference[expected[-1]].next_hop(key, [])) is not None:
            expected.append(position[hop])
        assert way(routes, number) == expected
        rtts_s = devices.rtt_s(np.array(expected[:-1], np.int64), np.array(expected[1:], np.int64))
        assert routes.length_s[number] == pytest.approx(rtts_s.sum())
        assert routes.crossings[number] == np.count_nonzero(np.diff(devices.zone[expected]))
    assert routes.end.tolist() == owners(devices.ids, keys).tolist()


def test_dead_devices_cost_tries_as_in_the_shipped_router(devices: Devices, reference: list[ReferenceDevice]) -> None:
    alive = generator(3).random(NODES) < 0.4
    position = {int(node_id): number for number, node_id in enumerate(devices.ids)}
    start, keys = random_requests(devices, 400, 2)
    start = np.flatnonzero(alive)[start % alive.sum()]
    routes = follow(devices, start, keys, candidates=EVERYBODY, alive=alive)
    assert 0 < routes.given_up.sum() < 200
    for number, (at, key) in enumerate(zip(start.tolist(), keys.tolist(), strict=True)):
        visited, given_up, arrived = [at], False, False
        while not given_up and not arrived:
            tried: list[int] = []
            while (hop := reference[visited[-1]].next_hop(key, tried)) is not None:
                tried.append(hop)
                if alive[position[hop]]:
                    break
            given_up, arrived = len(tried) > MAX_TRIES, hop is None
            if not given_up and hop is not None:
                visited.append(position[hop])
        assert way(routes, number) == visited
        assert routes.given_up[number] == given_up


def test_the_owner_of_a_key_is_the_device_nearest_by_xor() -> None:
    ids = make_devices(50, 1).ids
    keys = generator(1).integers(0, ID_SPACE, 300, dtype=np.uint64)
    keys[:50] = ids
    assert owners(ids, keys).tolist() == [int(np.argmin(ids ^ key)) for key in keys]
    assert owners(ids[:1], keys[:3]).tolist() == [0, 0, 0]


def test_candidates_are_drawn_from_all_of_a_slot_and_the_nearest_are_taken() -> None:
    devices = make_devices(20_000, 1)
    at = np.arange(0, 20_000, 97)
    top = tables.slots(devices, at).only(tables.slots(devices, at).row == 0)
    few, many = (tables.zone_contacts(devices, at, top, count) for count in (4, 64))
    for whose, contact, _ in (few, many):
        assert np.all(devices.zone[contact] == devices.zone[at[whose]])
        assert np.all(tables.shared_digits(devices.ids[contact], devices.ids[at[whose]]) == 0)
    mean_s = [devices.rtt_s(at[whose], contact).mean() for whose, contact, _ in (few, many)]
    assert mean_s[1] < 0.8 * mean_s[0]


@pytest.mark.parametrize("nodes", [10, 1000, 20_000])
def test_every_lookup_ends_at_the_owner_and_no_zone_is_left_without_need(nodes: int) -> None:
    devices = make_devices(nodes, 2)
    figures, stretch = random_lookups(devices, 500, 8, generator(1))
    assert figures["right"] == 1.0
    assert stretch.min() > 0.2  # triangles may be violated
    inside = inside_zones(devices, 500, 8, generator(2))
    assert (inside["right"], inside["leave"]) == (1.0, 0.0)


def test_hops_grow_by_at_most_one_and_a_tenth_per_factor_of_ten() -> None:
    hops = [random_lookups(make_devices(n, 1), 2000, 8, generator(1))[0]["hops"] for n in (1000, 10_000, 100_000)]
    assert hops[0]["mean"] < 3.4
    for smaller, larger in pairwise(hops):
        assert 0.3 < larger["mean"] - smaller["mean"] <= 1.1
        assert larger["p99"] <= 9


def test_state_and_failure() -> None:
    devices = make_devices(20_000, 1)
    contacts = table_figures(devices, 8, generator(1))
    assert contacts["mean"] == pytest.approx(contacts["slots_mean"] + contacts["leaves_mean"], abs=0.002)
    assert contacts["max"] <= 75
    assert contacts["packed_bytes"]["max"] <= 6000
    assert contacts["mean"] < contacts["with_spares"]["mean"] < 3 * contacts["mean"]
    failure = half_vanishes(devices, 1000, 8, generator(2))
    assert failure["right"] > 0.9
    assert failure["given_up"] < 0.08


def test_the_same_seed_gives_the_same_figures() -> None:
    first, again, other = (route_figures(make_devices(500, seed), 300, 8, seed) for seed in (1, 1, 2))
    assert first == again != other
