"""Roots, interior devices and workers die, come back and are outranked: rounds go on and never go backwards."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.learning_world import World, make_advert, make_manifest

from edgefl.learning.forest.coordinator import Phase
from edgefl.learning.forest.objections import MAX_OBJECTIONS
from edgefl.wire import Message
from edgefl.wire.application import AppState
from edgefl.wire.learning import Replica, RoundKind, RoundStart, Standing, Update

TREE = {2: 1, 3: 1, 4: 2, 5: 2, 6: 3}


def watch_rounds(world: World) -> dict[int, list[int]]:
    """Record what each device shows as its round, to see that it never decreases."""
    seen: dict[int, list[int]] = {number: [] for number in world.devices}

    def tap(sender: int, to: int, message: Message) -> bool:
        for number, device in world.devices.items():
            if device.alive and device.learning.applications:
                seen[number].append(device.app.ledger.round)
        return True

    world.tap = tap
    return seen


def assert_never_backwards(seen: dict[int, list[int]]) -> None:
    for number, rounds in seen.items():
        assert rounds == sorted(rounds), f"device {number} went backwards"


PHASES = [Phase.RUNNING, Phase.KEEPING, Phase.REPLICATING]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("at_round", [0, 1, 3])
def test_the_root_dies_at_any_point_of_a_round(phase: Phase, at_round: int) -> None:
    world = World(6, manifest=make_manifest(rounds=5))
    seen = watch_rounds(world)
    world.start(TREE)
    root = world.devices[1].app
    world.run(lambda: root.ledger.round == at_round and root.coordinator.phase is phase)
    world.kill(1)
    world.run_for(0.5)
    world.heal()
    world.run(world.finished)
    assert_never_backwards(seen)
    successor = world.devices[2].app
    assert successor.ledger.round == 5
    assert successor.ledger.epoch > root.ledger.epoch
    redone = [record.round for record in successor.ledger.history.all() if record.epoch == successor.ledger.epoch]
    assert min(redone) >= at_round  # at most the round in flight was done again
    assert np.isfinite(world.model_of(2)).all()


def test_the_successor_goes_on_from_the_model_of_the_furthest_device() -> None:
    world = World(6, manifest=make_manifest(rounds=4))
    world.start(TREE)
    root = world.devices[1].app
    world.run(lambda: root.ledger.round == 2 and root.coordinator.phase is Phase.RUNNING)
    world.run_for(0.2)
    world.kill(1)
    world.heal()
    world.run(world.finished)
    survivors = [2, 3, 4, 5, 6]
    first = world.expected_model(2)
    mean = world.expected_model(1, survivors) * 2
    expected = first + (mean - first) * (1 - 0.5**2)
    np.testing.assert_allclose(world.model_of(2), expected, rtol=1e-4, atol=1e-5)


def test_an_outranked_root_finishes_its_round_and_hands_over() -> None:
    world = World(4, manifest=make_manifest(rounds=4))
    seen = watch_rounds(world)
    for device in world.devices.values():
        device.learning.take_part(world.advert, 0.0)
        device.train_s = 3.0
    world.run_for(0.1)
    world.crown(2)
    world.attach(3, 2)
    world.attach(4, 2)
    old, new = world.devices[2].app, world.devices[1].app
    world.run(lambda: old.ledger.round == 1 and old.coordinator.phase is Phase.RUNNING)
    epoch = old.ledger.epoch
    world.crown(1)
    world.attach(2, 1)
    world.run(lambda: old.coordinator.phase is Phase.MEMBER)
    assert old.ledger.round == 2  # the round in flight was not lost
    assert new.coordinator.phase is Phase.RECOVERING
    world.run(world.finished)
    assert_never_backwards(seen)
    assert new.ledger.epoch > epoch
    record = new.ledger.history.get(3)
    assert record is not None
    assert record.participants == 4
    assert [r.round for r in new.ledger.history.all()][-1] == 4
    assert old.counters.get("round_superseded") is None
    assert old.counters.get("replica_unanswered") is None  # devices below the new root still hold the old one's models


def test_a_busy_predecessor_that_dies_does_not_hold_up_its_successor() -> None:
    world = World(4, manifest=make_manifest(rounds=3))
    for device in world.devices.values():
        device.learning.take_part(world.advert, 0.0)
        device.train_s = 50.0
    world.run_for(0.1)
    world.crown(2)
    world.attach(3, 2)
    world.attach(4, 2)
    world.run(lambda: world.devices[2].app.coordinator.phase is Phase.RUNNING)
    world.crown(1)
    world.attach(2, 1)
    world.run_for(12)
    assert world.devices[1].app.coordinator.phase is Phase.RECOVERING
    for device in world.devices.values():
        device.train_s = 0.5
    world.kill(2)
    world.heal()
    began = world.now
    world.run(lambda: world.devices[1].app.coordinator.phase is Phase.RUNNING)
    assert world.now - began < 5
    world.run(world.finished)


def test_a_busy_predecessor_that_falls_silent_is_not_waited_for_for_ever() -> None:
    world = World(3, manifest=make_manifest(rounds=3))
    for device in world.devices.values():
        device.learning.take_part(world.advert, 0.0)
        device.train_s = 500.0
    world.run_for(0.1)
    world.crown(2)
    world.attach(3, 2)
    world.run(lambda: world.devices[2].app.coordinator.phase is Phase.RUNNING)
    world.crown(1)
    world.attach(2, 1)
    world.run_for(0.1)
    world.links_down.add(frozenset((1, 2)))
    began = world.now
    world.run(lambda: world.devices[1].app.coordinator.phase is Phase.RUNNING)
    assert world.now - began < 30


def test_an_observer_between_two_parts_of_a_fleet_merging_again() -> None:
    """Both halves trained on: the half with more rounds wins, and the merged tree goes on from there."""
    world = World(6, manifest=make_manifest(rounds=30))
    seen = watch_rounds(world)
    world.start(TREE)
    world.run(lambda: world.devices[1].app.ledger.round == 2)
    world.links_down = {frozenset((a, b)) for a in (1, 3, 6) for b in (2, 4, 5)}
    world.detach(2)
    world.crown(2)
    world.root = 1  # two roots now, each in its half
    world.devices[1].train_s = 20.0  # the first half is slow
    world.run(lambda: world.devices[2].app.ledger.round >= 20)
    assert world.devices[1].app.ledger.round < 15
    world.links_down.clear()
    world.attach(2, 1)
    world.run(world.finished)
    assert_never_backwards({n: seen[n] for n in (2, 4, 5)})
    assert {device.app.ledger.round for device in world.devices.values()} == {30}


def test_a_device_that_is_further_than_its_root_says_so() -> None:
    world = World(3, manifest=make_manifest(rounds=6))
    world.start({2: 1, 3: 1})
    root = world.devices[1].app
    world.run(lambda: root.ledger.round == 3 and root.coordinator.phase is Phase.RUNNING)
    # The root loses its memory: it restarts from an old state.
    world.kill(1)
    world.devices[1].saved.clear()
    world.restart(1)
    held_up: list[Message] = []

    def tap(sender: int, to: int, message: Message) -> bool:
        if isinstance(message, Standing) and not held_up:
            held_up.append(message)  # the first reports are lost, so that it starts a round too early
        return not (isinstance(message, Standing) and world.now < lost_until)

    lost_until = world.now + 3
    world.tap = tap
    world.crown(1)
    world.attach(2, 1)
    world.attach(3, 1)
    world.run(world.finished)
    assert held_up
    assert world.devices[2].app.ledger.round == 6
    assert all(world.devices[n].app.counters["round_fenced"] >= 1 for n in (2, 3))
    assert world.devices[1].app.counters["root_was_behind"] >= 1


def test_a_root_is_followed_when_the_further_model_cannot_be_had() -> None:
    """Device 2 holds a later model, but its reports never arrive: it objects, and follows in the end."""
    world = World(2, manifest=make_manifest(rounds=3, deadline_s=10.0))
    world.start({2: 1})
    world.run(lambda: world.devices[1].app.ledger.round == 2)
    epoch = world.devices[1].app.ledger.epoch
    world.kill(1)
    world.devices[1].saved.clear()
    world.restart(1)
    world.tap = lambda sender, to, message: not isinstance(message, Standing)
    world.devices[1].app.ledger.epoch = epoch  # it lost its models, but knows of the epoch before
    world.crown(1)
    world.attach(2, 1)
    world.run(world.finished)
    assert world.devices[2].app.counters["round_backwards"] > MAX_OBJECTIONS


def test_a_part_of_the_fleet_that_is_cut_off_does_not_train_on_by_itself() -> None:
    world = World(5, manifest=make_manifest(rounds=30, deadline_s=5.0))
    world.start({2: 1, 3: 1, 4: 1, 5: 1})
    world.run(lambda: world.devices[1].app.ledger.round == 2)
    for others in (2, 3, 4):
        world.kill(others)
    world.run_for(100)
    assert world.devices[1].app.ledger.round <= 3
    assert "2 of 5 devices delivered, 3 are needed" in world.devices[1].app.coordinator.problem
    for others in (2, 3, 4):
        world.restart(others)
    world.heal()
    world.run(world.finished)


def test_a_part_that_ends_by_itself_does_not_end_the_rest() -> None:
    """The owner stops the application while a device that outranks everybody is alone, some rounds behind."""
    world = World(5, manifest=make_manifest(rounds=1000))
    for device in world.devices.values():
        device.learning.take_part(world.advert, 0.0)
    world.run_for(0.1)
    world.crown(1)
    for number in (2, 3, 4, 5):
        world.attach(number, 1)
    world.run(lambda: world.devices[1].app.ledger.round == 3)
    for number in (2, 3, 4, 5):
        world.links_down.add(frozenset((1, number)))
        world.detach(number)
    world.crown(2)
    for number in (3, 4, 5):
        world.attach(number, 2)
    world.root = 1
    world.run(lambda: world.devices[2].app.ledger.round == 8)
    behind = world.devices[1].app.ledger.round
    assert behind <= 4
    stopped = make_advert(world.manifest, version=2, state=AppState.STOPPED)
    world.devices[1].learning.on_advert(stopped, world.now)
    world.run(lambda: world.finished(1), limit_s=300)  # it ends alone, for want of a quorum not at once
    assert world.devices[1].app.counters["round_failed"] >= 5
    assert not world.finished(2)
    world.links_down.clear()
    world.attach(2, 1)
    for device in world.devices.values():
        device.learning.on_advert(stopped, world.now)
    world.run(lambda: world.finished() and len({d.app.ledger.round for d in world.devices.values()}) == 1)
    assert world.devices[1].app.ledger.round >= 8
    assert all((world.model_of(number) == world.model_of(2)).all() for number in world.devices)


def test_everybody_restarts_after_a_power_cut() -> None:
    world = World(4, manifest=make_manifest(rounds=6))
    seen = watch_rounds(world)
    world.start({2: 1, 3: 1, 4: 2})
    root = world.devices[1].app
    world.run(lambda: root.ledger.round == 3 and root.coordinator.phase is Phase.RUNNING)
    for number in world.devices:
        world.kill(number)
    for number in world.devices:
        world.restart(number)
    durable = max(device.app.ledger.round for device in world.devices.values())
    assert durable >= 3
    seen.update({number: [] for number in world.devices})
    world.heal()
    world.run(world.finished)
    assert world.devices[1].app.ledger.round == 6
    numbers = [record.round for record in world.devices[1].app.ledger.history.all()]
    assert numbers == [0, 1, 2, 3, 4, 5, 6]


def test_the_power_cut_comes_after_the_end() -> None:
    world = World(3)
    world.start({2: 1, 3: 1})
    world.run(world.finished)
    model = world.model_of(1).copy()
    for number in world.devices:
        world.kill(number)
    for number in world.devices:
        world.restart(number)
    world.heal()
    world.run_for(60)
    assert world.finished()
    assert all(device.jobs == [] for device in world.devices.values())
    assert all((world.model_of(number) == model).all() for number in world.devices)


def test_an_earlier_root_cannot_start_rounds_any_more() -> None:
    world = World(3, manifest=make_manifest(rounds=50))
    world.start({2: 1, 3: 1})
    world.run(lambda: world.devices[1].app.ledger.round == 2)
    device = world.devices[3]
    current = device.app.worker.newest
    stale = RoundStart(world.app_id, current[0] - 1, current[1] + 5, 1, RoundKind.TRAIN, device.hold(bytes(20)), 5.0)
    world.devices[1].send(device.contact, stale)
    world.run_for(0.1)
    assert device.app.counters["round_fenced"] >= 1
    assert device.app.worker.newest[0] == current[0]


def test_a_replica_of_an_earlier_root_is_ignored() -> None:
    world = World(3, manifest=make_manifest(rounds=50))
    world.start({2: 1, 3: 1})
    world.run(lambda: world.devices[1].app.ledger.round == 2)
    device = world.devices[3]
    before = device.app.ledger.round
    stale = Replica(world.app_id, 0, 40, device.hold(bytes(20)))
    world.devices[1].send(device.contact, stale)
    world.run_for(0.1)
    assert device.app.counters["replica_fenced"] == 1
    assert device.app.ledger.round - before < 5


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(3, 9), st.lists(st.floats(0.2, 8.0), min_size=1, max_size=8))
def test_any_schedule_of_deaths_and_returns(seed: int, size: int, pauses: list[float]) -> None:
    """Devices die and come back at random moments, the root among them; the tree is repaired 0.3 s later."""
    world = World(size, seed=seed, manifest=make_manifest(rounds=6, quorum=0.3, deadline_s=15.0))
    best = [0]

    def tap(sender: int, to: int, message: Message) -> bool:
        if isinstance(message, Update) and world.root is not None:
            best[0] = max(best[0], world.devices[world.root].app.ledger.round)
        return True

    world.tap = tap
    world.start({child: world.random.randint(1, child - 1) for child in range(2, size + 1)})
    for pause in pauses:
        world.run_for(pause)
        alive = [number for number, device in world.devices.items() if device.alive]
        dead = [number for number, device in world.devices.items() if not device.alive]
        if dead and world.random.random() < 0.5:
            world.restart(world.random.choice(dead))
        elif len(alive) > 2:
            world.kill(world.random.choice(alive))
        world.run_for(0.3)
        world.heal()
    for number, device in list(world.devices.items()):
        if not device.alive:
            world.restart(number)  # too few might be left for a quorum
    world.heal()
    world.run(world.finished, limit_s=3000)
    rounds = {device.app.ledger.round for device in world.devices.values() if device.alive}
    assert rounds == {6}
    models = [world.model_of(number) for number, device in world.devices.items() if device.alive]
    assert all((model == models[0]).all() for model in models)


def test_attempts_do_not_run_out_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """After very many failures the root takes a new epoch, and counts from 1 again."""
    monkeypatch.setattr("edgefl.learning.forest.coordinator.MAX_ATTEMPTS", 3)
    world = World(5, manifest=make_manifest(deadline_s=5.0, quorum=1.0))
    world.devices[5].broken = True
    world.start(dict.fromkeys(range(2, 6), 1))
    root = world.devices[1].app
    world.run(lambda: root.coordinator.attempt == 3)
    epoch = root.ledger.epoch
    world.run(lambda: root.ledger.epoch > epoch and root.coordinator.attempt == 2)
    world.devices[5].broken = False
    world.run(world.finished, limit_s=400.0)
    assert root.ledger.history.get(1).participants == 5  # type: ignore[union-attr]
