"""Fleets in which most members cannot be dialled: without volunteers places run out, with them everybody takes part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgefl.sim.training import LearningDevice, Transfers, make_application
from edgefl.sim.world import Member, World
from edgefl.wire import Message, Role
from edgefl.wire.blob import ref_of
from edgefl.wire.learning import Replica
from edgefl.wire.overlay import Scope

if TYPE_CHECKING:
    from edgefl.effects import TimerKey

APP = 777


class Willing:
    """The owner of a device that says yes whenever its help is wanted."""

    def __init__(self, member: Member) -> None:
        self._member = member
        member.log.listeners.append(self)

    def on_help_wanted(self, app: int, scope: Scope, now: float) -> None:
        self._member.overlay.join_tree(app, now, helper=True, scope=scope)

    def on_message(self, sender: Any, message: Message, now: float) -> bool:
        return False

    def on_timer(self, key: TimerKey, now: float) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("on_"):
            return lambda *_: None
        raise AttributeError(name)


def fleet(world: World, *, others: int, nodes: int, leaves: int, helpers: int) -> list[Member]:
    """A fleet that has joined; its members are the `nodes` and `leaves`."""
    roles = [Role.NODE] * (others + nodes) + [Role.LEAF] * leaves + [Role.HELPER] * helpers
    coming = iter(roles)
    world.grow(len(roles), 20.0, lambda random: {"role": next(coming)})
    world.run(30.0)
    return list(world.members.values())[others : others + nodes + leaves]


def helpers_of(world: World, app: int = APP) -> list[Member]:
    return [member for member in world.alive() if (view := member.overlay.tree(app)) is not None and view.helper]


@pytest.mark.parametrize("scope", Scope)
def test_leaves_that_find_no_place_get_helpers_as_many_as_they_need(scope: Scope) -> None:
    world = World(devices=60, seed=1, zones=False, equip=lambda member: [Willing(member)])
    members = fleet(world, others=10, nodes=2, leaves=28, helpers=6)
    for member in members:
        member.overlay.join_tree(APP, member.now, scope=scope)
    world.run(180.0)
    after = world.tree(APP)
    assert after.whole
    assert after.members == after.counted == 30, "nobody counts a helper"
    assert len(helpers_of(world)) == 2, "two nodes have places for one of them and 15 leaves, two helpers for the rest"
    assert world.cycles == 0


def test_without_helpers_they_stay_outside() -> None:
    world = World(devices=60, seed=1, zones=False, equip=lambda member: [Willing(member)])
    for member in fleet(world, others=16, nodes=2, leaves=28, helpers=0):
        member.overlay.join_tree(APP, member.now)
    world.run(180.0)
    assert (world.tree(APP).attached, world.tree(APP).roots) == (17, 1)
    assert helpers_of(world) == []


def test_helpers_leave_when_nobody_needs_them_any_more() -> None:
    world = World(devices=40, seed=2, zones=False, equip=lambda member: [Willing(member)])
    members = fleet(world, others=8, nodes=1, leaves=12, helpers=3)
    for member in members:
        member.overlay.join_tree(APP, member.now)
    world.run(120.0)
    assert world.tree(APP).whole
    (helper,) = helpers_of(world)
    for child in helper.overlay.tree(APP).children:  # type: ignore[union-attr]
        leaf = world.members[child.contact.node_id]
        leaf.overlay.leave_tree(APP, leaf.now)
    world.run(500.0)
    assert helpers_of(world) == []
    assert world.tree(APP).whole
    assert helper.log.times("dismissed", APP)


def test_a_tree_whose_last_parents_vanish_is_not_rooted_by_a_helper() -> None:
    world = World(devices=40, seed=3, zones=False, equip=lambda member: [Willing(member)])
    members = fleet(world, others=8, nodes=1, leaves=12, helpers=3)
    for member in members:
        member.overlay.join_tree(APP, member.now)
    world.run(120.0)
    assert helpers_of(world)
    world.kill([member for member in members if member.overlay.contact.role is Role.NODE])
    world.run(150.0)
    assert not any(member.overlay.tree(APP).is_root for member in helpers_of(world))  # type: ignore[union-attr]
    assert world.tree(APP).roots == 1
    assert world.cycles == 0


def test_a_round_through_a_helper_is_exact_and_its_quorum_counts_members_alone() -> None:
    learners: dict[int, LearningDevice] = {}
    transfers = Transfers()
    world = World(devices=40, seed=4, zones=False, equip=lambda member: [LearningDevice(member, learners, transfers)])
    members = fleet(world, others=8, nodes=2, leaves=24, helpers=4)
    for member in members:
        learners[member.node_id].data.add("digits")
    manifest = make_application("digits", "digits", rounds=4, min_members=26, quorum=1.0, seed=1)
    learners[members[0].node_id].create(manifest, world.clock.now)
    app = manifest.app_id
    world.run(2.0)
    for member in world.alive():
        member.overlay.discover(member.now)  # rumours do not go to those that nobody can dial
    world.run(150.0)
    helpers = helpers_of(world, app)
    assert helpers
    below = [child for helper in helpers for child in helper.overlay.tree(app).children]  # type: ignore[union-attr]
    assert len(below) >= 9
    world.run(100.0)
    targets = [learners[member.node_id]._target for member in members]
    samples = [learners[member.node_id]._samples for member in members]
    expected = (1 - 0.5**4) * np.average(targets, axis=0, weights=samples)
    for member in [*members, *helpers]:
        mine = learners[member.node_id].learning.applications[app]
        assert mine.ledger.finished
        assert mine.ledger.model is not None
        model = np.frombuffer(learners[member.node_id]._blobs[mine.ledger.model.id], "<f4")
        np.testing.assert_allclose(model, expected, rtol=1e-4, atol=1e-5)
    root = next(member for member in members if member.overlay.tree(app).is_root)  # type: ignore[union-attr]
    records = learners[root.node_id].learning.applications[app].ledger.history.all()
    assert [record.participants for record in records] == [0] + [26] * 4
    for helper in helpers:
        assert learners[helper.node_id].learning.applications[app].stage.value == "helper"
        assert learners[helper.node_id].data == set()


def test_a_helper_takes_no_replica_and_becomes_a_member_when_it_has_the_data() -> None:
    learners: dict[int, LearningDevice] = {}
    transfers = Transfers()
    world = World(devices=30, seed=5, zones=False, equip=lambda member: [LearningDevice(member, learners, transfers)])
    members = fleet(world, others=8, nodes=1, leaves=8, helpers=1)
    for member in members:
        learners[member.node_id].data.add("digits")
    manifest = make_application("digits", "digits", rounds=9, min_members=9, quorum=0.5, seed=1)
    learners[members[0].node_id].create(manifest, world.clock.now)
    app = manifest.app_id
    world.run(2.0)
    helper = world.alive()[-1]
    helping = learners[helper.node_id].learning
    helping.on_help_wanted(app + 1, helper.now)
    assert helping.applications == {}, "nobody has heard of that one"
    helping.on_help_wanted(app, helper.now)
    assert helping.applications[app].helper
    world.run(4.0)
    assert helpers_of(world, app) == [helper]
    root = members[0].overlay.contact
    helping.applications[app].replicas.on_replica(root, Replica(app, 0, 1, ref_of(b"x")), helper.now)
    assert helping.applications[app].counters["replica_not_from_root"] == 1
    advert = next(advert for advert in helper.overlay.adverts() if advert.decode_manifest().app_id == app)
    helping.on_advert(advert, helper.now)
    assert helping.applications[app].helper, "without the data nothing changes"
    learners[helper.node_id].data.add("digits")
    helping.on_advert(advert, helper.now)
    world.run(4.0)
    assert helping.applications[app].stage.value == "member"
    assert helpers_of(world, app) == []
    view = helper.overlay.tree(app)
    assert view is not None
    assert view.members >= 1
