"""Given devices in cities and no operator, then zones: as a whole, over time, with noise, moves and partitions."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations

from edgefl.overlay import WAN, ZoneMethod
from edgefl.sim.fleet import app_id
from edgefl.sim.network import SimNode
from edgefl.sim.world import Member, World
from edgefl.wire import Contact, Message
from edgefl.wire.overlay import (
    Attach,
    Attached,
    Candidates,
    Detach,
    Refusal,
    Refused,
    Route,
    Scope,
    TrackerCopy,
    TreeBeat,
    TreeEdge,
)

APP = app_id(0, 0)

OFTEN = replace(WAN, zone_check_s=120.0, zone_young_s=108.0)
"""Looks follow each other faster, everything else is as shipped."""

CITIES = [[0.001 if a == b else 0.120 for b in range(3)] for a in range(3)]


def zone(member: Member) -> int:
    return member.overlay.contact.zone


def pairs(world: World) -> set[tuple[int, int]]:
    members = sorted(world.alive(), key=lambda m: m.node_id)
    return {(a.node_id, b.node_id) for a, b in combinations(members, 2) if zone(a) == zone(b)}


def changes(world: World) -> int:
    return sum(member.overlay.counters["zone_changes"] for member in world.members.values())


def fleet(devices: int) -> World:
    world = World(devices=devices, seed=1, zoning=ZoneMethod.ANCHORS, profile=OFTEN)
    world.network.faults.jitter = 0.1
    world.network.faults.spike = 0.05
    world.grow(devices, 30)
    world.run(400)
    return world


def in_cities(devices: int, zoning: ZoneMethod) -> World:
    """As many devices in each of three cities that are far apart."""
    world = World(devices=devices, seed=5, zoning=zoning, profile=OFTEN, matrix=CITIES)
    for index in range(devices):
        member = world.add()
        member.node.place = world.model.place(index % 3)
        world.start(member, first=index == 0)
        world.run(1.0)
    world.run(400)
    return world


def test_a_fleet_without_labels_settles_and_noise_moves_hardly_anybody() -> None:
    world = fleet(100)
    assert all(member.overlay.joined and zone(member) for member in world.alive())
    sizes = Counter(map(zone, world.alive()))
    assert 2 <= len(sizes) <= 12
    before, moved = pairs(world), changes(world)
    inside = [world.model.rtt_s(world.members[a].node.place, world.members[b].node.place) for a, b in before]
    assert sum(inside) / len(inside) < 0.040
    world.run(1200)  # ten looks of everybody
    after = pairs(world)
    assert len(before & after) / len(before | after) >= 0.95
    assert changes(world) - moved <= 5
    assert world.lookups(60) >= 0.95  # spikes of five RTTs throughout


def test_the_same_seed_gives_the_same_zones() -> None:
    assert [zone(m) for m in fleet(30).alive()] == [zone(m) for m in fleet(30).alive()]


def test_a_device_that_moves_to_another_city_changes_its_zone_and_keeps_its_id() -> None:
    world = in_cities(36, ZoneMethod.ANCHORS)
    members = world.alive()
    traveller = members[0]
    zones = {member.node.place.city: zone(member) for member in members}
    assert len(zones) == len(set(zones.values())) > 1
    there = next(city for city in zones if city != traveller.node.place.city)
    before = traveller.overlay.contact
    world.move(traveller, there)
    world.run(600)
    after = traveller.overlay.contact
    assert (after.zone, after.node_id) == (zones[there], before.node_id)
    assert after.incarnation > before.incarnation
    leaves = {contact.node_id for contact in traveller.overlay.zone_leaves()}
    assert leaves <= {m.node_id for m in members if zone(m) == zones[there]}
    assert leaves


def test_islands_that_found_their_own_zones_merge_after_reunion() -> None:
    world = World(devices=40, seed=3, zoning=ZoneMethod.ANCHORS, profile=OFTEN, matrix=CITIES)
    large, small = [world.add() for _ in range(24)], [world.add() for _ in range(6)]
    ids = {member.node_id for member in small}

    def side(node: SimNode) -> int:
        return node.contact.node_id in ids

    for member in large + small:
        member.node.place = world.model.place(0)
    world.network.sides = side
    for island in (large, small):
        for index, member in enumerate(island):
            member.overlay.bootstrap([other.overlay.contact for other in island[:index]][-3:], world.clock.now)
            member.overlay.start(world.clock.now, first=index == 0)
            world.run(1.0)
    world.run(200)
    assert len({zone(m) for m in large}) == 1
    assert len({zone(m) for m in small}) == 1
    assert zone(large[0]) != zone(small[0])
    world.network.sides = None
    for member in small:
        member.overlay.bootstrap([large[0].overlay.contact], world.clock.now)
    world.run(900)
    assert {zone(m) for m in world.alive()} == {zone(large[0])}


def test_landmarks_put_devices_of_a_city_together() -> None:
    world = in_cities(36, ZoneMethod.LANDMARKS)
    assert all(zone(member) for member in world.alive())
    assert len({zone(member) for member in world.alive()}) > 1


def test_an_application_of_one_zone_never_crosses_its_border_while_members_move() -> None:
    world = in_cities(36, ZoneMethod.ANCHORS)
    crossed: list[object] = []
    carry = world.network.send

    def is_about_it(message: Message) -> bool:
        if isinstance(message, Route):
            return message.scope is Scope.ZONE and message.key == APP
        edges = message.edges if isinstance(message, TreeBeat) else ()
        tree_kinds = (Attach, Attached, Refused, Detach, Candidates, TrackerCopy)
        return any(e.app == APP for e in edges) or (isinstance(message, tree_kinds) and message.app == APP)

    def watch(origin: SimNode, to: Contact, message: Message) -> None:
        if is_about_it(message):
            crossed.extend([message] if origin.contact.zone != to.zone else [])
        carry(origin, to, message)

    world.network.send = watch  # type: ignore[method-assign]
    home = zone(world.alive()[0])
    inside = [m for m in world.alive() if zone(m) == home]
    outside = next(m for m in world.alive() if zone(m) != home)
    for member in inside:
        member.overlay.join_tree(APP, world.clock.now, scope=Scope.ZONE)
    world.run(60)
    assert (world.tree(APP).whole, world.tree(APP).members) == (True, len(inside))
    traveller = inside[1]
    world.move(traveller, outside.node.place.city)
    world.run(600)
    assert zone(traveller) == zone(outside)
    assert traveller.overlay.tree(APP) is None
    assert (world.tree(APP).whole, world.tree(APP).members) == (True, len(inside) - 1)
    assert crossed == []
    hostile = [
        Attach(APP), Attached(APP, 1, 5), Refused(APP, Refusal.FULL), Detach(APP, Refusal.RANK),
        TreeBeat((TreeEdge(APP, True),)),
    ]  # fmt: skip
    victim = inside[0].overlay
    before = victim.tree(APP)
    for message in hostile:
        victim.on_message(outside.overlay.contact, message, world.clock.now)
    assert victim.counters["refused_foreign_zone"] == len(hostile)
    assert (victim.tree(APP), crossed) == (before, [])
