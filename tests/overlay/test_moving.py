"""Given a fleet with a tree, when devices change their address or can no longer be dialled, then the others follow."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.overlay_contacts import contact
from support.solo import SoloOverlay

from edgefl.overlay.ids import zone_key
from edgefl.sim.fleet import app_id
from edgefl.sim.training import LearningDevice, Transfers, make_application
from edgefl.sim.world import Member, World
from edgefl.wire import Role
from edgefl.wire.overlay import Announce, RowGossip, TreeBeat

APP = app_id(0, 0)
OWN = 1 << 62


def settled(seed: int, devices: int = 30) -> World:
    world = World(devices=devices, seed=seed)
    world.grow(devices, 20)
    world.run(60)
    for member in world.alive():
        member.overlay.join_tree(APP, world.clock.now)
    world.run(30)
    assert world.tree(APP).whole
    return world


def move(world: World, member: Member) -> None:
    """A new lease from a DHCP server: from now on nothing arrives at the old address."""
    own = member.overlay.contact
    octets = own.host.split(".")
    host = ".".join([str(int(octets[0]) + 1), *octets[1:]])
    world.change_contact(member, replace(own, host=host, incarnation=own.incarnation + 1))


def be_leaf(world: World, member: Member, role: Role = Role.LEAF) -> None:
    own = member.overlay.contact
    world.change_contact(member, replace(own, role=role, incarnation=own.incarnation + 1))


def known_contacts(world: World, node_id: int) -> set[tuple[str, Role]]:
    """How the others have this device in their tables and trees."""
    found = set()
    for other in world.alive():
        view = other.overlay.tree(APP)
        tree = () if view is None else (*[child.contact for child in view.children], view.parent)
        for known in (*other.overlay.contacts(), *tree):
            if known is not None and known.node_id == node_id and other.node_id != node_id:
                found.add((known.host, known.role))
    return found


def the_root(world: World) -> Member:
    (root,) = [m for m in world.alive() if (view := m.overlay.tree(APP)) is not None and view.is_root]
    return root


@pytest.mark.parametrize("seed", [41, 42])
@pytest.mark.parametrize("which", ["root", "interior", "leaf", "tracker", "ten"])
def test_a_device_with_a_new_address_is_followed_and_the_tree_heals(which: str, seed: int) -> None:
    world = settled(seed)
    root = the_root(world)
    others = [m for m in world.alive() if m is not root]
    chosen = {
        "root": [root],
        "interior": [m for m in others if m.overlay.tree(APP).children][:1],  # type: ignore[union-attr]
        "leaf": [m for m in others if not m.overlay.tree(APP).children][:1],  # type: ignore[union-attr]
        "tracker": [world.members[world.owner(APP)]],
        "ten": world.random.sample(others, 10),
    }[which]
    assert chosen
    deaths = sum(m.overlay.counters["deaths"] for m in world.alive())
    for member in chosen:
        move(world, member)
    world.run(6)
    assert world.tree(APP).whole, "within six seconds, as after a failure"
    world.run(60)
    assert world.tree(APP).whole
    assert world.lookups(60) == 1.0
    for member in chosen:
        assert known_contacts(world, member.node_id) == {(member.overlay.contact.host, Role.NODE)}
    assert world.cycles == 0
    if which != "ten":  # devices that move together may miss each other's news, and find each other again
        assert sum(m.overlay.counters["deaths"] for m in world.alive()) == deaths, "nobody took it for dead"


def test_a_device_that_moves_while_messages_are_lost_is_followed_too() -> None:
    world = settled(43)
    world.network.faults.loss = 0.1
    chosen = world.random.sample(world.alive(), 8)
    for member in chosen:
        move(world, member)
        world.run(1)
    world.run(90)
    world.network.faults.loss = 0.0
    world.run(30)
    assert world.tree(APP).whole
    assert world.lookups(60) == 1.0
    for member in chosen:
        assert known_contacts(world, member.node_id) == {(member.overlay.contact.host, Role.NODE)}


def test_devices_that_move_in_the_middle_of_rounds_lose_none() -> None:
    """The root, an interior device and others get new addresses while an application trains: it goes on to its end, and
    nobody's round ever goes backwards."""
    devices: dict[int, LearningDevice] = {}
    transfers = Transfers()

    def equip(member: Member) -> list[LearningDevice]:
        return [LearningDevice(member, devices, transfers)]

    world = World(devices=20, seed=46, equip=equip)
    world.grow(20, 15)
    world.run(40)
    for device in devices.values():
        device.data.add("d")
    manifest = make_application("a", "d", rounds=6, min_members=20, quorum=0.5, seed=46)
    owner = next(iter(devices.values()))
    owner.create(manifest, world.clock.now)

    def rounds() -> list[int]:
        found = [device.learning.applications.get(manifest.app_id) for device in devices.values()]
        return [-1 if app is None else app.ledger.round for app in found]

    def root() -> Member:
        app = manifest.app_id
        return next(m for m in world.alive() if (view := m.overlay.tree(app)) is not None and view.is_root)

    for number in range(1, 5):
        for _ in range(600):
            if max(rounds()) >= number:
                break
            world.run(0.5)
        moving = {root().node_id, *world.random.sample(sorted(devices), 4)}
        for node_id in moving:
            move(world, world.members[node_id])
    for _ in range(400):
        if min(rounds()) == 6:
            break
        world.run(1)
    assert rounds() == [6] * 20
    assert sum(device.backwards for device in devices.values()) == 0
    assert world.cycles == 0


def test_hearsay_of_the_old_address_does_not_win() -> None:
    """Given a peer that has moved, when others still gossip its old address, then messages go to the new one."""
    peer, gossip = contact(OWN ^ 1), contact(OWN ^ 3)
    world = SoloOverlay(OWN).start(peer, gossip)
    moved = replace(peer, host="172.16.0.9", incarnation=peer.incarnation + 1)
    world.receive(moved, Announce())
    world.sent.clear()
    for _ in range(3):
        world.receive(gossip, RowGossip(0, False, (peer,)))
        world.receive(peer, TreeBeat(()))  # and an old message of its own, overtaken on the way
        world.advance(1.0)
    assert moved in world.overlay.contacts()
    assert {to.host for to, _ in world.sent if to.node_id == peer.node_id} <= {moved.host}


def test_a_device_that_is_found_to_be_out_of_reach_becomes_a_leaf_everywhere_and_comes_back() -> None:
    world = settled(44)
    chosen = [the_root(world), world.members[world.owner(zone_key(the_root(world).overlay.contact.zone))]]
    chosen += world.random.sample([m for m in world.alive() if m not in chosen], 6)
    for member in chosen:
        be_leaf(world, member)
    world.run(60)
    report = world.tree(APP)
    assert report.whole
    assert report.counted == 30
    for member in chosen:
        view = member.overlay.tree(APP)
        assert view is not None
        assert not view.children
        assert not view.is_root
        assert {role for _, role in known_contacts(world, member.node_id)} <= {Role.LEAF}
        assert not any(member.node_id in {c.node_id for c in other.overlay.contacts()} for other in world.alive())
    for member in chosen:
        be_leaf(world, member, Role.NODE)
    world.run(60)
    assert world.tree(APP).whole
    assert world.lookups(60) == 1.0
    for member in chosen:
        assert {role for _, role in known_contacts(world, member.node_id)} == {Role.NODE}


@pytest.mark.parametrize("asleep_s", [20.0, 600.0])
def test_a_laptop_that_was_suspended_comes_back_by_itself(asleep_s: float) -> None:
    """Its clock stands still, its timers fire late, and what was sent to it is gone: then it is a member again."""
    world = settled(45)
    sleeper = world.random.choice([m for m in world.alive() if m is not the_root(world)])
    wakes_at = world.clock.now + asleep_s
    fire, receive = type(sleeper.node)._fire, type(sleeper.node).receive

    class Asleep(type(sleeper.node)):  # type: ignore[misc]
        __slots__ = ()

        def _fire(self, key: object, serial: int) -> None:
            if world.clock.now < wakes_at:
                world.clock.at(wakes_at, self._fire, key, serial)
            else:
                fire(self, key, serial)  # type: ignore[arg-type]

        def receive(self, sender: object, message: object) -> None:
            if world.clock.now >= wakes_at:
                receive(self, sender, message)  # type: ignore[arg-type]

    sleeper.node.__class__ = Asleep
    world.run(asleep_s + 90)
    assert sleeper.overlay.joined
    assert world.tree(APP).whole
    assert world.lookups(60) == 1.0
    assert known_contacts(world, sleeper.node_id) == {(sleeper.overlay.contact.host, Role.NODE)}
