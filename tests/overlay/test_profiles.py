"""Devices of all profiles in one ring, leaves, the size of the fleet, and what all of it costs."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.overlay import GATEWAY, NODE, PROFILES, TINY, Overlay
from edgefl.overlay.candidates import SPARE_PARENTS
from edgefl.overlay.doors import MAX_DOORS
from edgefl.overlay.fleet_size import HEARD, FleetSize, pack_size, unpack_size
from edgefl.overlay.ids import digit, rows_of, shared_bits, shared_digits
from edgefl.overlay.leaf_set import LeafSet
from edgefl.overlay.liveness import Peer
from edgefl.overlay.routing_table import RoutingTable
from edgefl.sim.footprint import footprint, object_bytes, objects, packed_bytes
from edgefl.sim.world import World
from edgefl.wire import Contact, Role

APP = 0x5EED_0000_0000_0001
ids = st.integers(0, 2**64 - 1)


@given(ids, ids, st.sampled_from([2, 3, 4]))
def test_digits_of_every_size_spell_the_id(a: int, b: int, bits: int) -> None:
    value = 0
    for row in range(rows_of(bits)):
        value = value << bits | digit(a, row, bits)
    assert value >> (rows_of(bits) * bits - 64) == a
    common = next((row for row in range(rows_of(bits)) if digit(a, row, bits) != digit(b, row, bits)), rows_of(bits))
    assert shared_digits(a, b, bits) == common


@given(ids, st.sets(ids, max_size=60), st.sampled_from(list(PROFILES.values())), st.integers(0, 63))
def test_a_row_asked_for_in_bits_is_the_row_of_that_prefix(
    own: int, others: set[int], profile: Any, prefix: int
) -> None:
    table = RoutingTable(own, 0, profile)
    for node_id in others - {own}:
        table.offer(Peer(Contact(node_id, "10.0.0.1", 7000), 0.0))
    given_out = {peer.node_id for slot in table.beyond(prefix) for peer in slot}
    end = prefix + profile.digit_bits
    assert given_out == {p.node_id for p in table if prefix <= shared_bits(own, p.node_id) < end}
    for row in table.rows():
        assert table.beyond(row * profile.digit_bits) == table.slots(row)


def test_a_mixed_fleet_finds_the_same_owner_for_every_key_and_its_trees_are_whole() -> None:
    world = World(devices=200, seed=71, profile=(TINY, NODE, GATEWAY))
    world.grow(200, 40)
    world.run(90)
    for member in world.random.sample(world.alive(), 60):
        member.overlay.join_tree(APP, member.now)
    world.run(60)
    assert world.lookups(200) == 1.0
    assert world.tree(APP).whole
    kept = {
        profile.digit_bits: [len(m.overlay.contacts()) for m in world.alive() if m.overlay._device.profile is profile]
        for profile in (TINY, NODE, GATEWAY)
    }
    means = [sum(counts) / len(counts) for counts in kept.values()]
    assert means[0] < means[1] < means[2]


@given(st.integers(1, 2**63))
def test_a_size_in_one_byte_is_off_by_a_tenth_at_most(size: int) -> None:
    assert 0.9 <= unpack_size(pack_size(size)) / size <= 1.1


def test_the_size_of_a_fleet_is_a_median_that_liars_do_not_move() -> None:
    size = FleetSize()
    assert size.estimate(0) == 1
    for code in [pack_size(1000)] * 12 + [0, 255] * 6:
        size.hear(code)
    assert 900 <= size.estimate(40) <= 1100


@pytest.mark.parametrize("devices", [20, 150, 1000, 20_000])
def test_the_size_of_any_fleet_is_known_within_a_factor_of_two(devices: int) -> None:
    """Everybody has heard sixteen others; of a hundred devices in each of five fleets at least 99 % are right."""
    random, right = Random(devices), 0
    for _ in range(5):
        ring = sorted(random.getrandbits(64) for _ in range(devices))

        def guess(at: int, ring: list[int] = ring) -> int:
            leaves = LeafSet(ring[at], NODE.fleet_side)
            for step in (-3, -2, -1, 1, 2, 3):
                leaves.offer(Peer(Contact(ring[(at + step) % devices], "10.0.0.1", 7000), 0.0))
            return leaves.ring_size()

        for _ in range(100):
            size = FleetSize()
            for _ in range(HEARD):
                size.hear(pack_size(guess(random.randrange(devices))))
            right += devices / 2 <= size.estimate(guess(random.randrange(devices))) <= devices * 2
    assert right >= 0.99 * 500


def test_devices_agree_on_the_size_of_their_fleet_two_minutes_after_it_has_grown() -> None:
    world = World(devices=120, seed=2)
    world.grow(120, 30)
    world.run(130)
    sizes = [member.overlay._membership.fleet_size() for member in world.alive()]
    assert sum(60 <= size <= 240 for size in sizes) >= 0.99 * 120


def with_leaves(seed: int, devices: int = 80) -> World:
    """Every fourth device cannot be dialled."""
    numbers = iter(range(devices))

    def every_fourth(random: Random) -> dict[str, Any]:
        return {"role": Role.LEAF} if next(numbers) % 4 == 3 else {}

    world = World(devices=devices, seed=seed)
    world.grow(devices, 30, every_fourth)
    world.run(60)
    return world


def test_a_leaf_keeps_a_few_doors_and_sends_less_than_half_of_what_a_node_sends() -> None:
    world = with_leaves(72)
    leaves = [m for m in world.alive() if not m.overlay.contact.dialable]
    nodes = [m for m in world.alive() if m.overlay.contact.dialable]
    before = {m.node_id: m.node.sent_bytes for m in world.alive()}
    world.run(240)

    def sent(members: list[Any]) -> float:
        return sum(m.node.sent_bytes - before[m.node_id] for m in members) / len(members)

    assert sent(leaves) < sent(nodes) / 2
    for member in leaves:
        sizes = member.overlay.sizes()
        assert 1 <= len(member.overlay.contacts()) <= MAX_DOORS
        assert (sizes["zone_leaves"], sizes["global_leaves"]) == (0, 0)
    assert footprint(leaves)["packed_bytes"] < footprint(nodes)["packed_bytes"] / 4
    assert footprint(leaves)["objects_bytes"] < footprint(nodes)["objects_bytes"] * 0.7


def test_an_attached_leaf_keeps_three_spare_parents_and_finds_another_one() -> None:
    world = with_leaves(73)
    for member in world.alive():
        member.overlay.join_tree(APP, member.now)
    world.run(60)
    leaf = next(m for m in world.alive() if not m.overlay.contact.dialable)
    assert world.tree(APP).whole
    assert leaf.overlay.sizes()["pool"] <= SPARE_PARENTS
    view = leaf.overlay.tree(APP)
    assert view is not None
    assert view.parent is not None
    world.kill([world.members[view.parent.node_id]])
    world.run(60)
    assert world.tree(APP).whole


def test_a_leaf_whose_doors_all_die_finds_others() -> None:
    world = with_leaves(74)
    leaf = next(m for m in world.alive() if not m.overlay.contact.dialable)
    world.kill([world.members[contact.node_id] for contact in leaf.overlay.contacts()])
    world.run(180)
    assert leaf.overlay.joined
    assert all(world.members[contact.node_id].node.alive for contact in leaf.overlay.contacts())


def test_a_node_that_becomes_a_leaf_and_a_node_again_has_its_place_again() -> None:
    world = with_leaves(75)
    member = next(m for m in world.alive() if m.overlay.contact.dialable)
    for role in (Role.LEAF, Role.NODE):
        old = member.overlay.contact
        world.change_contact(member, replace(old, role=role, incarnation=old.incarnation + 1))
        world.run(30)
        assert (len(member.overlay.contacts()) <= MAX_DOORS) == (role is Role.LEAF)
    holders = [m for m in world.alive() if member.node_id in {c.node_id for c in m.overlay.contacts()}]
    assert len(holders) > MAX_DOORS
    assert world.members[world.owner(member.node_id)] is member
    assert world.lookups(60) == 1.0


def test_the_footprint_is_that_of_the_objects() -> None:
    world = World(devices=30, seed=76)
    world.grow(30, 10)
    member = world.alive()[0]
    overlay: Overlay = member.overlay
    outside = [member, member.node, member.log, world]
    bytes_before = object_bytes([overlay], outside)
    overlay._liveness.peers[1] = Peer(Contact(1, "10.99.0.1", 7000), 5.5)
    assert 200 <= object_bytes([overlay], outside) - bytes_before <= 3000  # a peer, its contact; perhaps a larger table
    assert packed_bytes(overlay) == 35 * len(overlay.contacts())


def test_no_part_of_a_device_has_attributes_that_the_footprint_does_not_see() -> None:
    world = World(devices=40, seed=77)
    world.grow(40, 10)
    for member in world.alive():
        member.overlay.join_tree(APP, member.now)
    world.run(60)
    members = world.alive()
    outside = [thing for m in members for thing in (m, m.node, m.log)] + [world]
    parts = {type(thing) for thing in objects([m.overlay for m in members], outside)}
    ours = {part for part in parts if part.__module__.startswith("edgefl.")}
    assert {"RankTree", "Liveness", "Peer", "Membership", "LeafSet"} <= {part.__name__ for part in ours}
    assert [part.__qualname__ for part in ours if part.__dictoffset__] == []
    assert footprint(members)["objects_bytes"] < 30_000
