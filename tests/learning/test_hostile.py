"""Peers that lie, repeat, reorder and send nonsense: nothing raises, the bounds hold, honest devices finish."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.learning_world import World, make_contact, make_manifest

from edgefl.learning.coordinator import MAX_STANDINGS, Phase
from edgefl.learning.epoch import MAX_LEAP
from edgefl.wire import Message
from edgefl.wire.blob import BlobRef, ref_of
from edgefl.wire.learning import (
    Metric,
    Replica,
    ReplicaAck,
    RoundKind,
    RoundRecord,
    RoundStart,
    Standing,
    Update,
    UpdateAck,
    Verdict,
)

epochs = st.sampled_from([0, 65536 + 1, 65536 * 2, 65536 * (MAX_LEAP + 9), 2**64 - 1])
rounds = st.sampled_from([0, 1, 2, 3, 4, 5, 99, 2**32 - 1])
attempts = st.sampled_from([0, 1, 2, 65535])
blobs = st.sampled_from([ref_of(bytes(20)), BlobRef(b"\x07" * 32, 20), BlobRef(b"\x08" * 32, 2**40)])
budgets = st.sampled_from([-1.0, 0.0, 0.5, 1e300])
metrics = st.lists(
    st.builds(Metric, st.sampled_from(["loss", "train_loss", "bytes"]), st.floats(-1e308, 1e308), st.floats(0, 1e308)),
    max_size=3,
).map(tuple)
records = st.lists(
    st.builds(RoundRecord, rounds, epochs, st.integers(0, 9), st.integers(0, 9), st.floats(0, 9), metrics), max_size=2
).map(tuple)
contacts = st.integers(1, 6).map(make_contact)
app_id = make_manifest(rounds=4).app_id

messages = st.one_of(
    st.builds(
        RoundStart, st.just(app_id), epochs, rounds, attempts, st.sampled_from(RoundKind), blobs, budgets, records
    ),
    st.builds(
        Update,
        st.just(app_id),
        epochs,
        rounds,
        attempts,
        st.sampled_from([0, 1, 50, 2**60]),
        st.none() | blobs,
        st.lists(st.integers(1, 9), max_size=3).map(tuple),
        st.integers(0, 5000),
        metrics,
    ),
    st.builds(UpdateAck, st.just(app_id), epochs, rounds, attempts, st.sampled_from(Verdict)),
    st.builds(Standing, st.just(app_id), epochs, rounds, blobs, contacts, st.booleans(), st.booleans(), records),
    st.builds(Replica, st.just(app_id), epochs, rounds, blobs, st.booleans(), records),
    st.builds(ReplicaAck, st.just(app_id), epochs, rounds),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 2), st.integers(1, 5), st.integers(1, 6), messages), max_size=30))
def test_nonsense_never_raises_and_bounds_hold(script: list[tuple[float, int, int, Message]]) -> None:
    """Anything from anybody in the tree, at any time. (Honest devices may be misled by members of their own tree, up
    to what a member can claim; they must not break.)"""
    world = World(5, manifest=make_manifest(rounds=4, deadline_s=5.0))
    world.start({2: 1, 3: 1, 4: 2, 5: 2})
    for pause, to, sender, message in script:
        world.run_for(pause)
        world.devices[to].learning.on_message(make_contact(sender), message, world.now)
    world.run_for(60)
    for device in world.devices.values():
        assert len(device.blobs) <= 8
        assert device.app.ledger.round <= 4
        assert device.app.ledger.epoch < 2**64
        assert np.isfinite(world.model_of(device.contact.node_id)).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 2), st.integers(1, 5), messages), max_size=30))
def test_strangers_cannot_do_anything(script: list[tuple[float, int, Message]]) -> None:
    """The same from a device outside the tree: training ends as if it had been silent."""
    world = World(5, manifest=make_manifest(rounds=4))
    world.start({2: 1, 3: 1, 4: 2, 5: 2})
    for pause, to, message in script:
        world.run_for(pause)
        world.devices[to].learning.on_message(make_contact(99), message, world.now)
    world.run(world.finished)
    for number in world.devices:
        np.testing.assert_allclose(world.model_of(number), world.expected_model(4), rtol=1e-5, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_repeated_and_reordered_messages_change_nothing(seed: int) -> None:
    world = World(5, seed=seed, manifest=make_manifest(rounds=4))

    def tap(sender: int, to: int, message: Message) -> bool:
        if world.random.random() < 0.3:  # once more, later
            device, contact = world.devices[to], make_contact(sender)
            delay = world.random.uniform(0, 5)
            world.at(world.now + delay, lambda now: device.learning.on_message(contact, message, now))
        return True

    world.tap = tap
    world.start({2: 1, 3: 1, 4: 2, 5: 2})
    world.run(world.finished)
    for number in world.devices:
        np.testing.assert_allclose(world.model_of(number), world.expected_model(4), rtol=1e-5, atol=1e-6)


def running(parents: dict[int, int] | None = None, **changes: Any) -> World:
    """A world whose first round is under way and will be for long."""
    world = World(4, manifest=make_manifest(**changes))
    for device in world.devices.values():
        device.train_s = 30.0
    world.start(parents or {2: 1, 3: 1, 4: 2})
    world.run(lambda: all(device.jobs for device in world.devices.values()))
    return world


def test_a_round_whose_model_cannot_be_fetched_is_asked_for_again() -> None:
    world = running()
    child = world.devices[2]
    newest = child.app.worker.newest
    missing = bytes(16) + b"late"
    start = RoundStart(world.app_id, newest[0], newest[1], newest[2] + 1, RoundKind.TRAIN, ref_of(missing), 20.0)
    world.devices[1].send(child.contact, start)
    world.run_for(3)
    assert child.app.counters["model_not_fetched"] >= 2
    world.devices[1].hold(missing)
    jobs = len(child.jobs)
    world.run(lambda: len(child.jobs) == jobs + 1, limit_s=5)


def test_an_update_that_cannot_be_fetched_is_offered_again() -> None:
    world = running()
    world.devices[2].train_s = 0.1
    root, child = world.devices[1], world.devices[3]
    tag = root.app.worker.newest
    update = Update(world.app_id, *tag, 5, BlobRef(b"\x09" * 32, 20), (3,), 1)
    child.send(root.contact, update)
    world.run_for(1)
    assert root.app.counters["update_not_fetched"] == 1
    assert 3 in root.app.worker.open.waiting  # type: ignore[union-attr]
    world.run(world.finished)


def test_an_update_that_is_being_fetched_is_not_fetched_twice() -> None:
    world = running()
    root, child = world.devices[1], world.devices[3]
    data = np.ones(5, "<f4").tobytes()
    update = Update(world.app_id, *root.app.worker.newest, 5, child.hold(data), (3,), 1)
    child.send(root.contact, update)
    child.send(root.contact, update)
    world.run_for(1)
    assert root.app.worker.open.sum.samples == 5  # type: ignore[union-attr]
    assert root.app.counters == {}


def test_a_child_that_adds_somebody_else_again_is_refused_as_a_duplicate() -> None:
    world = running()
    root = world.devices[1]
    data = np.ones(5, "<f4").tobytes()
    tag = root.app.worker.newest
    for number, names in ((3, (3,)), (2, (2, 3))):
        device = world.devices[number]
        device.send(root.contact, Update(world.app_id, *tag, 5, device.hold(data), names, len(names)))
    world.run_for(1)
    assert root.app.worker.open.sum.contributors == {3}  # type: ignore[union-attr]
    assert root.app.counters.get("update_invalid", 0) + root.app.counters.get("update_duplicate", 0) == 1


def test_the_duplicate_may_only_show_when_both_have_arrived() -> None:
    world = running()
    root = world.devices[1]
    data = np.ones(5, "<f4").tobytes()
    tag = root.app.worker.newest
    for number, names in ((3, (3, 9)), (2, (2, 9))):
        device = world.devices[number]
        update = Update(world.app_id, *tag, 5, device.hold(data), names, len(names))
        root.learning.on_message(device.contact, update, world.now)  # both before the first one is here
    world.run_for(1)
    assert root.app.counters == {"update_duplicate": 1}


def test_broken_bytes_in_a_plausible_update() -> None:
    world = running()
    root, child = world.devices[1], world.devices[3]
    data = np.full(5, np.nan, "<f4").tobytes()
    child.send(root.contact, Update(world.app_id, *root.app.worker.newest, 5, child.hold(data), (3,), 1))
    world.run_for(1)
    assert root.app.counters == {"update_invalid": 1}
    assert 3 not in root.app.worker.open.waiting  # type: ignore[union-attr]


def test_data_that_arrives_after_the_round_is_late() -> None:
    world = running(deadline_s=20.0)
    root, child = world.devices[1], world.devices[3]
    data = np.ones(5, "<f4").tobytes()
    update = Update(world.app_id, *root.app.worker.newest, 5, child.hold(data), (3,), 1)
    closes = root.app.worker.open.closes  # type: ignore[union-attr]
    world.run_for(closes - world.now - 0.005)
    root.learning.on_message(child.contact, update, world.now)
    world.run_for(1)
    assert root.app.worker.newest[2] >= 1


def test_reports_that_a_root_remembers_are_bounded_and_the_furthest_stay() -> None:
    world = World(2, manifest=make_manifest(rounds=100_000))
    world.start({2: 1})
    root = world.devices[1].app
    assert root.coordinator.phase is Phase.RECOVERING
    for number in range(3 * MAX_STANDINGS):
        report = Standing(world.app_id, 65536, number, ref_of(number.to_bytes(20, "big")), make_contact(1000 + number))
        root.on_message(make_contact(2), report, world.now)
    kept = root.coordinator._standings
    assert len(kept) == MAX_STANDINGS
    assert min(standing.round for standing in kept.values()) == 2 * MAX_STANDINGS


def test_when_the_furthest_model_is_out_of_reach_the_next_one_is_taken() -> None:
    world = World(3, manifest=make_manifest(rounds=9))
    for device in world.devices.values():
        device.learning.take_part(world.advert, 0.0)
    world.run_for(0.1)
    world.crown(1)
    world.attach(2, 1)
    world.attach(3, 1)
    world.run_for(0.1)
    held = world.devices[3].hold(np.ones(5, "<f4").tobytes())
    gone = BlobRef(b"\x05" * 32, 20)
    root = world.devices[1]
    root.learning.on_message(make_contact(2), Standing(world.app_id, 65536 * 3, 7, gone, make_contact(77)), world.now)
    root.learning.on_message(make_contact(3), Standing(world.app_id, 65536 * 2, 4, held, make_contact(3)), world.now)
    world.run(lambda: root.app.coordinator.phase is Phase.RUNNING)
    assert root.app.counters["recovery_failed"] == 1
    assert root.app.ledger.round == 4
    assert root.app.ledger.epoch > 65536 * 2


@pytest.mark.parametrize(
    "changes", [{"epoch": 2**64 - 1}, {"round": 10}, {"model": BlobRef(bytes(32), 21)}, {"round": 2**32 - 1}]
)
def test_reports_that_cannot_be_true_are_ignored(changes: dict[str, Any]) -> None:
    world = World(2, manifest=make_manifest(rounds=9))
    world.start({2: 1})
    report = Standing(world.app_id, 65536, 3, ref_of(bytes(20)), make_contact(2))
    world.devices[1].learning.on_message(make_contact(2), replace(report, **changes), world.now)
    assert world.devices[1].app.counters["standing_invalid"] == 1


def test_a_replica_counts_only_from_the_root() -> None:
    world = running()
    device = world.devices[2]
    replica = Replica(world.app_id, device.app.ledger.epoch, 1, world.devices[3].hold(bytes(20)))
    world.devices[3].send(device.contact, replica)
    world.run_for(1)
    assert device.app.counters["replica_not_from_root"] == 1
    missing = Replica(world.app_id, device.app.ledger.epoch, 1, BlobRef(b"\x06" * 32, 20))
    world.devices[1].send(device.contact, missing)
    world.run_for(1)
    assert device.app.counters["replica_not_fetched"] == 1
    assert device.app.ledger.round == 0
