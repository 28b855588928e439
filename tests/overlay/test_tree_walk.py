"""A walk sees the whole tree from any of its devices, and no more than it should."""

from __future__ import annotations

from support.overlay_contacts import contact
from support.solo import SoloOverlay

from edgefl.overlay import tree_walk
from edgefl.overlay.tree_walk import MAX_DEVICES, MAX_WALKS, PARALLEL, Seen
from edgefl.sim.world import World
from edgefl.wire.overlay import Scope
from edgefl.wire.tree_walk import MAX_NEIGHBOURS, TreeAsk, TreeTold

APP = 5


def grown(devices: int, **how) -> World:
    world = World(devices=devices, seed=3, **how)
    world.grow(devices, 10.0)
    world.run(30.0)
    for member in world.members.values():
        member.overlay.join_tree(APP, member.now)
    world.run(60.0)
    assert world.tree(APP).whole
    return world


def walk(world: World, member) -> tuple[Seen, ...]:
    outcomes: list[tuple[Seen, ...]] = []
    assert member.overlay.walk_tree(APP, member.now, outcomes.append)
    world.run(60.0)
    (outcome,) = outcomes
    return outcome


def test_every_device_sees_the_whole_tree():
    world = grown(40)
    for member in list(world.members.values())[::7]:
        seen = walk(world, member)
        assert {one.contact.node_id: one.parent for one in seen} == {
            node_id: other.overlay.parent_of(APP) for node_id, other in world.members.items()
        }
        assert all(one.told is not None for one in seen)


def test_who_does_not_answer_is_seen_by_the_word_of_its_parent():
    world = grown(30)
    root = next(m for m in world.members.values() if m.overlay.tree(APP).is_root)
    leaf = next(m for m in world.members.values() if not m.overlay.tree(APP).children)
    parent = leaf.overlay.parent_of(APP)
    outcomes: list[tuple[Seen, ...]] = []
    world.kill([leaf])
    root.overlay.walk_tree(APP, root.now, outcomes.append)
    world.run(15.0)
    dead = next(one for one in outcomes[0] if one.contact.node_id == leaf.node_id)
    assert (dead.told, dead.parent) == (None, parent)
    assert len(outcomes[0]) == 30


def test_walks_are_few_and_bounded(monkeypatch):
    monkeypatch.setattr(tree_walk, "MAX_DEVICES", 30)
    world = SoloOverlay().start(*(contact(100 + number) for number in range(3)))
    overlay, outcomes = world.overlay, []
    for app in range(MAX_WALKS):
        overlay.join_tree(app, world.now)
        world.overlay._walks._place = lambda app: TreeTold(app, True, None, tuple(contact(i) for i in range(100, 112)))
        assert overlay.walk_tree(app, world.now, outcomes.append)
    assert overlay.walk_tree(0, world.now, outcomes.append)
    assert not overlay.walk_tree(MAX_WALKS, world.now, outcomes.append)
    asked = [(to, message) for to, message in world.sent if isinstance(message, TreeAsk)]
    assert len(asked) == MAX_WALKS * PARALLEL
    for number in range(100, 400):
        children = tuple(contact(1000 + 12 * number + child) for child in range(MAX_NEIGHBOURS))
        for app in range(MAX_WALKS):
            world.receive(contact(number), TreeTold(app, True, None, children))
    world.advance(60.0)
    assert len(outcomes) == MAX_WALKS + 1
    assert all(len(outcome) == 30 for outcome in outcomes)
    assert MAX_DEVICES > 500


def test_other_zones_do_not_see_the_tree_of_a_zone():
    world = SoloOverlay(zone=7).start(contact(1, zone=7), contact(2, zone=8))
    world.overlay.join_tree(APP, world.now, scope=Scope.ZONE)
    world.sent.clear()
    for asker in (contact(1, zone=7), contact(2, zone=8)):
        world.receive(asker, TreeAsk(APP))
    told = [to.node_id for to, message in world.sent if isinstance(message, TreeTold)]
    assert told == [1]
