"""Consensus applications over their tree, in the small world: everybody a model of its own, and one end for all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.learning_world import Device, World, make_advert, make_contact, make_manifest

from edgefl.learning.consensus.application import ConsensusApplication
from edgefl.learning.consensus.device import AGAIN_S
from edgefl.learning.consensus.surroundings import Stage
from edgefl.learning.effects import Prepared
from edgefl.learning.manifest import ManifestError, check_manifest
from edgefl.wire import Contact
from edgefl.wire.application import AppState, Target, Topology
from edgefl.wire.consensus import Introduction, Mass, NeighbourModel, NormShare
from edgefl.wire.learning import RoundKind, Update

OPTIONS = "sync_slots=1,sync_slot_s=0.5,slot_s=5"


def world_of(
    devices: int,
    *,
    observers: tuple[int, ...] = (),
    seed: int = 1,
    loss: float = 0.0,
    options: str = OPTIONS,
    **changes: Any,
) -> World:
    """A binary tree of devices; device 1 is the root."""
    changes = {
        "topology": Topology.CONSENSUS,
        "topology_options": options,
        "rounds": 6,
        "min_members": devices - len(observers),
        **changes,
    }
    world = World(devices, seed=seed, loss=loss, manifest=make_manifest(**changes))
    world.start({number: number // 2 for number in range(2, devices + 1)}, observers=observers)
    return world


def app_of(device: Device) -> ConsensusApplication:
    app = device.any_app
    assert isinstance(app, ConsensusApplication)
    return app


def apps(world: World) -> list[ConsensusApplication]:
    return [app_of(device) for device in world.devices.values() if device.alive]


def all_finished(world: World) -> bool:
    return all(app.ledger.finished for app in apps(world))


def in_round(world: World, number: int, round_: int) -> bool:
    return app_of(world.devices[number]).round >= round_


def test_everybody_ends_with_a_model_of_its_own_near_that_of_the_others() -> None:
    world = world_of(9)
    world.run(lambda: all_finished(world), 400)
    models = [world.model_of(number) for number in world.devices]
    assert len({model.tobytes() for model in models}) > 4, "children of one parent may end alike"
    mean = np.average(
        [d.target for d in world.devices.values()], axis=0, weights=[d.samples for d in world.devices.values()]
    )
    spread = max(float(np.linalg.norm(d.target - mean)) for d in world.devices.values())
    assert max(float(np.linalg.norm(model - mean)) for model in models) < 0.7 * spread
    assert all(app.ledger.round == 6 for app in apps(world))
    assert all(device.saved[world.app_id].finished for device in world.devices.values())
    for number, device in world.devices.items():
        saved = np.frombuffer(device.durable[device.saved[world.app_id].model.id], "<f4")
        np.testing.assert_array_equal(saved, world.model_of(number))


def test_a_single_merge_at_the_end_is_the_mean_of_all_models_by_samples() -> None:
    world = world_of(9, options=f"{OPTIONS},merge=1", observers=(8,))
    own: dict[int, np.ndarray] = {}

    def remember() -> bool:
        for number, device in world.devices.items():
            app = app_of(device)
            if number != 8 and app.device.stage is Stage.DONE and app.device.vector is not None:
                own.setdefault(number, app.device.vector.copy())
        return all_finished(world)

    world.run(remember, 400)
    mean = np.average(list(own.values()), axis=0, weights=[world.devices[number].samples for number in own])
    for number in world.devices:
        np.testing.assert_allclose(world.model_of(number), mean, atol=1e-6)
    assert len(own) == 8
    assert all(app.ledger.round == 7 for app in apps(world))
    assert all(app.round == 6 for app in apps(world))


def test_the_root_keeps_the_mean_of_all_and_the_others_their_own() -> None:
    world = world_of(7)
    world.run(lambda: all_finished(world), 400)
    for number, device in world.devices.items():
        records = device.any_app.ledger.history.all()
        assert [record.round for record in records] == list(range(7))
        assert {"loss", "train_loss"} <= {metric.name for metric in records[3].metrics}
        assert [record.participants for record in records[1:5]] == [7 if number == 1 else 1] * 4
        assert all(record.bytes > 0 for record in records[2:])
    last = world.devices[1].any_app.ledger.history.get(6)
    assert last is not None
    assert {metric.name: metric.weight for metric in last.metrics}["loss"] == sum(
        device.samples for device in world.devices.values()
    ), "the models at the end were evaluated by everybody"


def test_the_target_ends_it_early_for_all() -> None:
    world = world_of(7, rounds=1000, target=Target("loss", 0.0))
    world.run(lambda: all_finished(world), 400)
    assert max(app.device.round for app in apps(world)) < 20


def test_it_begins_when_enough_members_are_there() -> None:
    world = world_of(3, min_members=4)
    world.run_for(30)
    assert app_of(world.devices[1]).problem == "waiting for members: 3 of 4"
    assert not any(device.jobs for device in world.devices.values())


def test_the_owner_pauses_resumes_and_stops() -> None:
    world = world_of(7, rounds=1000)
    world.run(lambda: in_round(world, 1, 3))

    def wish(state: AppState, version: int) -> None:
        for device in world.devices.values():
            device.learning.on_advert(make_advert(world.manifest, version=version, state=state), world.now)

    wish(AppState.PAUSED, 2)
    world.run_for(60)
    paused_at = [app.round for app in apps(world)]
    world.run_for(200)
    assert [app.round for app in apps(world)] == paused_at
    assert {app.phase for app in apps(world)} == {"paused"}
    assert app_of(world.devices[3]).problem == "paused by its owner"
    wish(AppState.RUNNING, 3)
    world.run(lambda: in_round(world, 1, paused_at[0] + 3))
    wish(AppState.STOPPED, 4)
    world.run(lambda: all_finished(world), 400)
    assert max(app.device.round for app in apps(world)) < 100


def test_who_comes_late_copies_a_trained_neighbour_and_goes_on_with_it() -> None:
    world = world_of(6, rounds=60, min_members=5)
    late = world.devices[6]
    late.alive = False
    world.detach(6)
    world.run(lambda: in_round(world, 1, 20))
    late.alive = True
    late.learning.drop(world.app_id, world.now)
    late.learning.take_part(world.advert, world.now)
    world.run_for(0.01)
    world.attach(6, 3)
    world.run(lambda: app_of(late).device.round > 0, 20)
    assert app_of(late).counters["copied"] == 1
    assert app_of(late).device.round >= 18
    world.run(lambda: all_finished(world), 400)
    record = app_of(world.devices[1]).ledger.history.get(59)
    assert record is not None
    assert record.participants == 6


@pytest.mark.parametrize("merge", [0, 1])
def test_who_comes_when_all_is_over_gets_the_model_of_the_root(merge: int) -> None:
    world = world_of(4, options=f"{OPTIONS},merge={merge}", min_members=3)
    late = world.devices[4]
    late.alive = False
    world.detach(4)
    world.run(lambda: all_finished(world), 400)
    late.alive = True
    late.learning.drop(world.app_id, world.now)
    late.learning.take_part(world.advert, world.now)
    world.run_for(0.01)
    world.attach(4, 2)
    world.run(lambda: all_finished(world), 60)
    if merge:
        np.testing.assert_array_equal(world.model_of(4), world.model_of(1))
    assert not [job for job in late.jobs if job.kind is RoundKind.TRAIN][1:]


@pytest.mark.parametrize("merge", [0, 1])
@pytest.mark.parametrize("number", range(1, 8))
def test_any_device_may_die_at_any_time(number: int, merge: int) -> None:
    world = world_of(7, rounds=12, options=f"{OPTIONS},merge={merge}", deadline_s=30.0)
    world.run(lambda: in_round(world, 1, 1 + number % 4))
    world.kill(number)
    for child, parent in ((2 * number, number // 2 or 3), (2 * number + 1, number // 2 or 3)):
        if child in world.devices and child != parent:
            world.attach(child, parent)
    if number == 1:
        world.crown(3)
    world.run(lambda: all_finished(world), 600)
    assert all(app.ledger.round == 12 + merge for app in apps(world))


@pytest.mark.parametrize("moment", range(10))
def test_the_root_may_die_in_the_last_rounds(moment: int) -> None:
    """After the first device is done: in the merge, its replication, the evaluation, and the hand-out."""
    world = world_of(7, options=f"{OPTIONS},merge=1", deadline_s=30.0)
    world.run(lambda: any(app.device.stage is Stage.DONE for app in apps(world)))
    world.run_for(0.5 * moment)
    world.kill(1)
    world.crown(3)
    world.attach(2, 3)
    world.run(lambda: all_finished(world), 600)
    assert len({world.model_of(number).tobytes() for number in range(2, 8)}) == 1


def test_a_power_cut_of_everybody_is_survived() -> None:
    world = world_of(7, rounds=60)
    world.run(lambda: in_round(world, 1, 40))
    saved = {number: device.saved[world.app_id].round for number, device in world.devices.items()}
    assert min(saved.values()) > 10
    for number in world.devices:
        world.cut_power(number)
    world.run_for(0.1)
    assert all(app.device.round >= saved[number] for number, app in enumerate(apps(world), start=1))
    world.devices[1].learning.on_root(world.app_id, world.now)
    for child in range(2, 8):
        world.attach(child, child // 2)
    world.run(lambda: all_finished(world), 400)


def test_a_device_that_restarts_goes_on_from_its_model_and_catches_up() -> None:
    world = world_of(7, rounds=200)
    world.run(lambda: in_round(world, 1, 60))
    world.cut_power(5)
    world.run_for(0.1)
    device = app_of(world.devices[5]).device
    assert device.round >= 20
    world.attach(5, 2)
    world.run_for(30)
    assert abs(device.round - app_of(world.devices[1]).device.round) <= 3
    assert "copied" not in device.counters


def test_who_has_lost_all_neighbours_slows_down_and_does_not_run_away() -> None:
    world = world_of(7, rounds=1000)
    world.run(lambda: in_round(world, 1, 10))
    world.cut_power(5)
    world.run_for(0.1)
    device = app_of(world.devices[5]).device
    world.detach(5)
    before = device.round
    world.run_for(30)
    assert before + 3 <= device.round <= before + 6
    world.attach(5, 2)
    world.run_for(20)
    assert abs(device.round - app_of(world.devices[1]).device.round) <= 3


def test_a_single_member_ends_as_well() -> None:
    world = world_of(1, rounds=20)
    world.run(lambda: all_finished(world), 200)


def test_a_chain_is_more_than_a_chain() -> None:
    """Everybody knows those two steps away as well, so that models pass twice as fast."""
    world = World(
        6, manifest=make_manifest(topology=Topology.CONSENSUS, topology_options=OPTIONS, rounds=60, min_members=6)
    )
    world.start({number: number - 1 for number in range(2, 7)})
    world.run(lambda: in_round(world, 1, 3))
    for number, device in world.devices.items():
        near = {contact.node_id for contact in device.any_app.partners}
        assert near == {number - 2, number - 1, number + 1, number + 2} & set(world.devices)


def test_the_end_is_remembered_over_a_restart() -> None:
    world = world_of(5)
    world.run(lambda: all_finished(world), 400)
    model = world.model_of(4)
    world.cut_power(4)
    world.run_for(0.1)
    world.attach(4, 2)
    world.run_for(10)
    assert app_of(world.devices[4]).ledger.finished
    np.testing.assert_array_equal(world.model_of(4), model)
    assert app_of(world.devices[4]).phase == "finished"


@pytest.mark.parametrize("seed", range(4))
def test_a_lossy_network_delays_and_does_not_stop_it(seed: int) -> None:
    world = world_of(9, seed=seed, loss=0.1, options=f"{OPTIONS},merge=1", deadline_s=30.0)
    world.run(lambda: all_finished(world), 2000)


def test_observers_hear_how_far_it_is_and_end_with_the_model_of_the_root() -> None:
    world = world_of(6, observers=(6,), rounds=80)
    watching = world.devices[6]
    world.run(lambda: app_of(watching).round >= 20, 200)
    assert app_of(watching).phase == "watching"
    assert len(watching.any_app.ledger.history) > 0
    world.run(lambda: all_finished(world), 400)
    np.testing.assert_array_equal(world.model_of(6), world.model_of(1))
    assert not watching.jobs


def test_children_of_one_parent_are_introduced_to_each_other() -> None:
    world = World(
        5,
        manifest=make_manifest(topology=Topology.CONSENSUS, topology_options=OPTIONS, rounds=30, min_members=5),
    )
    world.start(dict.fromkeys(range(2, 6), 1))
    world.run(lambda: in_round(world, 1, 3))
    for number, device in world.devices.items():
        assert {contact.node_id for contact in device.any_app.partners} == set(world.devices) - {number}
    assert not any(app.counters.get("not_a_neighbour") for app in apps(world))


def test_a_large_family_is_a_ring_around_its_parent() -> None:
    world = World(
        9,
        manifest=make_manifest(topology=Topology.CONSENSUS, topology_options=OPTIONS, rounds=30, min_members=9),
    )
    world.start(dict.fromkeys(range(2, 10), 1))
    world.run(lambda: in_round(world, 1, 3))
    degrees = {number: len(device.any_app.partners) for number, device in world.devices.items()}
    assert degrees == {1: 8, **dict.fromkeys(range(2, 10), 3)}


def test_own_starts_are_drawn_like_the_artifacts_and_the_largest_is_everybodys() -> None:
    world = world_of(5, options="sync_slots=4,sync_slot_s=0.5,slot_s=5,start=own")
    weights = np.array([1.0, -2.0, 0.5, 0.0, 0.0], "<f4")
    starts: dict[int, np.ndarray] = {}

    def prepared(device: Device) -> Prepared:
        return Prepared(device.hold(weights.tobytes()), tensors=(3, 2))

    world = World(5, manifest=world.manifest)
    for device in world.devices.values():
        device.prepared = prepared(device)
    world.start({number: number // 2 for number in range(2, 6)})

    def begun() -> bool:
        for number, device in world.devices.items():
            vector = app_of(device).device.vector
            if app_of(device).device.round == 1 and vector is not None:
                starts.setdefault(number, vector.copy())
        return len(starts) == 5

    world.run(begun, 60)
    assert len({start.tobytes() for start in starts.values()}) == 1
    start = starts[1]
    assert np.all(start[:3] != weights[:3])
    assert np.all(start[3:] == 0), "a tensor of equal values stays as it is"
    own = [np.linalg.norm(app._initial_of(app.device._seed)) for app in apps(world)]
    assert float(np.linalg.norm(start)) == pytest.approx(float(max(own)))


def test_words_of_those_who_may_not_speak_are_refused() -> None:
    world = world_of(7, rounds=30)
    world.run(lambda: in_round(world, 1, 3))
    victim = world.devices[4]  # its parent is 2
    app = app_of(victim)
    stranger = make_contact(7)
    before = app.partners

    def say(sender: Contact, message: Any) -> None:
        victim.learning.on_message(sender, message, world.now)

    say(stranger, Introduction(app.id, (stranger,)))
    assert app.partners == before
    say(stranger, Update(app.id, 0, 5, 0, participants=1000))
    assert app.counters["report_refused"] == 1
    say(stranger, NormShare(app.id, 1e9, 1))
    assert app.device.stage is not Stage.SYNC
    parent = app_of(world.devices[2])
    child = make_contact(4)
    world.devices[2].learning.on_message(child, Update(app.id, 0, 5, 0, participants=2**31), world.now)
    assert parent.reports.total(5).participants <= 3


def test_in_the_rounds_that_settle_nobody_trains_and_the_history_goes_on() -> None:
    world = world_of(7, options=f"{OPTIONS},settle=2")
    world.run(lambda: all_finished(world), 400)
    for device in world.devices.values():
        kinds = {job.tag[1]: job.kind for job in device.jobs if job.tag[0] == 0}
        assert [kinds[round_] for round_ in range(1, 7)] == [RoundKind.TRAIN] * 4 + [RoundKind.EVALUATE] * 2
    rounds = {record.round for record in app_of(world.devices[1]).ledger.history.all()}
    assert rounds >= set(range(1, 7))


def test_what_no_device_could_run_is_refused_at_once() -> None:
    def manifest(options: str, **changes: Any) -> Any:
        return make_manifest(topology=Topology.CONSENSUS, topology_options=options, **changes)

    check_manifest(manifest("steps=2,mixing=metropolis,merge=1"))
    check_manifest(manifest("", strategy="fedprox:mu=0.1"))
    for wrong in (
        manifest("steps=99"),
        manifest("settle=3"),
        manifest("sample=3"),
        manifest("", strategy="fedadam"),
        manifest("", compress="int8"),
    ):
        with pytest.raises(ManifestError):
            check_manifest(wrong)


@pytest.mark.parametrize("mixing", ["metropolis", "equal", "push-sum"])
def test_every_rule_of_mixing(mixing: str) -> None:
    world = world_of(7, options=f"{OPTIONS},steps=2,mixing={mixing}")
    world.run(lambda: all_finished(world), 400)
    assert all(app.ledger.round == 6 for app in apps(world))


# A slot is for those that are gone: nothing that is lost, or changes, may cost one

PATIENT = "slot_s=600"


def quietly(devices: int, options: str) -> float:
    """How long a fleet takes to which nothing happens."""
    world = world_of(devices, options=options, rounds=12)
    world.run(lambda: all_finished(world), 400)
    return world.now


@pytest.mark.parametrize("mixing", ["samples", "push-sum"])
@pytest.mark.parametrize("nth", range(12))
def test_any_word_between_neighbours_may_be_lost_and_costs_seconds(nth: int, mixing: str) -> None:
    """One device's n-th word of its model never arrives at one neighbour; with push-sum also a claim and a grant."""
    options = f"{PATIENT},mixing={mixing}"
    world = world_of(5, options=options, rounds=12)
    words: dict[str, int] = {}

    def lose(sender: int, to: int, message: Any) -> bool:
        name = type(message).__name__
        if (sender, to) != (2, 1) or not isinstance(message, NeighbourModel | Mass):
            return True
        words[name] = words.get(name, 0) + 1
        return words[name] != nth + 1

    world.tap = lose
    world.run(lambda: all_finished(world), 400)
    assert words["NeighbourModel"] > nth
    assert world.now < quietly(5, options) + 4 * AGAIN_S


@pytest.mark.parametrize("mixing", ["samples", "push-sum"])
@pytest.mark.parametrize("moment", range(8))
def test_a_new_neighbour_in_the_middle_of_a_step_is_told_at_once(moment: int, mixing: str) -> None:
    """A leaf moves to another parent: it and its new neighbours are in the middle of something, often of a step."""
    options = f"{PATIENT},mixing={mixing}"
    world = world_of(5, options=options, rounds=12)
    for number, device in world.devices.items():
        device.train_s = 0.4 * number
    world.run(lambda: in_round(world, 1, 3))
    began = world.now
    world.run_for(0.3 * moment)
    world.attach(4, 3)
    world.run_for(0.3)
    world.attach(5, 1)
    world.run(lambda: all(app.round >= 9 for app in apps(world)), 60)
    assert world.now - began < 6 * 2.0 + 2 * AGAIN_S
    world.run(lambda: all_finished(world), 60)


def test_a_model_that_could_not_be_fetched_is_asked_for_again() -> None:
    world = world_of(3, options=PATIENT, rounds=6)
    world.run(lambda: in_round(world, 1, 2))
    world.links_down.add(frozenset((1, 2)))
    world.run_for(4)
    world.links_down.clear()
    world.run(lambda: all_finished(world), 60)


def test_who_waits_in_vain_disturbs_less_and_less() -> None:
    """A neighbour that is gone is asked a handful of times in ten minutes, and no model goes twice over a link."""
    world = world_of(3, options=PATIENT, rounds=50)
    world.run(lambda: in_round(world, 1, 5))
    asked: dict[tuple[int, int], int] = {}

    def cut_off(sender: int, to: int, message: Any) -> bool:
        if isinstance(message, NeighbourModel) and message.waiting:
            asked[sender, to] = asked.get((sender, to), 0) + 1
        return 3 not in (sender, to)

    world.tap = cut_off
    world.run_for(590)
    assert asked.keys() == {(1, 3), (2, 3), (3, 1), (3, 2)}
    assert 8 <= min(asked.values()) <= max(asked.values()) <= 16
