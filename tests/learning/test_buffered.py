"""`--pace buffered`: training outlives the round that it began in, and what comes of it counts once, by its age."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.learning_world import World, make_contact, make_manifest, small_chunks

from edgefl.learning import aggregate
from edgefl.learning.effects import Tag, TrainJob, TrainResult
from edgefl.learning.forest.coordinator import Coordinator
from edgefl.learning.forest.local import STALENESS_METRIC, WEIGHT_UNIT, LocalTraining
from edgefl.learning.forest.round import OpenRound
from edgefl.learning.metrics import means
from edgefl.wire.learning import RoundKind, Update

TREE = {2: 1, 3: 1, 4: 2, 5: 2, 6: 3, 7: 3, 8: 4, 9: 4, 10: 5}
BUFFERED = "buffered:goal=0.8,floor=1"


@dataclass
class Handed:
    """One delta that was given to a round: who trained it, in which round, and what it counts for."""

    job: TrainJob
    delta: np.ndarray
    weight: int
    life: LocalTraining


@dataclass
class Books:
    """Everything that was handed over, by (device, round), and every sum that a root was left with."""

    handed: dict[tuple[int, Tag], list[Handed]] = field(default_factory=dict)
    sums: int = 0

    def check(self, round_: OpenRound) -> None:
        """The mean at the root is exactly that of the deltas handed over to this round by those who are named in it.
        A device that lived twice in one round may have handed over two; one of them is in."""
        if round_.kind is not RoundKind.TRAIN or round_.sum.total is None:
            return
        for chunk in range(round_.sum.chunks):
            names = sorted(round_.sum.contributors(chunk))
            samples, participants, _ = round_.sum.weight(chunk)
            assert participants == len(names)
            where = slice(chunk * aggregate.CHUNK_PARAMETERS, (chunk + 1) * aggregate.CHUNK_PARAMETERS)
            found = round_.sum.total[where]
            assert not names or any(
                sum(part.weight for part in chosen) == samples
                and np.allclose(
                    found, sum(part.delta[where] * part.weight for part in chosen) / samples, rtol=1e-4, atol=1e-5
                )
                for chosen in product(*(self.handed[name, round_.tag] for name in names))
            ), f"chunk {chunk} of {round_.tag} is not the mean of {names}"
        self.sums += 1

    def once(self) -> None:
        """No training of one life of a device was handed over twice."""
        all_of_them = [(id(part.life), part.job.tag) for parts in self.handed.values() for part in parts]
        assert len(all_of_them) == len(set(all_of_them))


@contextmanager
def kept_books() -> Iterator[Books]:
    books = Books()
    add, closed = LocalTraining._add, Coordinator.on_closed
    finished: dict[int, TrainJob] = {}
    hand_over = LocalTraining._hand_over

    def noting(self: LocalTraining, round_: OpenRound) -> bool:
        if self.finished is not None:
            finished[id(self)] = self.finished[0].job
        return hand_over(self, round_)

    def adding(self: LocalTraining, round_: OpenRound, result: TrainResult, weight: int, metrics: object) -> None:
        if result.delta is not None:
            key = (self._app.me.node_id, round_.tag)
            part = Handed(finished[id(self)], result.delta.copy(), weight, self)
            books.handed.setdefault(key, []).append(part)
        add(self, round_, result, weight, metrics)  # type: ignore[arg-type]

    def closing(self: Coordinator, round_: OpenRound, now: float) -> None:
        books.check(round_)
        closed(self, round_, now)

    with (
        patch.object(LocalTraining, "_hand_over", noting),
        patch.object(LocalTraining, "_add", adding),
        patch.object(Coordinator, "on_closed", closing),
    ):
        yield books


def make_world(slow: int = 8, *, rounds: int = 20, pace: str = BUFFERED, **changes: object) -> World:
    """Ten devices that take 4 s; one takes ten times as long."""
    world = World(10, manifest=make_manifest(rounds=rounds, pace=pace, deadline_s=400.0, **changes))
    for device in world.devices.values():
        device.train_s = 4.0
    world.devices[slow].train_s = 40.0
    return world


@pytest.mark.parametrize("slow", [1, 2, 8], ids=["root", "inner", "leaf"])
def test_rounds_go_at_the_pace_of_the_quick_and_the_slow_one_takes_part(slow: int) -> None:
    world = make_world(slow)
    with kept_books() as books:
        world.start(TREE)
        root = world.devices[1].app
        world.run(lambda: root.ledger.round == 20, limit_s=1000.0)
    books.once()
    assert books.sums == 20
    records = {record.round: record for record in root.ledger.history.all()}
    assert records[1].participants == 10  # nobody knows yet, and 40 s are within the deadline
    assert 40 < records[1].seconds < 45
    for number in range(2, 21):
        assert records[number].seconds < 9.0
        assert records[number].participants >= 9
    late = {record.round: record for record in records.values() if record.stalest}
    assert len(late) >= 2
    for record in late.values():
        assert 4 <= record.stalest <= 10
        assert record.participants == 10
        assert means(record.metrics)[STALENESS_METRIC] == pytest.approx(record.stalest / 10)
    trained = [job for job in world.devices[slow].jobs if job.kind is RoundKind.TRAIN]
    handed = [part for (node, _), parts in books.handed.items() if node == slow for part in parts]
    assert len(trained) - len(handed) in (0, 1), "what it began it has finished, but for the last"


def test_training_has_no_deadline_and_who_declines_is_waited_for_no_longer() -> None:
    """The others' rounds go on at their pace; the one that may not train is asked anew in every round."""
    world = make_world(rounds=5)
    world.devices[3].declines = True
    world.start(TREE)
    world.run(lambda: world.devices[1].app.ledger.finished, limit_s=200.0)
    jobs = {kind: [j for d in world.devices.values() for j in d.jobs if j.kind is kind] for kind in RoundKind}
    assert {job.deadline for job in jobs[RoundKind.TRAIN]} == {math.inf}
    assert all(job.deadline < math.inf for job in jobs[RoundKind.EVALUATE])
    counters = world.devices[3].app.counters
    assert counters["training_declined"] == len(world.devices[3].jobs) >= 5
    assert "training_failed" not in counters


def test_a_stale_delta_weighs_less() -> None:
    world = make_world(pace="buffered:goal=0.8,floor=1,exponent=1")
    with kept_books() as books:
        world.start(TREE)
        root = world.devices[1].app
        world.run(lambda: root.ledger.round == 20, limit_s=1000.0)
    samples = world.devices[8].samples
    stale = 0
    for (node, tag), parts in books.handed.items():
        for part in parts:
            age = tag[1] - part.job.tag[1]
            exact = WEIGHT_UNIT * world.devices[node].samples / (1 + age)
            assert part.weight == pytest.approx(exact, abs=0.5)
            stale += age > 0
    assert stale >= 2
    everybody = sum(device.samples for device in world.devices.values())
    for record in root.ledger.history.all()[1:]:
        if record.stalest:
            assert record.samples == pytest.approx(everybody - samples + samples / (1 + record.stalest), abs=1)


def test_what_is_too_stale_is_dropped_and_counted() -> None:
    world = make_world(pace=BUFFERED + ",max_staleness=3")
    with kept_books() as books:
        world.start(TREE)
        root = world.devices[1].app
        world.run(lambda: root.ledger.round == 20, limit_s=1000.0)
    books.once()
    records = root.ledger.history.all()
    assert all(record.stalest <= 3 for record in records)
    assert world.devices[8].app.counters["delta_too_stale"] == sum(record.dropped for record in records) > 0
    ages = [tag[1] - part.job.tag[1] for (_, tag), parts in books.handed.items() for part in parts]
    assert max(ages) <= 3


def test_the_final_model_is_evaluated_by_everybody_and_half_done_work_is_let_go() -> None:
    world = make_world(rounds=6)
    world.start(TREE)
    world.run(world.finished, limit_s=1000.0)
    for device in world.devices.values():
        assert [job.kind for job in device.jobs][-1] is RoundKind.EVALUATE
    assert "loss" in means(world.devices[1].app.ledger.history.get(6).metrics)  # type: ignore[union-attr]
    assert world.devices[8].app.worker.local.finished is None


def test_an_evaluation_of_an_older_model_is_not_taken_for_one_of_the_newest() -> None:
    """Only the slow device could say how good model 3 is; what it says is of model 0."""
    world = make_world(rounds=20)
    world.start(TREE)
    root = world.devices[1].app
    world.run(lambda: root.ledger.round == 18, limit_s=1000.0)
    quick = sum(device.samples for number, device in world.devices.items() if number != 8)
    weights = [m.weight for record in root.ledger.history.all()[:18] for m in record.metrics if m.name == "loss"]
    assert weights == [quick + world.devices[8].samples] + [quick] * 17, "only in the first round all are fresh"


def test_a_new_root_takes_in_what_was_trained_for_the_old_one() -> None:
    world = make_world(slow=8, rounds=30)
    with kept_books() as books:
        world.start(TREE)
        root = world.devices[1].app
        world.run(lambda: root.ledger.round == 4, limit_s=1000.0)
        began = world.devices[8].jobs[-1]
        assert began.tag[1] <= 4
        world.kill(1)
        world.heal()
        new = world.devices[2].app
        world.run(lambda: new.ledger.round == 20, limit_s=1000.0)
    books.once()
    entered = [tag for (node, tag), parts in books.handed.items() if node == 8 and parts[0].job == began]
    assert len(entered) == 1
    assert entered[0][0] > began.tag[0], "in a round of the new root"
    assert entered[0][1] > began.tag[1]


def test_a_device_that_restarts_begins_anew() -> None:
    world = make_world(slow=8, rounds=30)
    with kept_books() as books:
        world.start(TREE)
        root = world.devices[1].app
        world.run(lambda: root.ledger.round == 6, limit_s=1000.0)
        began = world.devices[8].jobs[-1]
        world.kill(8)
        world.run(lambda: root.ledger.round == 8, limit_s=100.0)
        world.restart(8)
        world.attach(8, 4)
        world.run(lambda: root.ledger.round == 28, limit_s=1000.0)
    books.once()
    assert all(part.job.tag != began.tag for (node, _), parts in books.handed.items() if node == 8 for part in parts)
    assert any(node == 8 and tag[1] > 8 for node, tag in books.handed)


def test_when_all_are_one_round_behind_nobody_is_waited_for_in_vain() -> None:
    """Everybody misses a round once; from then on deltas are there before their round is, and rounds still succeed."""
    world = make_world(rounds=30, quorum=1.0)
    world.devices[8].train_s = 4.0
    world.start(TREE)
    root = world.devices[1].app
    world.run(lambda: root.ledger.round == 3, limit_s=500.0)
    for device in world.devices.values():
        device.train_s = 60.0
    world.run(lambda: root.ledger.round == 4, limit_s=1000.0)
    for device in world.devices.values():
        device.train_s = 4.0
    world.run(lambda: root.ledger.round == 30, limit_s=3000.0)
    assert max(record.attempts for record in root.ledger.history.all()) < 12


def test_lots_and_buffers_together() -> None:
    world = make_world(rounds=20, select=6, over_select=0.0, quorum=0.3)
    with kept_books() as books:
        world.start(TREE)
        root = world.devices[1].app
        world.run(lambda: root.ledger.round == 20, limit_s=2000.0)
    books.once()
    assert books.sums >= 20
    participants = [record.participants for record in root.ledger.history.all()[1:]]
    assert 4 < np.mean(participants) < 8


def test_lossy_updates_are_buffered_too() -> None:
    world = make_world(rounds=30, compress="int8")
    world.start(TREE)
    world.run(world.finished, limit_s=2000.0)
    np.testing.assert_allclose(world.model_of(1), world.expected_model(30), atol=0.2)


def test_a_delta_that_comes_when_chunks_are_on_their_way_waits_for_the_next_round() -> None:
    """In whole, not in part."""
    with small_chunks(), kept_books() as books:
        world = World(3, manifest=make_manifest(rounds=8, pace=BUFFERED, deadline_s=400.0))
        world.devices[2].train_s = 30.0
        world.start({2: 1, 3: 2})
        inner = world.devices[2].app
        world.run(lambda: inner.worker.open is not None and inner.worker.local.running is not None, limit_s=100.0)
        round_ = inner.worker.open
        assert round_ is not None
        inner.worker.local.on_time_over(round_)
        round_.waiting.add(99)  # another child, from which one chunk has come
        inner.worker.inflow.on_update(
            round_, make_contact(99), Update(inner.id, *round_.tag, (99,), 1, vector=True), world.now
        )
        round_.streams[99].done(0)
        world.run(lambda: round_.sum.sealed == 1, limit_s=20.0)
        world.run(lambda: inner.worker.local.running is None, limit_s=100.0)
        assert inner.worker.local.finished is not None
        assert inner.worker.open is round_
        assert (2, round_.tag) not in books.handed
        world.run(lambda: inner.worker.local.finished is None, limit_s=600.0)
    (entered,) = [tag for (node, tag), parts in books.handed.items() if node == 2 and parts[0].job.tag == round_.tag]
    assert entered > round_.tag


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.05, 0.15]))
def test_no_delta_counts_twice_whatever_happens(seed: int, loss: float) -> None:
    """Devices are quick or slow from job to job, die, restart and move; roots die; messages are lost. Every sum that a
    root is left with is the exact weighted mean of deltas handed over to that round, and each was handed over once."""
    with small_chunks():
        disturbed_run(seed, loss)


def disturbed_run(seed: int, loss: float) -> None:
    manifest = make_manifest(rounds=12, pace=BUFFERED + ",max_staleness=6", deadline_s=60.0, quorum=0.2, select=0)
    world = World(8, seed=seed, loss=loss, manifest=manifest)
    chance = world.random
    parents = {child: chance.randrange(1, child) for child in range(2, 9)}
    with kept_books() as books:
        for device in world.devices.values():
            device.train_s = chance.choice([0.5, 2.0, 20.0])
        world.start(parents)

        def disturb(now: float) -> None:
            alive = [n for n, d in world.devices.items() if d.alive]
            dead = [n for n, d in world.devices.items() if not d.alive]
            for n in alive:
                world.devices[n].train_s = chance.choice([0.5, 2.0, 20.0])
            move = chance.random()
            if move < 0.2 and len(alive) > 4:
                world.kill(chance.choice(alive))
            elif move < 0.5 and dead:
                world.restart(chance.choice(dead))
            elif move < 0.8:
                world.detach(chance.choice(alive))
            world.heal()
            if now < 240.0:
                world.at(now + chance.uniform(0.5, 6.0), disturb)

        world.at(2.0, disturb)
        world.run_for(240.0)
        world.run(
            lambda: books.sums > 0, limit_s=240.0
        )  # what was disturbed all the time goes on when it is left alone
    books.once()
