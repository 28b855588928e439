"""Sampled applications over their tree, in the small world: members find each other, news reach everybody."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.learning_world import Device, World, make_advert, make_manifest

from edgefl.learning.sampled.application import SampledApplication
from edgefl.wire import Message
from edgefl.wire.application import AppState, Target, Topology
from edgefl.wire.learning import RoundKind
from edgefl.wire.sampled import SampleNews, SampleTrain

OPTIONS = "sample=3,success=1,by_uplink=no,timeout_s=20"


def world_of(
    devices: int, *, observers: tuple[int, ...] = (), seed: int = 1, loss: float = 0.0, **changes: Any
) -> World:
    """A binary tree of devices; device 1 is the root."""
    changes = {"topology": Topology.SAMPLED, "topology_options": OPTIONS, "rounds": 4, **changes}
    world = World(devices, seed=seed, loss=loss, manifest=make_manifest(**changes))
    world.start({number: number // 2 for number in range(2, devices + 1)}, observers=observers)
    return world


def app_of(device: Device) -> SampledApplication:
    app = device.any_app
    assert isinstance(app, SampledApplication)
    return app


def all_finished(world: World) -> bool:
    return all(device.any_app.ledger.finished for device in world.devices.values() if device.alive)


def test_every_member_and_observer_ends_with_the_same_final_model() -> None:
    world = world_of(9, observers=(5,))
    world.run(lambda: all_finished(world), 400)
    assert {device.any_app.ledger.model for device in world.devices.values()} == {app_of(world.devices[1]).news.model}  # type: ignore[union-attr]
    assert all(device.any_app.ledger.round == 4 for device in world.devices.values())
    assert all(device.saved[world.app_id].finished for device in world.devices.values())
    trained = [job for device in world.devices.values() for job in device.jobs if job.kind is RoundKind.TRAIN]
    assert len(trained) == 3 * 4, "a sample of three for each of four rounds"
    assert not world.devices[5].jobs


def test_who_may_not_train_declines_and_the_rounds_go_on_without_it() -> None:
    world = world_of(6)
    world.devices[4].declines = True
    world.run(lambda: all_finished(world), 1000)
    assert world.devices[4].any_app.counters["training_declined"] == len(world.devices[4].jobs) >= 1
    assert "training_failed" not in world.devices[4].any_app.counters


def test_a_model_is_the_mean_of_its_sample_weighted_by_samples() -> None:
    world = world_of(6, rounds=1)
    world.run(lambda: all_finished(world), 400)
    chosen = [device for device in world.devices.values() if any(j.kind is RoundKind.TRAIN for j in device.jobs)]
    mean = np.average([d.target for d in chosen], axis=0, weights=[d.samples for d in chosen])
    np.testing.assert_allclose(world.model_of(1), 0.5 * mean, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_a_mean_of_one_model_is_the_same_blob_and_is_held(seed: int) -> None:
    world = world_of(6, seed=seed, topology_options="sample=3,success=0.6,by_uplink=no,timeout_s=20")
    world.run(lambda: all_finished(world), 400)


def test_the_history_has_every_round_with_its_evaluation() -> None:
    world = world_of(7)
    world.run(lambda: all_finished(world), 400)
    for device in world.devices.values():
        records = device.any_app.ledger.history.all()
        assert [record.round for record in records if record.participants] == [1, 2, 3, 4]
        assert all(record.participants == 3 and record.samples > 0 for record in records if record.round)
        assert {"loss", "train_loss"} <= {metric.name for metric in records[-1].metrics}


def test_the_target_ends_it_early() -> None:
    world = world_of(7, rounds=50, target=Target("loss", -1.0))
    world.run(lambda: all_finished(world), 400)
    assert app_of(world.devices[1]).ledger.round < 5


def test_the_first_round_waits_for_the_members_that_were_asked_for() -> None:
    world = world_of(3, min_members=4)
    world.run_for(30)
    assert app_of(world.devices[1]).problem == "waiting for members: 3 of 4"
    assert not any(device.jobs for device in world.devices.values())


def test_the_owner_pauses_resumes_and_stops() -> None:
    world = world_of(7, rounds=1000)
    world.run(lambda: app_of(world.devices[1]).round >= 2)

    def wish(state: AppState, version: int) -> None:
        for device in world.devices.values():
            device.learning.on_advert(make_advert(world.manifest, version=version, state=state), world.now)

    wish(AppState.PAUSED, 2)
    world.run_for(60)
    paused_at = max(app_of(device).round for device in world.devices.values())
    world.run_for(600)
    assert max(app_of(device).round for device in world.devices.values()) == paused_at
    assert app_of(world.devices[3]).problem == "paused by its owner"
    wish(AppState.RUNNING, 3)
    world.run(lambda: app_of(world.devices[1]).round >= paused_at + 3)
    wish(AppState.STOPPED, 4)
    world.run(lambda: all_finished(world), 400)
    assert app_of(world.devices[1]).ledger.round < 1000


def test_who_comes_late_is_sampled_too() -> None:
    world = world_of(6, rounds=1000)
    late = world.devices[6]
    late.alive = False
    world.detach(6)
    world.run(lambda: app_of(world.devices[1]).round >= 3)
    late.alive = True
    late.learning.drop(world.app_id, world.now)
    late.learning.take_part(world.advert, world.now)
    world.run_for(0.01)
    before = len(late.jobs)
    world.attach(6, 3)
    world.run(lambda: len(late.jobs) > before, 400)
    assert len(app_of(late).machine.registry) == 6


def test_who_leaves_is_not_sampled_any_more() -> None:
    world = world_of(7, rounds=1000)
    world.run(lambda: app_of(world.devices[1]).round >= 2)
    world.detach(6)
    world.devices[6].learning.drop(world.app_id, world.now)
    world.run_for(5)
    registry = app_of(world.devices[1]).machine.registry
    entry = registry.get(6)
    assert entry is not None
    assert entry.left
    before = app_of(world.devices[1]).round
    world.run(lambda: app_of(world.devices[1]).round >= before + 5, 400)


def test_a_power_cut_of_everybody_loses_at_most_the_round_under_way() -> None:
    world = world_of(7, rounds=1000)
    world.run(lambda: app_of(world.devices[1]).round >= 6)
    saved = max(device.saved[world.app_id].round for device in world.devices.values() if device.saved)
    for number in world.devices:
        world.cut_power(number)
    world.run_for(0.1)
    world.devices[1].learning.on_root(world.app_id, world.now)
    for child in range(2, 8):
        world.attach(child, child // 2)
    world.run(lambda: app_of(world.devices[1]).round >= saved + 3, 400)
    rounds = [record.round for record in app_of(world.devices[1]).ledger.history.all()]
    assert saved in rounds


def alone(world: World, number: int) -> None:
    world.links_down |= {frozenset((number, other)) for other in world.devices if other != number}
    world.detach(number)


def test_who_is_cut_off_does_not_train_on_by_itself() -> None:
    world = world_of(7, rounds=100_000)
    world.run(lambda: app_of(world.devices[1]).round >= 6)
    alone(world, 7)
    world.run_for(300)
    lone, others = app_of(world.devices[7]), app_of(world.devices[1])
    trained = len(world.devices[7].jobs)
    assert lone.problem == "waiting for members: 1 of 2"
    assert others.round > lone.round + 5
    world.run_for(300)
    assert len(world.devices[7].jobs) == trained
    world.links_down.clear()
    world.attach(7, 3)
    world.run(lambda: len(world.devices[7].jobs) > trained, 400)
    assert lone.machine.newest[0] == others.machine.newest[0], "the others' work counts"
    assert not lone.problem


def test_who_is_back_first_after_a_power_cut_waits_for_the_others() -> None:
    world = world_of(7, rounds=100_000)
    world.run(lambda: all(device.saved for device in world.devices.values()), 400)
    for number in range(2, 8):
        alone(world, number)
    for number in world.devices:
        world.cut_power(number)
    world.run_for(100)
    assert {device.any_app.problem for device in world.devices.values()} == {"waiting for members: 1 of 2"}
    assert not any(job for device in world.devices.values() for job in device.jobs if job.tag[2])
    world.links_down.clear()
    world.devices[1].learning.on_root(world.app_id, world.now)
    for child in range(2, 8):
        world.attach(child, child // 2)
    before = app_of(world.devices[1]).round
    world.run(lambda: app_of(world.devices[1]).round >= before + 10, 300)
    assert app_of(world.devices[1]).ledger.history.tail(2)[0].participants == 3, "a full sample"


def test_who_restarts_after_it_has_left_takes_part_again() -> None:
    world = world_of(7, rounds=1000)
    world.run(lambda: app_of(world.devices[1]).round >= 2)
    world.detach(6)
    world.devices[6].learning.drop(world.app_id, world.now)
    world.run_for(5)
    world.devices[6].learning.take_part(world.advert, world.now)
    world.run_for(0.01)
    world.attach(6, 3)
    world.run_for(5)
    entry = app_of(world.devices[1]).machine.registry.get(6)
    assert entry is not None
    assert not entry.left


@pytest.mark.parametrize("seed", range(4))
def test_a_lossy_network_delays_and_does_not_stop_it(seed: int) -> None:
    world = world_of(9, seed=seed, loss=0.1)
    world.run(lambda: all_finished(world), 5000)


@pytest.mark.parametrize("number", range(1, 8))
def test_any_device_may_die_at_any_time(number: int) -> None:
    world = world_of(7, rounds=20)
    world.run(lambda: app_of(world.devices[1]).round >= number % 4)
    world.kill(number)
    for child, parent in ((2 * number, number // 2 or 3), (2 * number + 1, number // 2 or 3)):
        if child in world.devices and child != parent:
            world.attach(child, parent)
    if number == 1:
        world.crown(3)
    world.run(lambda: all_finished(world), 3000)


def test_news_and_models_that_cannot_be_true_are_refused() -> None:
    world = world_of(5, rounds=10)
    world.run(lambda: app_of(world.devices[1]).round >= 2)
    victim, liar = app_of(world.devices[2]), world.devices[5].contact
    news = victim.news
    assert news is not None

    def say(message: Message) -> None:
        world.devices[2].learning.on_message(liar, message, world.now)

    known = victim.news
    say(SampleNews(victim.id, 11, 0, news.model, liar))
    say(SampleNews(victim.id, 9, 2**31, news.model, liar))
    assert victim.counters["news_invalid"] == 2
    assert victim.news == known
    machine = victim.machine
    before = machine.newest
    view = machine.registry.delta(99)
    say(SampleTrain(victim.id, 99, 0, news.model, view))
    say(SampleTrain(victim.id, before[1] + 1, 0, news.model, view, model_round=before[1] + 5))
    assert machine.newest == before
    assert victim.counters["implausible"] == 2
