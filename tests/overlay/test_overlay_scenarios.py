"""Given a fleet on a faulty network, when this happens, then that: the overlay as a whole."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from edgefl.overlay import Position
from edgefl.overlay.ids import clockwise, zone_key
from edgefl.overlay.profile import WAN
from edgefl.overlay.rank import rank
from edgefl.sim.fleet import app_id
from edgefl.sim.world import Member, World
from edgefl.wire import Capacity, Role
from edgefl.wire.overlay import Route, Scope

APP = app_id(0, 0)


def settled(devices: int = 40, *, seed: int = 1, members: int = 0, run_s: float = 60, **options: Any) -> World:
    """A fleet that has joined, with an application whose tree has formed."""
    world = World(devices=devices, seed=seed, **options)
    world.grow(devices, 20)
    world.run(run_s)
    for member in world.random.sample(world.alive(), members):
        member.overlay.join_tree(APP, world.clock.now)
    if members:
        world.run(30)
        assert world.tree(APP).whole
    return world


def the_root(world: World) -> Member:
    (root,) = [m for m in world.alive() if (view := m.overlay.tree(APP)) is not None and view.is_root]
    return root


def by_rank(world: World) -> list[Member]:
    members = [m for m in world.alive() if m.overlay.tree(APP) is not None]
    return sorted(members, key=lambda m: rank(m.overlay.contact, APP), reverse=True)


# Joining and the rings


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_everybody_joins_and_the_rings_are_right(loss: float) -> None:
    world = World(devices=60, seed=7)
    world.network.faults.loss = loss
    world.network.faults.duplicate = world.network.faults.reorder = loss
    world.grow(60, 20)
    world.run(90)
    assert all(member.overlay.joined for member in world.alive())
    ids = [member.node_id for member in world.alive()]
    for member in world.alive():
        others = [i for i in ids if i != member.node_id]
        successor = min(others, key=lambda i: clockwise(member.node_id, i))
        assert successor in [c.node_id for c in member.overlay.global_leaves()]
        zone = [m.node_id for m in world.alive() if m.overlay.contact.zone == member.overlay.contact.zone]
        in_zone = [i for i in zone if i != member.node_id]
        if in_zone:
            nearest = min(in_zone, key=lambda i: clockwise(member.node_id, i))
            assert nearest in [c.node_id for c in member.overlay.zone_leaves()]
    assert world.lookups(100) >= (1.0 if loss == 0 else 0.97)


def test_all_start_at_once_around_one_founder() -> None:
    world = World(devices=50, seed=3)
    members = [world.add() for _ in range(50)]
    world.start(members[0], first=True)
    for member in members[1:]:
        member.overlay.bootstrap([members[0].overlay.contact], 0.0)
        member.overlay.start(0.0)
    world.run(60)
    assert all(member.overlay.joined for member in members)
    assert world.lookups(100) == 1.0


def test_requests_with_zone_scope_never_leave_the_zone() -> None:
    world = settled(60, seed=2)
    crossings = []
    carry = world.network.send

    def watch(origin: Any, to: Any, message: Any) -> None:
        if isinstance(message, Route) and message.scope is Scope.ZONE and origin.contact.zone != to.zone:
            crossings.append(message)
        carry(origin, to, message)

    world.network.send = watch  # type: ignore[method-assign]
    zones = {m.overlay.contact.zone for m in world.alive()}
    assert len(zones) > 1
    zone = max(zones, key=lambda z: sum(m.overlay.contact.zone == z for m in world.alive()))
    inside = [m for m in world.alive() if m.overlay.contact.zone == zone]
    for member in inside:
        member.overlay.join_tree(APP, world.clock.now, scope=Scope.ZONE)
    world.run(60)
    report = world.tree(APP)
    assert (report.whole, report.members, crossings) == (True, len(inside), [])


# Death


def test_when_the_root_dies_the_next_in_rank_takes_over() -> None:
    world = settled(40, members=25, seed=4)
    root, heir = by_rank(world)[:2]
    assert the_root(world) is root
    assert heir.overlay.contact == root.overlay.top_ranked(APP, 3)[0]
    died_at = world.clock.now
    world.kill([root])
    world.run(60)
    assert the_root(world) is heir
    assert heir.log.times("root", APP)[-1] - died_at < 25
    assert world.tree(APP).whole
    assert world.cycles == 0


def test_when_an_interior_device_dies_its_children_find_new_parents() -> None:
    world = settled(40, members=30, seed=5)
    victim = next(
        m
        for m in by_rank(world)
        if (v := m.overlay.tree(APP)) and v.position is Position.ATTACHED and len(v.children) >= 2
    )
    view = victim.overlay.tree(APP)
    assert view is not None
    orphans = [world.members[child.contact.node_id] for child in view.children]
    died_at = world.clock.now
    world.kill([victim])
    world.run(45)
    for orphan in orphans:
        assert orphan.log.times("orphaned", APP)[-1] - died_at < 20  # 17 s of silence, then two pings
        assert orphan.log.times("parent", APP)[-1] - died_at < 25
    report = world.tree(APP)
    assert (report.whole, report.counted) == (True, 29)


def test_the_transport_s_hint_makes_repair_immediate() -> None:
    world = settled(40, members=30, seed=5)
    victim = the_root(world)
    view = victim.overlay.tree(APP)
    assert view is not None
    world.kill([victim])
    for child in view.children:
        world.members[child.contact.node_id].overlay.on_link_lost(victim.node_id, world.clock.now)
    world.run(8)
    assert world.tree(APP).whole
    assert world.tree(APP).members == 29


def test_a_lost_link_alone_drops_nobody() -> None:
    world = settled(20, members=10, seed=6)
    root, lost_at = the_root(world), world.clock.now
    for member in world.alive():
        member.overlay.on_link_lost(root.node_id, world.clock.now)
    world.run(10)
    assert the_root(world) is root
    # Before that, while the tree formed, places may have been given up to members of higher rank.
    assert all(at < lost_at for m in world.alive() for at in m.log.times("orphaned", APP))


def test_the_death_of_the_tracker_loses_nobody() -> None:
    world = settled(40, members=25, seed=8)
    world.run(70)  # copies
    owner = world.members[world.owner(APP)]
    assert owner is not the_root(world)
    members = {m.node_id for m in by_rank(world)} - {owner.node_id}
    world.kill([owner])
    newcomer = next(m for m in world.alive() if m.overlay.tree(APP) is None)
    world.run(40)
    newcomer.overlay.join_tree(APP, world.clock.now)
    world.run(20)
    report = world.tree(APP)
    assert (report.whole, report.members) == (True, len(members) + 1)
    heir = world.members[world.owner(APP)]
    assert {c.node_id for c in heir.overlay._tracker.members(APP)} >= members


@pytest.mark.parametrize("seed", [9, 11, 12])
def test_a_device_that_restarts_comes_back_with_a_higher_incarnation(seed: int) -> None:
    """Whoever it does not speak to finds out by the next routine probe."""
    world = settled(30, members=15, seed=seed)
    member = by_rank(world)[3]
    world.kill([member])
    world.run(2)
    again = world.restart(member)
    world.run(5)
    assert again.overlay.joined
    assert again.overlay.contact.incarnation == 1
    again.overlay.join_tree(APP, world.clock.now)
    world.run(60)
    report = world.tree(APP)
    assert (report.whole, report.members) == (True, 15)
    world.run(WAN.probe_fresh_s + 30 * WAN.probe_s)
    held = [c for m in world.alive() for c in m.overlay.contacts() if c.node_id == again.node_id]
    assert held
    assert all(contact.incarnation == 1 for contact in held)
    assert world.cycles == 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("late_s", [0.5, 1.0, 2.0])
def test_a_root_that_restarts_is_the_one_root_again_in_seconds(seed: int, late_s: float) -> None:
    """Its heir hears it before it is a member again, and must not take its no for an answer."""
    world = settled(12, seed=seed, members=12, run_s=30)
    root = by_rank(world)[0]
    world.kill([root])
    world.run(15)
    assert world.tree(APP).whole
    again = world.restart(root)
    world.run(late_s)
    again.overlay.join_tree(APP, world.clock.now)
    world.run(6)
    report = world.tree(APP)
    assert (report.whole, report.members) == (True, 12)
    assert world.cycles == 0


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("gap_s", [0.3, 1.5])
def test_devices_that_restart_at_once_are_back_in_the_one_tree_in_seconds(seed: int, gap_s: float) -> None:
    """A member, the rendezvous and the root, one after the other, as after power cuts; links report their loss."""
    world = settled(12, seed=seed, members=12, run_s=30)
    for which in ("member", "rendezvous", "root"):
        root, rendezvous = by_rank(world)[0], world.members[world.owner(APP)]
        member = next(m for m in world.alive() if m is not root and m is not rendezvous)
        victim = {"member": member, "rendezvous": rendezvous, "root": root}[which]
        world.kill([victim])
        world.run(0.02)
        for other in world.alive():
            other.overlay.on_link_lost(victim.node_id, world.clock.now)
        world.run(gap_s)
        world.restart(victim).overlay.join_tree(APP, world.clock.now)
        world.run(gap_s)
    world.run(5)
    report = world.tree(APP)
    assert (report.whole, report.members) == (True, 12)
    assert world.cycles == 0


def test_a_slow_device_is_neither_declared_dead_nor_declares_others_dead() -> None:
    world = settled(20, members=10, seed=10, run_s=120)
    slow = by_rank(world)[1]
    dead_before = sum(m.overlay.counters["deaths"] for m in world.alive())
    slow.node.slow_s = 0.35
    world.run(300)
    assert slow.log.names().count("orphaned") == 0
    assert sum(m.overlay.counters["deaths"] for m in world.alive()) == dead_before
    assert world.tree(APP).whole


# Ranks and positions


def test_a_newcomer_of_higher_rank_dethrones_the_root() -> None:
    world = settled(40, members=20, seed=11)
    old = the_root(world)
    outsiders = [m for m in world.alive() if m.overlay.tree(APP) is None]
    newcomer = outsiders[0]
    better = replace(newcomer.overlay.contact, capacity=Capacity.GATEWAY, incarnation=1)
    while rank(better, APP) < rank(old.overlay.contact, APP):
        outsiders.pop(0)
        newcomer = outsiders[0]
        better = replace(newcomer.overlay.contact, capacity=Capacity.GATEWAY, incarnation=1)
    world.change_contact(newcomer, better)
    world.run(1)
    at = world.clock.now
    newcomer.overlay.join_tree(APP, at)
    world.run(5)
    assert the_root(world) is newcomer
    assert old.log.times("parent", APP)[-1] - at < 3  # the tracker tells it; its own renewal is up to 30 s away
    assert world.tree(APP).whole
    assert world.cycles == 0


def test_a_change_of_class_moves_a_device_in_every_tree() -> None:
    world = settled(40, members=25, seed=12)
    root = the_root(world)
    weaker = replace(root.overlay.contact, capacity=Capacity.CONSTRAINED, incarnation=1)
    world.change_contact(root, weaker)
    world.run(45)
    assert the_root(world) is by_rank(world)[0]
    assert the_root(world) is not root
    assert world.tree(APP).whole
    strongest = by_rank(world)[-1]
    world.change_contact(strongest, replace(strongest.overlay.contact, capacity=Capacity.GATEWAY, incarnation=1))
    world.run(130)
    assert the_root(world) is by_rank(world)[0]
    assert world.tree(APP).whole


def test_children_of_a_parent_that_loses_rank_find_another() -> None:
    world = settled(30, members=20, seed=13, zones=False)
    parent = next(m for m in by_rank(world)[1:] if (v := m.overlay.tree(APP)) and v.children)
    world.change_contact(parent, replace(parent.overlay.contact, capacity=Capacity.CONSTRAINED, incarnation=1))
    world.run(45)
    assert world.tree(APP).whole
    for member in by_rank(world):
        view = member.overlay.tree(APP)
        assert view is not None
        assert view.parent is None or rank(view.parent, APP) > rank(member.overlay.contact, APP)


def test_a_full_tree_stays_within_the_fan_out_and_every_parent_outranks_its_children() -> None:
    world = settled(80, members=80, seed=14, zones=False)
    for member in world.alive():
        view = member.overlay.tree(APP)
        assert view is not None
        assert len(view.children) <= 8
        for child in view.children:
            assert rank(child.contact, APP) < rank(member.overlay.contact, APP)
    report = world.tree(APP)
    assert (report.whole, report.counted) == (True, 80)
    assert max(report.depths) <= 8


def test_one_wide_area_edge_per_zone() -> None:
    world = World(devices=100, seed=15)
    world.grow(100, 20, lambda random: {"zone": random.randrange(6)})
    world.run(40)
    for member in world.alive():
        member.overlay.join_tree(APP, world.clock.now)
    world.run(150)  # a renewal of everybody: heads have heard of each other
    zones = {m.overlay.contact.zone for m in world.alive()}
    crossing = [
        m
        for m in world.alive()
        if (v := m.overlay.tree(APP)) and v.parent is not None and v.parent.zone != m.overlay.contact.zone
    ]
    assert len(zones) > 2
    assert len(crossing) == len(zones) - 1


def test_depth_root_height_and_members_ride_along_the_edges() -> None:
    world = settled(50, members=50, seed=16)
    root = the_root(world)
    world.run(20)
    for member in world.alive():
        view = member.overlay.tree(APP)
        assert view is not None
        assert view.root == root.node_id
        at, depth = member, 0
        while (parent := at.overlay.parent_of(APP)) is not None:
            at, depth = world.members[parent], depth + 1
        assert view.depth == depth
        assert view.members == 1 + sum(child.members for child in view.children)
        assert view.height == max((child.height + 1 for child in view.children), default=0)


def test_observers_hang_below_members_and_are_not_counted() -> None:
    world = settled(40, members=15, seed=17)
    watchers = [m for m in world.alive() if m.overlay.tree(APP) is None][:10]
    for watcher in watchers:
        watcher.overlay.join_tree(APP, world.clock.now, observer=True)
    world.run(20)
    for watcher in watchers:
        view = watcher.overlay.tree(APP)
        assert view is not None
        assert (view.position, view.children, view.members) == (Position.ATTACHED, (), 0)
    report = world.tree(APP)
    assert (report.whole, report.members, report.counted) == (True, 15, 15)
    late = watchers[0]
    late.overlay.join_tree(APP, world.clock.now)  # now it takes part
    world.run(40)
    report = world.tree(APP)
    assert (report.whole, report.members, report.counted) == (True, 16, 16)


def test_an_observer_without_members_waits_for_one() -> None:
    world = settled(10, seed=18)
    watcher, member = world.alive()[:2]
    watcher.overlay.join_tree(APP, world.clock.now, observer=True)
    world.run(50)
    view = watcher.overlay.tree(APP)
    assert view is not None
    assert view.position is Position.SEEKING
    member.overlay.join_tree(APP, world.clock.now)
    world.run(40)
    assert watcher.overlay.parent_of(APP) == member.node_id


# Leaving, moving, partitions


def test_a_graceful_leave_is_noticed_at_once() -> None:
    world = settled(30, members=20, seed=19)
    root, heir = by_rank(world)[:2]
    root.overlay.leave(world.clock.now)
    world.run(3)
    world.kill([root])
    world.run(5)
    assert the_root(world) is heir
    assert world.tree(APP).whole
    assert not any(c.node_id == root.node_id for m in world.alive() for c in m.overlay.contacts())
    assert world.lookups(50) == 1.0


def test_leaving_a_tree_keeps_the_rest_together() -> None:
    world = settled(30, members=20, seed=20)
    for member in by_rank(world)[1:4]:
        member.overlay.leave_tree(APP, world.clock.now)
        assert member.overlay.tree(APP) is None
    world.run(10)
    report = world.tree(APP)
    assert (report.whole, report.members, report.counted) == (True, 17, 17)


def test_a_device_moves_to_another_zone() -> None:
    world = settled(40, members=40, seed=21)
    zones = sorted({m.overlay.contact.zone for m in world.alive()})
    mover = next(m for m in by_rank(world)[5:] if m.overlay.contact.zone == zones[0])
    old, new = zones[0], zones[1]
    world.change_contact(mover, replace(mover.overlay.contact, zone=new, incarnation=1))
    world.run(150)
    assert {c.zone for c in mover.overlay.zone_leaves()} == {new}
    for member in world.alive():
        leaves = {c.node_id for c in member.overlay.zone_leaves()}
        assert member.overlay.contact.zone == new or mover.node_id not in leaves
    tracker = world.members[world.owner(zone_key(old))]
    assert mover.node_id not in {c.node_id for c in tracker.overlay._tracker.members(zone_key(old))}
    assert world.tree(APP).whole
    assert world.lookups(50) == 1.0


def test_partitions_go_on_alone_and_merge() -> None:
    world = settled(60, members=30, seed=22)
    side = {m.node_id: world.random.random() < 0.5 for m in world.alive()}
    world.network.sides = lambda node: side[node.contact.node_id]
    world.run(200)
    assert world.tree(APP).roots == 2
    world.network.sides = None
    world.run(120)
    assert world.tree(APP).whole
    assert world.lookups(100) == 1.0
    assert world.cycles == 0


def test_a_part_whose_devices_were_all_replaced_during_the_cut_finds_the_other_one() -> None:
    """Nobody of this part has ever spoken to the other one: whom its predecessors had lost is handed on."""
    world = settled(16, members=10, seed=26)
    side = {m.overlay.contact.host: index % 2 for index, m in enumerate(world.alive())}
    world.network.sides = lambda node: side[node.contact.host]
    world.run(90)
    for old in [member for member in world.alive() if side[member.overlay.contact.host] == 0]:
        others = [m for m in world.alive() if m is not old and side[m.overlay.contact.host] == 0]
        contact = replace(old.overlay.contact, node_id=world.random.getrandbits(64), incarnation=0)
        world.kill([old])
        new = world.add(contact)
        new.overlay.bootstrap([m.overlay.contact for m in others[:3]], new.now)
        new.overlay.start(new.now)
        world.run(20)
        assert new.overlay.joined
    world.run(90)
    world.network.sides = None
    assert not world.is_torn()
    world.run(200)
    assert world.lookups(100) == 1.0


def test_a_restart_during_a_cut_forgets_nobody() -> None:
    world = settled(12, members=6, seed=27)
    side = {m.overlay.contact.host: index % 2 for index, m in enumerate(world.alive())}
    world.network.sides = lambda node: side[node.contact.host]
    world.run(90)
    for member in [m for m in world.alive() if side[m.overlay.contact.host] == 0]:
        cut_off = {m.node_id for m in world.alive() if side[m.overlay.contact.host] == 1}
        assert cut_off & {contact.node_id for contact in member.overlay.lost()}
        world.kill([member])
        assert cut_off & {contact.node_id for contact in world.restart(member).overlay.lost()}
    world.run(60)
    world.network.sides = None
    world.run(200)
    assert world.lookups(60) == 1.0


def test_after_a_total_outage_the_fleet_finds_itself_again() -> None:
    world = settled(30, members=15, seed=23)
    world.network.sides = lambda node: node.contact.node_id
    world.run(240)
    assert not any(m.overlay.joined for m in world.alive())
    assert all(m.log.times("isolated") for m in world.alive())
    world.network.sides = None
    world.run(150)
    assert all(m.overlay.joined for m in world.alive())
    assert world.lookups(100) == 1.0
    assert world.tree(APP).whole


def test_after_a_power_cut_somebody_begins() -> None:
    world = settled(20, seed=24)
    members = world.alive()
    contacts = {m.node_id: list(m.overlay.contacts()) for m in members}
    world.kill(members)
    world.run(10)
    again = []
    for member in members:
        contact = replace(member.overlay.contact, incarnation=1)
        back = world.add(contact)
        back.overlay.bootstrap(contacts[member.node_id], world.clock.now)
        back.overlay.start(world.clock.now)
        again.append(back)
    world.run(12)
    assert not any(m.overlay.joined for m in again)  # nobody founds an island at once
    world.run(120)
    assert all(m.overlay.joined for m in again)
    assert world.lookups(100) == 1.0


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_two_devices_lose_each_other_and_a_third_knows_only_one(seed: int) -> None:
    world = World(devices=3, seed=seed)
    world.grow(2, 2)
    world.run(60)
    first, second = world.alive()
    world.kill([second])
    world.run(60)
    assert not first.overlay.joined
    third = world.add()
    world.start(third)
    world.run(40)
    assert first.overlay.joined
    assert third.overlay.joined
    assert {c.node_id for c in third.overlay.contacts()} == {first.node_id}
    again = world.restart(second)
    world.run(20)
    assert len(again.overlay.contacts()) == 2


def test_devices_that_cannot_be_dialled_take_part_as_leaves() -> None:
    world = World(devices=50, seed=25)
    numbers = iter(range(1000))

    def some_behind_nat(random: Random) -> dict[str, Any]:
        return {"role": Role.LEAF} if next(numbers) > 3 and random.random() < 0.4 else {}

    world.grow(50, 20, some_behind_nat)
    world.run(60)
    leaves = [m for m in world.alive() if not m.overlay.contact.dialable]
    assert len(leaves) > 10
    assert all(m.overlay.joined for m in world.alive())
    for member in world.alive():
        assert all(c.dialable for c in member.overlay.contacts())
        member.overlay.join_tree(APP, world.clock.now)
    world.run(40)
    report = world.tree(APP)
    assert (report.whole, report.counted) == (True, 50)
    assert all(not m.overlay.tree(APP).children for m in leaves)  # type: ignore[union-attr]
    requests = [(m, m.overlay.lookup(APP, world.clock.now)) for m in leaves]
    world.run(12)
    for member, request in requests:
        owner, _ = member.log.lookups[request]
        assert owner is not None
        dialable = [m.node_id for m in world.alive() if m.overlay.contact.dialable]
        assert owner.node_id == min(dialable, key=lambda i: i ^ APP)


def test_constant_churn_is_survived() -> None:
    world = settled(50, members=30, seed=26)
    for _ in range(30):
        world.run(5)
        victim = world.random.choice(world.alive())
        world.kill([victim])
        newcomer = world.add()
        world.start(newcomer)
        newcomer.overlay.join_tree(APP, world.clock.now)
    world.run(60)
    assert world.tree(APP).whole
    assert world.lookups(100) >= 0.99
    assert world.cycles == 0
