"""Peers that lie, repeat, reorder and send nonsense: nothing raises, the bounds hold, honest devices finish."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.learning_world import World, make_contact, make_manifest, small_chunks

from edgefl.learning.forest.coordinator import Phase
from edgefl.learning.forest.epoch import MAX_LEAP
from edgefl.learning.forest.round import REMIND_S
from edgefl.learning.forest.standings import MAX_STANDINGS
from edgefl.wire import Contact, Message
from edgefl.wire.blob import BlobRef, ref_of
from edgefl.wire.learning import (
    MAX_CONTRIBUTORS,
    Metric,
    Replica,
    ReplicaAck,
    RoundKind,
    RoundRecord,
    RoundStart,
    Standing,
    Update,
    UpdateAck,
    UpdateChunk,
    UpdateGet,
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
        st.lists(st.integers(1, 9), max_size=3).map(tuple),
        st.integers(0, 5000),
        metrics,
        st.booleans(),
        st.sampled_from([0, 1, 2, 2**32 - 1]),
        st.booleans(),
    ),
    st.builds(
        UpdateGet, st.just(app_id), epochs, rounds, attempts, st.integers(0, 3), st.sampled_from([0, 1, 2, 2**32 - 1])
    ),
    st.builds(UpdateAck, st.just(app_id), epochs, rounds, attempts, st.sampled_from(Verdict)),
    st.builds(Standing, st.just(app_id), epochs, rounds, blobs, contacts, st.booleans(), st.booleans(), records),
    st.builds(Replica, st.just(app_id), epochs, rounds, blobs, st.booleans(), records),
    st.builds(ReplicaAck, st.just(app_id), epochs, rounds),
)


chunks = st.tuples(
    st.builds(
        UpdateChunk,
        st.just(app_id),
        epochs,
        rounds,
        attempts,
        st.sampled_from([0, 1, 2**32 - 1]),
        st.sampled_from([0, 1, 50, 2**60]),
        st.integers(0, 5000),
        st.binary(max_size=2),
    ),
    st.sampled_from([b"", bytes(20), np.full(5, 3e38, "<f4").tobytes(), bytes(4096), b"\xff" * 20]),
)


def say(world: World, sender: Contact, to: int, message: Any) -> None:
    """Hand a message, or a chunk with its bytes, to a device."""
    learning = world.devices[to].learning
    if isinstance(message, tuple):
        learning.on_bulk(sender, message[0], memoryview(message[1]), world.now)
    else:
        learning.on_message(sender, message, world.now)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 2), st.integers(1, 5), st.integers(1, 6), messages | chunks), max_size=30))
def test_nonsense_never_raises_and_bounds_hold(script: list[tuple[float, int, int, Any]]) -> None:
    """Anything from anybody in the tree, at any time. (Honest devices may be misled by members of their own tree, up
    to what a member can claim; they must not break.)"""
    world = World(5, manifest=make_manifest(rounds=4, deadline_s=5.0))
    world.start({2: 1, 3: 1, 4: 2, 5: 2})
    for pause, to, sender, message in script:
        world.run_for(pause)
        say(world, make_contact(sender), to, message)
    world.run_for(60)
    for device in world.devices.values():
        assert len(device.blobs) <= 8
        assert device.app.ledger.round <= 4
        assert device.app.ledger.epoch < 2**64
        assert np.isfinite(world.model_of(device.contact.node_id)).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 2), st.integers(1, 5), messages | chunks), max_size=30))
def test_strangers_cannot_do_anything(script: list[tuple[float, int, Any]]) -> None:
    """The same from a device outside the tree: training ends as if it had been silent."""
    world = World(5, manifest=make_manifest(rounds=4))
    world.start({2: 1, 3: 1, 4: 2, 5: 2})
    for pause, to, message in script:
        world.run_for(pause)
        say(world, make_contact(99), to, message)
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


def offer(world: World, number: int, names: tuple[int, ...], **changes: Any) -> None:
    """Device `number` offers a one-chunk update of those names to the root."""
    message = Update(world.app_id, *world.devices[1].app.worker.newest, names, len(names), vector=True, final=True)
    world.devices[1].learning.on_message(make_contact(number), replace(message, **changes), world.now)


def deliver(world: World, number: int, data: bytes, *, count: int = 1, samples: int = 5, mask: bytes = b"") -> None:
    """... and its chunk."""
    chunk = UpdateChunk(world.app_id, *world.devices[1].app.worker.newest, 0, samples, count, mask)
    world.devices[1].learning.on_bulk(make_contact(number), chunk, memoryview(data), world.now)


ONES = np.ones(5, "<f4").tobytes()


def test_a_chunk_that_was_lost_is_asked_for_again() -> None:
    world = World(3, manifest=make_manifest(rounds=2))
    lost: list[Message] = []

    def tap(sender: int, to: int, message: Message) -> bool:
        if isinstance(message, UpdateChunk | UpdateGet) and len(lost) < 5:
            lost.append(message)
            return False
        return True

    world.tap = tap
    world.start({2: 1, 3: 1})
    world.run(world.finished)
    assert len(lost) == 5
    np.testing.assert_allclose(world.model_of(1), world.expected_model(2), rtol=1e-5, atol=1e-6)


def test_a_chunk_that_went_with_its_connection_comes_again_soon() -> None:
    """Given a connection that ends with a chunk on it, then the round waits for it no longer than for a word that was
    lost, however long this child is waited for otherwise."""
    with small_chunks():
        world = World(3, manifest=make_manifest(rounds=1))
        lost: list[int] = []

        def tap(sender: int, to: int, message: Message) -> bool:
            if isinstance(message, UpdateChunk) and sender == 2 and message.index == 0 and not lost:
                lost.append(message.index)
                outflow = world.devices[2].app.worker._outflow
                assert outflow is not None
                outflow._resend_s = 20.0  # as after long waits between its chunks
                return False
            return True

        world.tap = tap
        world.start({2: 1, 3: 1})
        world.run(lambda: bool(lost))
        world.run(lambda: world.devices[1].app.ledger.round == 1, limit_s=REMIND_S + 1)
        np.testing.assert_allclose(world.model_of(1), world.expected_model(1), rtol=1e-5, atol=1e-6)


def test_a_chunk_that_comes_twice_or_unasked_is_added_once() -> None:
    world = running()
    root = world.devices[1]
    deliver(world, 3, ONES)
    offer(world, 3, (3,), final=False)
    deliver(world, 3, ONES)
    deliver(world, 3, ONES)
    assert root.app.worker.open.sum.weight(0)[:2] == (5, 1)  # type: ignore[union-attr]
    assert root.app.counters == {"chunk_unasked": 1, "chunk_repeated": 1}
    offer(world, 3, (3,))
    assert 3 in root.app.worker.open.delivered  # type: ignore[union-attr]


def test_a_word_that_the_final_one_has_overtaken_takes_nothing_back() -> None:
    """Or the round waits until the child repeats its final word."""
    world = running()
    root = world.devices[1]
    offer(world, 3, (3,))
    offer(world, 3, (3,), final=False)
    deliver(world, 3, ONES)
    assert 3 in root.app.worker.open.delivered  # type: ignore[union-attr]


def test_devices_that_are_in_a_chunk_already_are_not_added_again() -> None:
    world = running()
    root = world.devices[1]
    offer(world, 3, (3, 9))
    offer(world, 2, (2, 9))
    deliver(world, 3, ONES, count=2)
    deliver(world, 2, ONES, count=2)
    assert root.app.counters == {"chunk_duplicate": 1, "update_duplicate": 1}
    assert root.app.worker.open.sum.contributors(0) == {3, 9}  # type: ignore[union-attr]
    assert root.app.worker.open.waiting == set()  # type: ignore[union-attr]


def test_a_child_cannot_speak_for_its_parent() -> None:
    world = running()
    offer(world, 3, (1,))
    deliver(world, 3, ONES)
    assert world.devices[1].app.counters == {"chunk_duplicate": 1, "update_duplicate": 1}


@pytest.mark.parametrize(
    ("data", "how"),
    [
        (np.full(5, np.nan, "<f4").tobytes(), {}),
        (np.full(5, 3e38, "<f4").tobytes(), {}),
        (ONES[:-1], {}),
        (ONES + ONES, {}),
        (b"", {}),
        (ONES, {"samples": 0}),
        (ONES, {"samples": 2**60}),
        (ONES, {"count": 2, "mask": b"\1"}),
    ],
)
def test_a_chunk_that_cannot_be_true_ends_the_update_and_leaves_no_trace(data: bytes, how: dict[str, Any]) -> None:
    world = running()
    root = world.devices[1]
    offer(world, 3, (3,))
    deliver(world, 3, data, **how)
    assert root.app.counters == {"update_invalid": 1}
    assert root.app.worker.open.sum.weight(0) == (0, 0, 0)  # type: ignore[union-attr]
    assert 3 not in root.app.worker.open.waiting  # type: ignore[union-attr]
    deliver(world, 3, ONES)
    assert root.app.counters == {"update_invalid": 1, "chunk_unasked": 1}


@pytest.mark.parametrize(("count", "mask"), [(2, b""), (1, b"\2")])
def test_a_chunk_whose_devices_are_not_named_yet_waits_for_the_names(count: int, mask: bytes) -> None:
    world = running()
    root = world.devices[1]
    offer(world, 3, (3,), final=False)
    deliver(world, 3, ONES, count=count, mask=mask)
    assert root.app.counters == {"chunk_unnamed": 1}
    offer(world, 3, (3, 8))
    deliver(world, 3, ONES, count=count, mask=mask)
    assert 3 in root.app.worker.open.delivered  # type: ignore[union-attr]


@pytest.mark.parametrize("names", [(8,), (8, 3), (3, 3)])
def test_names_may_be_added_and_nothing_else(names: tuple[int, ...]) -> None:
    world = running()
    offer(world, 3, (3,), final=False)
    offer(world, 3, names)
    assert world.devices[1].app.counters == {"update_invalid": 1}


def test_a_subtree_too_large_to_name_everybody_is_trusted_with_its_count() -> None:
    world = running()
    offer(world, 3, (), participants=MAX_CONTRIBUTORS + 1)
    deliver(world, 3, ONES, count=MAX_CONTRIBUTORS + 1, samples=MAX_CONTRIBUTORS + 1)
    assert world.devices[1].app.worker.open.sum.participants == MAX_CONTRIBUTORS + 1  # type: ignore[union-attr]


def test_what_arrives_after_the_round_is_late() -> None:
    world = running(deadline_s=20.0)
    root, child = world.devices[1], world.devices[3]
    world.links_down.add(frozenset((1, 3)))  # the real one is silent
    offer(world, 3, (3,))
    round_ = root.app.worker.open
    assert round_ is not None
    world.run(lambda: root.app.counters.get("update_late", 0) >= 1, limit_s=21)
    late = UpdateChunk(world.app_id, *round_.tag, 0, 5, 1)
    root.learning.on_bulk(child.contact, late, memoryview(ONES), world.now)
    assert round_.sum.participants <= 1  # its own part alone
    assert 3 not in round_.sum.contributors(0)


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
    assert min(standing.round for standing in kept) == 2 * MAX_STANDINGS


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
