"""Sums on their way up: exact whatever arrives, in whatever order, and whoever dies midway; nothing is copied."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.learning_world import World, make_contact, make_manifest, small_chunks

from edgefl.errors import WireError
from edgefl.learning.aggregate import Accumulator, DuplicateError
from edgefl.learning.forest.inflow import INFLOW_BYTES
from edgefl.learning.forest.round import OpenRound
from edgefl.learning.metrics import mean, means
from edgefl.wire import Message
from edgefl.wire.learning import CHUNK_PARAMETERS, MAX_CONTRIBUTORS, Metric, Update, UpdateChunk, UpdateGet

vectors = st.lists(st.floats(-100, 100, width=32), min_size=5, max_size=5).map(lambda v: np.array(v, np.float32))
contributions = st.lists(st.tuples(vectors, st.integers(1, 10_000)), min_size=1, max_size=20)


@pytest.fixture
def _small_chunks() -> Iterator[None]:
    with small_chunks():
        yield


def summed(collected: Accumulator) -> np.ndarray:
    """Seal everything, and the sum."""
    while collected.sealed < collected.chunks:
        collected.seal()
    assert collected.total is not None
    return collected.total


def add(collected: Accumulator, index: int, values: Any, samples: int, names: tuple[int, ...]) -> None:
    mask = sum(collected.bits(names))
    collected.add_chunk(index, np.asarray(values, np.float32), samples, len(names), mask)


@pytest.mark.usefixtures("_small_chunks")
class TestAccumulator:
    @given(contributions, st.randoms())
    def test_the_mean_is_the_weighted_mean_in_any_grouping_and_order(self, parts: list[Any], random: Any) -> None:
        """`parts` in groups, each under a device of its own; chunks come in any order, own parts at any time."""
        groups: dict[int, list[int]] = {}
        for index in range(len(parts)):
            groups.setdefault(random.randint(0, 3), []).append(index)
        root = Accumulator(5, 10_000)
        for members in groups.values():
            subtree = Accumulator(5, 10_000)
            own = random.choice([None, *members])
            steps: list[tuple[int, int]] = [(m, chunk) for m in members if m != own for chunk in range(3)]
            steps += [] if own is None else [(own, 0)]
            random.shuffle(steps)
            for member, chunk in steps:
                delta, samples = parts[member]
                if member == own:
                    subtree.expect(member)
                    subtree.add_own(delta.copy(), samples, [Metric("loss", samples, samples)])
                else:
                    values = delta[2 * chunk : 2 * chunk + 2] * np.float32(samples)
                    add(subtree, chunk, values, samples, (member,))
            total = summed(subtree)
            for chunk in range(3):
                weight = subtree.weight(chunk)
                assert subtree.contributors(chunk) == set(members)
                add(root, chunk, total[2 * chunk : 2 * chunk + 2], weight[0], tuple(sorted(members)))
        expected = np.average([d for d, _ in parts], axis=0, weights=[n for _, n in parts])
        np.testing.assert_allclose(summed(root) / root.samples, expected, rtol=1e-4, atol=1e-3)
        assert root.participants == len(parts)

    def test_fedavg_over_one_star_is_plain_fedavg_to_a_millionth(self) -> None:
        generator = np.random.default_rng(0)
        deltas = generator.normal(size=(16, 100)).astype(np.float32)
        samples = generator.integers(1, 500, 16)
        star = Accumulator(100, 10_000)
        for number, (delta, n) in enumerate(zip(deltas, samples, strict=True)):
            for chunk in range(50):
                add(star, chunk, delta[2 * chunk : 2 * chunk + 2] * np.float32(n), int(n), (number,))
        expected = np.average(deltas.astype(np.float64), axis=0, weights=samples)
        assert np.abs(summed(star) / np.float32(star.samples) - expected).max() < 1e-6

    @pytest.mark.parametrize(
        ("values", "samples", "names", "complaint"),
        [
            ([1.0], 5, (7,), "shape"),
            ([np.nan, 1], 5, (7,), "finite"),
            ([3e38, 3e38], 5, (7,), "finite"),
            ([1, 1], 101, (7,), "samples"),
            ([1, 1], 0, (7,), "samples"),
            ([1, 1], 5, (1, 7), "already"),
        ],
    )
    def test_what_cannot_be_true_is_refused_and_leaves_no_trace(
        self, values: Any, samples: int, names: tuple[int, ...], complaint: str
    ) -> None:
        collected = Accumulator(3, 100)
        collected.expect(1)
        with pytest.raises(WireError, match=complaint):
            add(collected, 0, values, samples, names)
        collected.add_own(np.ones(3, np.float32), 4, ())
        np.testing.assert_array_equal(summed(collected), [4, 4, 4])
        assert (collected.samples, collected.participants, collected.contributors(0)) == (4, 1, {1})

    def test_a_device_counts_once_in_each_chunk(self) -> None:
        collected = Accumulator(3, 100)
        add(collected, 0, [1, 1], 5, (7, 8))
        with pytest.raises(DuplicateError):
            add(collected, 0, [1, 1], 5, (8,))
        add(collected, 1, [1], 5, (8,))
        assert (collected.contributors(0), collected.contributors(1)) == ({7, 8}, {8})
        assert (collected.participants, collected.samples) == (1, 5)

    def test_names_are_bounded(self) -> None:
        collected = Accumulator(2, 100)
        bits = collected.bits(range(MAX_CONTRIBUTORS + 5))
        assert (bits[-5:], len(collected.names)) == ([0] * 5, MAX_CONTRIBUTORS)
        collected.add_chunk(0, np.ones(2, np.float32), 5000, MAX_CONTRIBUTORS + 1, 0)
        assert collected.participants == MAX_CONTRIBUTORS + 1

    def test_a_device_cannot_weigh_more_than_the_manifest_allows(self) -> None:
        collected = Accumulator(3, 100)
        collected.add_own(np.ones(3, np.float32), 10**9, ())
        summed(collected)
        assert collected.samples == 100

    def test_an_evaluation_adds_metrics_alone(self) -> None:
        collected = Accumulator(3, 100)
        collected.add_own(None, 0, [Metric("loss", 2.0, 4.0)])
        assert collected.empty
        assert means(collected.metrics) == {"loss": 0.5}

    def test_a_delta_of_another_shape_is_refused(self) -> None:
        with pytest.raises(WireError, match="shape"):
            Accumulator(3, 100).add_own(np.ones(4, np.float32), 1, ())


def deltas_of_round_one(world: World) -> dict[int, tuple[np.ndarray, int]]:
    """Every device's delta from the model of zeros, and its samples."""
    return {number: ((d.target / 2).astype(np.float64), d.samples) for number, d in world.devices.items()}


def check_sum(world: World, round_: OpenRound) -> None:
    """Each chunk's mean is that of those who are named in it, each once."""
    parts = deltas_of_round_one(world)
    for chunk in range(round_.sum.chunks):
        names = round_.sum.contributors(chunk)
        samples, participants, _ = round_.sum.weight(chunk)
        assert participants == len(names)
        assert samples == sum(parts[name][1] for name in names)
        if names and round_.sum.total is not None:
            where = slice(2 * chunk, 2 * chunk + 2)
            expected = sum(parts[name][0][where] * parts[name][1] for name in names) / samples
            np.testing.assert_allclose(round_.sum.total[where], expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.1, 0.3]))
def test_every_mean_is_exact_whatever_is_lost_repeated_or_moved(seed: int, loss: float) -> None:
    """Messages are lost, repeated and delayed; devices die in the middle of an update, orphans move to other parents,
    and others move for no reason. Whatever the root then has, each of its chunks is the exact mean of those named."""
    with small_chunks():
        world = World(7, seed=seed, loss=loss, manifest=make_manifest(rounds=1, quorum=0.1, deadline_s=40.0))
        chance = world.random
        world.jitter_s = 0.03
        for device in world.devices.values():
            device.train_s = chance.uniform(0.1, 3.0)
        closed: list[OpenRound] = []

        def tap(sender: int, to: int, message: Message) -> bool:
            if chance.random() < 0.1 and isinstance(message, Update | UpdateGet):
                receiver, contact = world.devices[to], make_contact(sender)
                at = world.now + chance.uniform(0, 1)
                world.at(
                    at, lambda now: receiver.learning.on_message(contact, message, now) if receiver.alive else None
                )
            return True

        world.tap = tap
        world.start({2: 1, 3: 1, 4: 2, 5: 2, 6: 3, 7: 4})
        root = world.devices[1].app
        whole = root.coordinator.on_closed

        def on_closed(round_: OpenRound, now: float) -> None:
            check_sum(world, round_)
            closed.append(round_)
            whole(round_, now)

        root.coordinator.on_closed = on_closed  # type: ignore[method-assign]

        def disturb(now: float) -> None:
            alive = [n for n, d in world.devices.items() if d.alive and n != 1]
            victim = chance.choice(alive)
            if chance.random() < 0.4 and len(alive) > 3:
                world.kill(victim)
            elif victim in world.parent_of:
                world.detach(victim)
            world.at(now + chance.uniform(0.0, 1.0), lambda now: world.heal())

        for _ in range(4):
            world.at(chance.uniform(0.1, 4.5), disturb)
        world.run(lambda: bool(closed), limit_s=200)
        assert closed[0].sum.participants <= 7


@pytest.mark.usefixtures("_small_chunks")
def test_a_child_that_dies_in_mid_update_counts_in_what_it_has_delivered() -> None:
    world = World(3, manifest=make_manifest(rounds=1, quorum=0.2))
    world.tap = lambda sender, to, message: not (isinstance(message, UpdateChunk) and sender == 3 and message.index > 1)
    world.start({2: 1, 3: 1})
    root = world.devices[1].app
    world.run(lambda: root.worker.open is not None and 3 in root.worker.open.streams)
    round_ = root.worker.open
    assert round_ is not None
    world.run(lambda: round_.streams[3].next == 2)
    world.kill(3)
    world.run(lambda: world.finished(1))
    assert [round_.sum.contributors(chunk) for chunk in range(3)] == [{1, 2, 3}, {1, 2, 3}, {1, 2}]
    check_sum(world, round_)


@pytest.mark.usefixtures("_small_chunks")
def test_an_orphan_delivers_the_rest_to_its_new_parent() -> None:
    """Device 4 has delivered one chunk to device 2, which passed it on before it died: nothing is lost or doubled."""
    world = World(4, manifest=make_manifest(rounds=1, quorum=0.2))
    held: list[Message] = []

    def tap(sender: int, to: int, message: Message) -> bool:
        late = isinstance(message, UpdateChunk) and (sender, to) == (4, 2) and message.index > 0
        held.extend([message] if late else [])
        return not late

    world.tap = tap
    world.devices[1].train_s = world.devices[3].train_s = 4.0
    world.start({2: 1, 4: 2, 3: 1})
    root = world.devices[1].app
    world.run(lambda: root.worker.open is not None and 2 in root.worker.open.streams)
    round_ = root.worker.open
    assert round_ is not None
    world.run(lambda: round_.streams[2].next == 1 and bool(held))
    world.run_for(0.1)  # the acknowledgement of the first chunk is with device 4
    world.kill(2)
    world.attach(4, 3)
    world.run(lambda: world.finished(1))
    assert [round_.sum.contributors(chunk) for chunk in range(3)] == [{1, 2, 3, 4}, {1, 3, 4}, {1, 3, 4}]
    check_sum(world, round_)


@pytest.mark.usefixtures("_small_chunks")
def test_the_first_chunks_go_up_while_the_last_are_still_coming_in() -> None:
    world = World(3, manifest=make_manifest(rounds=1, parameters=40))
    order: list[tuple[int, int, int]] = []

    def tap(sender: int, to: int, message: Message) -> bool:
        if isinstance(message, UpdateChunk):
            order.append((sender, to, message.index))
        return True

    world.tap = tap
    world.start({2: 1, 3: 2})
    world.run(world.finished)
    assert order.index((2, 1, 0)) < order.index((3, 2, 19))


class TestCopies:
    """One read and one write per byte and hop, in place; no buffer for each child."""

    PARAMETERS = 4 * CHUNK_PARAMETERS

    def test_children_are_added_in_place(self) -> None:
        collected = Accumulator(self.PARAMETERS, 100)
        frame = memoryview(np.ones(CHUNK_PARAMETERS, "<f4")).cast("B")
        encoding = self.app_of(World(1)).encoding
        for child in range(16):
            for index in range(4):
                if (child, index) == (1, 0):  # the sum itself is there: from now on nothing more is needed
                    tracemalloc.start()
                values = encoding.decode(frame, CHUNK_PARAMETERS, (1, 1, 1), index)
                assert np.shares_memory(values, np.frombuffer(frame, "<f4"))
                collected.add_chunk(index, values, 5, 1, 1 << child)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < CHUNK_PARAMETERS, "bytes beside a sum of 1 MiB, for 16 children of 1 MiB"
        assert collected.samples == 80

    def test_what_is_sent_is_the_memory_that_was_trained_or_summed_into(self) -> None:
        world = World(3, manifest=make_manifest(rounds=1, parameters=3 * CHUNK_PARAMETERS))
        sent: list[tuple[int, Any]] = []
        for number, device in world.devices.items():

            def send_bulk(
                app: int, to: Any, message: Message, data: Any, number: int = number, device: Any = device
            ) -> None:
                sent.append((number, data))
                type(device).send_bulk(device, app, to, message, data)

            device.send_bulk = send_bulk  # type: ignore[method-assign]
        world.start({2: 1, 3: 2})
        deltas: dict[int, np.ndarray] = {}
        with patch.object(Accumulator, "add_own", autospec=True, side_effect=Accumulator.add_own) as added:
            world.run(lambda: all(d.app.worker.newest[1] == 1 for d in world.devices.values()))
            sums = {number: device.app.worker.open.sum for number, device in world.devices.items()}  # type: ignore[union-attr]
            world.run(lambda: len(sent) == 6)
        for call in added.call_args_list:
            deltas |= {number: call.args[1] for number, total in sums.items() if total is call.args[0]}
        for number, data in sent:
            assert np.shares_memory(np.frombuffer(data, "<f4"), sums[number].total)
        assert sums[3].total is deltas[3]  # a leaf's sum is the trainer's own result

    def app_of(self, world: World) -> Any:
        return world.devices[1].learning.take_part(world.advert, 0.0)

    def test_all_children_share_what_may_be_under_way(self) -> None:
        """16 children that all want to send: what the parent has asked for is bounded, not their number times that."""
        parameters = 64 * CHUNK_PARAMETERS
        world = World(1, manifest=make_manifest(parameters=parameters))
        world.devices[1].train_s = 50.0
        asked: dict[int, int] = {}

        def post(sender: Any, to: int, message: Message, data: Any = None) -> None:
            if isinstance(message, UpdateGet):
                asked[to] = message.until - message.first

        world.post = post  # type: ignore[method-assign]
        world.start({})
        root = world.devices[1].app
        world.run(lambda: root.worker.open is not None)
        children = [make_contact(number) for number in range(2, 18)]
        with patch.object(type(root), "children", lambda self: tuple(_Child(contact) for contact in children)):
            for contact in children:
                update = Update(root.id, *root.worker.newest, (contact.node_id,), 1, vector=True)
                root.on_message(contact, update, world.now)
            for contact in children:  # once more, now that all are known
                update = Update(root.id, *root.worker.newest, (contact.node_id,), 1, vector=True)
                root.on_message(contact, update, world.now)
        assert sum(asked.values()) * 4 * CHUNK_PARAMETERS <= INFLOW_BYTES


class _Child:
    def __init__(self, contact: Any) -> None:
        self.contact, self.observer, self.members = contact, False, 1


def test_metrics_travel_with_the_last_word() -> None:
    world = World(3, manifest=make_manifest(rounds=1))
    world.start({2: 1, 3: 2})
    world.run(world.finished)
    record = world.devices[1].app.ledger.history.get(1)
    assert record is not None
    assert record.participants == 3
    assert mean(record.metrics, "train_loss") == pytest.approx(
        sum(float(np.sum(d.target**2)) * d.samples for d in world.devices.values())
        / sum(d.samples for d in world.devices.values())
    )


@pytest.mark.usefixtures("_small_chunks")
def test_a_chunk_that_nobody_is_in_goes_up_empty_and_what_comes_after_is_late() -> None:
    """Device 2 cannot train, and its child dies after two chunks of three: the third is nobody's. A chunk that was on
    its way when the round stopped waiting is counted and dropped."""
    world = World(3, manifest=make_manifest(rounds=1, quorum=0.3))
    world.devices[2].broken = True
    world.tap = lambda sender, to, message: not (isinstance(message, UpdateChunk) and sender == 3 and message.index > 1)
    world.start({2: 1, 3: 2})
    inner = world.devices[2].app
    world.run(lambda: inner.worker.open is not None and 3 in inner.worker.open.streams)
    below, above = inner.worker.open, world.devices[1].app.worker.open
    assert below is not None
    assert above is not None
    world.run(lambda: below.streams[3].next == 2)
    world.kill(3)
    world.run(lambda: world.finished(1))
    assert [above.sum.contributors(chunk) for chunk in range(3)] == [{1, 3}, {1, 3}, {1}]
    check_sum(world, above)


@pytest.mark.usefixtures("_small_chunks")
def test_who_comes_back_after_its_chunks_were_sealed_is_late_with_them() -> None:
    world = World(3, manifest=make_manifest(rounds=1, quorum=0.3))
    world.devices[2].train_s = 12.0
    world.start({2: 1, 3: 1})
    root = world.devices[1].app
    world.run(lambda: root.worker.open is not None and not root.worker.open.own_pending)
    round_ = root.worker.open
    assert round_ is not None
    round_.waiting.clear()
    round_.waiting.add(99)  # somebody from whom one chunk has come
    root.worker.inflow.on_update(
        round_, make_contact(99), Update(root.id, *round_.tag, (99,), 1, vector=True), world.now
    )
    stream = round_.streams[99]
    stream.done(0)
    root.worker._advance(round_, world.now)
    assert round_.sum.sealed == 1
    late = Update(root.id, *round_.tag, (98,), 1, vector=True)
    root.worker.inflow.on_update(round_, make_contact(98), late, world.now)
    assert round_.streams[98].next == 1, "its first chunk is not even asked for"
    round_.streams[98].next = 0
    chunk = UpdateChunk(root.id, *round_.tag, 0, 5, 1)
    root.on_bulk(make_contact(98), chunk, memoryview(np.ones(2, "<f4").tobytes()), world.now)
    assert root.counters["chunk_late"] == 1
    assert 98 not in round_.sum.contributors(0)
