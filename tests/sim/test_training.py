"""The shipped overlay and the shipped learning layer together, under virtual time."""

from __future__ import annotations

from random import Random

import numpy as np

from edgefl.sim import World, run_fleet
from edgefl.sim.training import LearningDevice, Transfers, make_application


def test_half_of_the_devices_vanish_and_the_rest_trains_to_the_end() -> None:
    document = run_fleet(nodes=80, apps=2, members=30, rounds=15, churn=0.5, seed=3)
    assert document["cycles"] == 0
    assert document["model_bytes"] > 0
    for app in document["apps"]:
        assert (app["attached"], app["roots"]) == (app["members"], 1)
        assert (app["rounds"], app["finished"]) == (15, app["members"])
        assert app["backwards"] == 0


def test_lost_packets_slow_training_down_but_do_not_stop_it() -> None:
    document = run_fleet(nodes=40, apps=1, members=15, rounds=5, churn=0.2, loss=0.02, seed=5)
    app = document["apps"][0]
    assert (app["rounds"], app["finished"], app["backwards"]) == (5, app["members"], 0)


def test_the_same_seed_gives_the_same_training() -> None:
    first, again = (run_fleet(nodes=40, apps=1, members=12, rounds=4, churn=0.5, seed=9) for _ in range(2))
    for run in (first, again):
        del run["cpu_seconds"], run["object_bytes_per_node"]
    assert first == again


def test_a_parent_that_loses_its_power_in_a_round_is_replaced_within_seconds() -> None:
    """Nobody hears of it: the learning layer has told the overlay that a round is open, and its children ask."""
    learners: dict[int, LearningDevice] = {}
    transfers = Transfers()
    world = World(devices=40, seed=3, equip=lambda member: [LearningDevice(member, learners, transfers)])
    world.grow(40, 20.0)
    world.run(30.0)
    for member in world.alive():
        learners[member.node_id].data.add("digits")
    manifest = make_application("digits", "digits", rounds=50, min_members=40, quorum=0.5, seed=1)
    app = manifest.app_id
    learners[world.alive()[0].node_id].create(manifest, world.clock.now)
    world.run(60.0)
    views = {member.node_id: member.overlay.tree(app) for member in world.alive()}
    inner = [member for member in world.alive() if (view := views[member.node_id]) and view.parent and view.children]
    assert inner
    newest = max(learner.learning.applications[app].worker.newest for learner in learners.values())
    assert newest > (0, 1, 0)
    world.kill([inner[0]])
    world.run(6.0)
    assert world.tree(app).whole
    world.run(20.0)
    for member in world.alive():
        assert learners[member.node_id].learning.applications[app].worker.newest > newest
    assert learners[member.node_id].backwards == 0


def test_devices_that_stand_still_now_and_then_cost_few_rounds() -> None:
    """Every ten seconds one of twelve stops for 2 to 8 s, as where a machine is overloaded: a third of the attempts
    failed, and two rounds of five missed somebody."""
    learners: dict[int, LearningDevice] = {}
    transfers = Transfers()
    world = World(devices=12, seed=2, zones=False, equip=lambda member: [LearningDevice(member, learners, transfers)])
    world.grow(12, 10.0)
    world.run(20.0)
    for member in world.alive():
        learners[member.node_id].data.add("digits")
    manifest = make_application("digits", "digits", rounds=10_000, min_members=12, quorum=0.5, seed=1)
    learners[world.alive()[0].node_id].create(manifest, world.clock.now)
    world.run(30.0)
    applications = [learner.learning.applications[manifest.app_id] for learner in learners.values()]

    def failed() -> int:
        return sum(app.counters.get("round_failed", 0) for app in applications)

    before, chance = failed(), Random(2)
    for _ in range(20):
        chance.choice(world.alive()).node.asleep_until = world.clock.now + chance.uniform(2, 8)
        world.run(10.0)
    participants = {record.round: record.participants for app in applications for record in app.ledger.history.all()}
    assert failed() - before <= 2
    assert sum(count == 12 for number, count in participants.items() if number) >= 0.75 * (len(participants) - 1)
    assert world.cycles == 0


def test_a_quiet_fleet_finds_the_weighted_mean() -> None:
    """Found through the directory, placed by rank, averaged over the tree: the closed-form answer comes out."""
    learners: dict[int, LearningDevice] = {}
    transfers = Transfers()
    world = World(devices=30, seed=2, equip=lambda member: [LearningDevice(member, learners, transfers)])
    world.grow(30, 20.0)
    world.run(30.0)
    members = world.alive()[:20]
    for member in members:
        learners[member.node_id].data.add("digits")
    creator = learners[world.alive()[-1].node_id]  # has no data itself: it only watches
    manifest = make_application("digits", "digits", rounds=6, min_members=20, quorum=1.0, seed=1)
    creator.create(manifest, world.clock.now)
    world.run(200.0)
    targets = [learners[member.node_id]._target for member in members]
    samples = [learners[member.node_id]._samples for member in members]
    expected = (1 - 0.5**6) * np.average(targets, axis=0, weights=samples)
    for device in [*(learners[member.node_id] for member in members), creator]:
        app = device.learning.applications[manifest.app_id]
        assert app.ledger.finished
        assert app.ledger.model is not None
        model = np.frombuffer(device._blobs[app.ledger.model.id], "<f4")
        np.testing.assert_allclose(model, expected, rtol=1e-4, atol=1e-5)
    for member in world.alive()[20:-1]:
        assert learners[member.node_id].learning.applications == {}
    root = next(
        d
        for d in learners.values()
        if manifest.app_id in d.saved and d.learning.applications[manifest.app_id].tree.is_root
    )  # type: ignore[union-attr]
    records = root.learning.applications[manifest.app_id].ledger.history.all()
    assert [record.participants for record in records] == [0] + [20] * 6


def test_buffered_rounds_of_a_lottery_go_on_while_devices_vanish() -> None:
    """Everything at once, over the real overlay: devices of very different speed, lots, buffers, and losses."""
    learners: dict[int, LearningDevice] = {}
    transfers = Transfers()
    world = World(devices=50, seed=4, equip=lambda member: [LearningDevice(member, learners, transfers)])
    world.grow(50, 20.0)
    world.run(30.0)
    for number, member in enumerate(world.alive()):
        learners[member.node_id].data.add("digits")
        if number % 10 == 0:
            learners[member.node_id]._speed = 30.0
    manifest = make_application(
        "digits",
        "digits",
        rounds=25,
        min_members=50,
        quorum=0.3,
        seed=1,
        deadline_s=600.0,
        pace="buffered:goal=0.8,floor=2",
        select=30,
    )
    app = manifest.app_id
    learners[world.alive()[0].node_id].create(manifest, world.clock.now)
    world.run(250.0)
    before = max(learner.learning.applications[app].ledger.round for learner in learners.values())
    assert 2 <= before < 25
    world.kill(world.random.sample(world.alive(), 15))
    world.run(600.0)
    alive = [learners[member.node_id].learning.applications[app] for member in world.alive()]
    assert all(application.ledger.finished for application in alive)
    assert all(learners[member.node_id].backwards == 0 for member in world.alive())
    records = alive[0].ledger.history.all()
    assert max(record.stalest for record in records) > 0
    paced = [record.seconds for record in records[2:] if record.attempts == 1]
    assert sorted(paced)[len(paced) // 2] < 30.0  # the slow ones take 90 s


def test_zones_train_by_themselves_between_global_rounds_while_devices_vanish() -> None:
    """Over the real overlay, with the zones that it has found and the heads that its tree has."""
    learners: dict[int, LearningDevice] = {}
    transfers = Transfers()
    world = World(devices=60, seed=6, equip=lambda member: [LearningDevice(member, learners, transfers)])
    world.grow(60, 20.0)
    world.run(90.0)
    for member in world.alive():
        learners[member.node_id].data.add("digits")
    manifest = make_application(
        "digits", "digits", rounds=12, min_members=60, quorum=0.3, seed=1, deadline_s=120.0, zone_rounds=3
    )
    app = manifest.app_id
    learners[world.alive()[0].node_id].create(manifest, world.clock.now)
    world.run(120.0)
    zones = {member.overlay.contact.zone for member in world.alive()}
    assert len(zones) > 1
    heads = [learner for learner in learners.values() if learner.learning.applications[app].zones.leads]  # type: ignore[union-attr]
    assert len(zones) <= len(heads) <= len(zones) + 5
    reached = max(learner.learning.applications[app].ledger.round for learner in learners.values())
    assert 2 <= reached < 12
    world.kill(world.random.sample(world.alive(), 15))
    world.run(500.0)
    alive = [learners[member.node_id] for member in world.alive()]
    assert all(learner.learning.applications[app].ledger.finished for learner in alive)
    assert all(learner.backwards == 0 for learner in alive)
    records = {record.round: record for record in alive[0].learning.applications[app].ledger.history.all()}
    assert [records[number].participants for number in range(1, 4)] == [60] * 3
    assert records[12].participants >= 40
