"""Rounds of the forest topology, on scripted trees under virtual time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.learning_world import World, make_manifest

from edgefl.learning.effects import Prepared
from edgefl.learning.forest.coordinator import Phase
from edgefl.learning.metrics import means
from edgefl.wire import Message
from edgefl.wire.application import AppState, Target
from edgefl.wire.learning import ReplicaAck, RoundKind, RoundStart, Update, UpdateAck, UpdateChunk

CHAIN = {2: 1, 3: 2, 4: 3, 5: 4}
STAR = {2: 1, 3: 1, 4: 1, 5: 1}
TREE = {2: 1, 3: 1, 4: 2, 5: 2}


@st.composite
def trees(draw: st.DrawFn) -> dict[int, int]:
    """Any tree over devices 1..n with root 1: every device hangs below one with a smaller number."""
    size = draw(st.integers(1, 12))
    return {child: draw(st.integers(1, child - 1)) for child in range(2, size + 1)}


@settings(max_examples=40, deadline=None)
@given(trees(), st.integers(0, 1000))
def test_any_tree_gives_the_same_model_as_one_central_average(parents: dict[int, int], seed: int) -> None:
    world = World(len(parents) + 1, seed=seed)
    for device in world.devices.values():
        device.train_s = device.random.uniform(0.1, 3.0)  # any order of arrival
    world.start(parents)
    world.run(world.finished)
    for number in world.devices:
        np.testing.assert_allclose(world.model_of(number), world.expected_model(3), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("parents", [CHAIN, STAR, TREE])
def test_a_quiet_run(parents: dict[int, int]) -> None:
    world = World(5)
    world.start(parents)
    world.run(world.finished)
    root = world.devices[1].app
    history = {record.round: record for record in root.ledger.history.all()}
    assert sorted(history) == [0, 1, 2, 3]
    samples = sum(device.samples for device in world.devices.values())
    for number in (1, 2, 3):
        record = history[number]
        assert (record.participants, record.samples, record.attempts, record.epoch) == (
            5,
            samples,
            1,
            root.ledger.epoch,
        )
        assert record.bytes > 0
        assert {"loss", "train_loss"} <= set(means(record.metrics))
    losses = [means(history[number].metrics)["loss"] for number in range(4)]
    assert losses == sorted(losses, reverse=True)
    targets = [(d.target, d.samples) for d in world.devices.values()]
    model = world.expected_model(2)
    expected = sum(n * float(np.sum((t - model) ** 2)) for t, n in targets) / samples
    assert losses[2] == pytest.approx(expected, rel=1e-4)
    assert root.coordinator.phase is Phase.FINISHED
    for device in world.devices.values():
        assert device.app.ledger.round == 3
        assert device.saved[world.app_id].finished
        assert [job.kind for job in device.jobs] == [RoundKind.TRAIN] * 3 + [RoundKind.EVALUATE]
        assert device.app.counters == {}


def test_the_tree_is_watched_closely_from_the_first_round_to_the_end() -> None:
    world = World(5)
    world.start(TREE)
    world.run(lambda: all(device.watched for device in world.devices.values()))
    for device in world.devices.values():
        deadline_s = device.app.manifest.deadline_s  # whatever share of it a leaf has: the next round follows
        assert world.now < device.watched[world.app_id] <= world.now + deadline_s
    world.run(world.finished)
    world.run_for(1.0)
    for device in world.devices.values():
        assert device.watched[world.app_id] <= world.now


def test_devices_hold_no_more_than_the_newest_models() -> None:
    world = World(5, manifest=make_manifest(rounds=20))
    world.start(TREE)
    world.run(world.finished)
    for device in world.devices.values():
        assert len(device.blobs) <= 2


def test_an_application_of_one_device() -> None:
    world = World(1)
    world.start({})
    world.run(world.finished)
    np.testing.assert_allclose(world.model_of(1), world.expected_model(3), rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_lost_messages_cost_time_but_never_the_end(seed: int) -> None:
    world = World(5, seed=seed, loss=0.1, manifest=make_manifest(deadline_s=20.0, quorum=0.2))
    world.start(TREE)
    world.run(world.finished, limit_s=2000)
    assert world.devices[1].app.ledger.round == 3
    assert np.isfinite(world.model_of(1)).all()


def test_a_lost_invitation_is_repeated() -> None:
    world = World(5)
    lost: list[tuple[RoundKind, int]] = []

    def tap(_: int, to: int, message: Message) -> bool:
        if isinstance(message, RoundStart) and to == 4 and (message.kind, message.round) not in lost:
            lost.append((message.kind, message.round))
            return False
        return True

    world.tap = tap
    world.start(TREE)
    world.run(world.finished, limit_s=30)  # the deadline of each round is 60
    assert [kind for kind, _ in lost] == [RoundKind.TRAIN] * 3 + [RoundKind.EVALUATE, RoundKind.DONE]
    np.testing.assert_allclose(world.model_of(1), world.expected_model(3), rtol=1e-5, atol=1e-6)


def test_a_child_that_trains_for_long_is_reminded_less_and_less_often() -> None:
    world = World(2, manifest=make_manifest(deadline_s=400.0, rounds=1))
    world.devices[2].train_s = 180.0
    starts: list[float] = []

    def tap(_: int, to: int, message: Message) -> bool:
        if isinstance(message, RoundStart) and to == 2 and message.kind is RoundKind.TRAIN:
            starts.append(world.now - starts[0] if starts else world.now)
        return True

    world.tap = tap
    world.start({2: 1})
    world.run(lambda: world.devices[1].app.ledger.round == 1)
    assert starts[1:] == pytest.approx([3, 9, 21, 45, 93, 153])
    assert world.devices[1].app.ledger.history.get(1).participants == 2


def test_a_straggler_is_left_behind_at_the_deadline_and_counted() -> None:
    world = World(5, manifest=make_manifest(deadline_s=10.0))
    world.devices[5].train_s = 10_000.0
    world.start(TREE)
    world.run(lambda: world.finished(1))
    np.testing.assert_allclose(world.model_of(1), world.expected_model(3, [1, 2, 3, 4]), rtol=1e-5, atol=1e-6)
    assert world.devices[5].app.counters["round_out_of_time"] >= 3
    assert world.devices[1].app.counters == {}  # its child reports in time, with a partial sum


def test_each_level_gets_its_share_of_the_deadline() -> None:
    world = World(5, manifest=make_manifest(deadline_s=10.0))
    budgets: dict[int, float] = {}

    def tap(sender: int, to: int, message: Message) -> bool:
        if isinstance(message, RoundStart) and message.kind is RoundKind.TRAIN:
            budgets.setdefault(to, message.budget_s)
        return True

    world.tap = tap
    world.start(CHAIN)
    world.run(world.finished)
    assert [round(budgets[n]) for n in (2, 3, 4, 5)] == [8, 6, 4, 2]


def test_without_a_quorum_the_round_is_tried_again() -> None:
    world = World(5, manifest=make_manifest(deadline_s=5.0, quorum=0.8, rounds=1))
    for number in (4, 5):
        world.devices[number].broken = True
    world.start(TREE)
    world.run(lambda: world.devices[1].app.counters.get("round_failed", 0) >= 3)
    assert "3 of 5 devices delivered, 4 are needed" in world.devices[1].app.coordinator.problem
    assert world.devices[1].app.ledger.round == 0
    for number in (4, 5):
        world.devices[number].broken = False
    world.run(world.finished)
    record = world.devices[1].app.ledger.history.get(1)
    assert record is not None
    assert record.attempts >= 4
    np.testing.assert_allclose(world.model_of(1), world.expected_model(1), rtol=1e-5, atol=1e-6)


def test_nothing_starts_before_enough_members_are_there() -> None:
    world = World(3, manifest=make_manifest(min_members=3))
    for device in world.devices.values():
        device.learning.take_part(world.advert, 0.0)
    world.run_for(0.1)
    world.crown(1)
    world.attach(2, 1)
    world.run_for(30)
    assert world.devices[1].jobs == []
    assert world.devices[1].app.coordinator.problem == "waiting for members: 2 of 3"
    world.attach(3, 1)
    world.run(world.finished)


def test_whoever_is_no_root_any_more_waits_for_nobody() -> None:
    world = World(3, manifest=make_manifest(min_members=3))
    for device in world.devices.values():
        device.learning.take_part(world.advert, 0.0)
    world.run_for(0.1)
    world.crown(2)
    world.run_for(30)
    assert world.devices[2].app.problem == "waiting for members: 1 of 3"
    world.crown(1)
    world.attach(2, 1)
    assert world.devices[2].app.problem == ""
    world.attach(3, 1)
    world.run(world.finished)


def test_the_least_number_of_members_is_for_the_start_alone() -> None:
    world = World(4, manifest=make_manifest(min_members=4, rounds=10))
    world.start({2: 1, 3: 1, 4: 1})
    world.run(lambda: world.devices[1].app.ledger.round == 2)
    world.kill(1)
    world.heal()
    world.run(world.finished)


def test_devices_that_move_as_a_round_begins_and_ends_are_not_asked_for_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six devices; two are counted at both their parents but for a moment in the middle of the round."""
    world = World(6, manifest=make_manifest(rounds=3, quorum=1.0))
    offers: set[int] = set()
    count = world._members

    def tap(sender: int, to: int, message: Message) -> bool:
        if isinstance(message, RoundStart):
            offers.clear()
        elif isinstance(message, Update) and to == 1:
            offers.add(sender)
        return True

    def counted(number: int) -> int:
        return count(number) + 2 * (number == 1 and len(offers) not in (1, 2, 3))

    for number, device in world.devices.items():
        device.train_s = float(number)
    monkeypatch.setattr(world, "_members", counted)
    world.tap = tap
    world.start(dict.fromkeys(range(2, 7), 1))
    world.run(world.finished)
    history = world.devices[1].app.ledger.history.all()
    assert [(record.participants, record.attempts) for record in history[-3:]] == [(6, 1)] * 3


def test_the_target_ends_training_early() -> None:
    world = World(3, manifest=make_manifest(rounds=50, target=Target("loss", 0.0)))  # any loss is at least 0
    world.start({2: 1, 3: 1})
    world.run(world.finished)
    assert world.devices[1].app.ledger.round == 1
    assert world.devices[2].app.ledger.round == 1


def test_a_latecomer_takes_part_in_the_open_round() -> None:
    world = World(3)
    for device in world.devices.values():
        device.learning.take_part(world.advert, 0.0)
        device.train_s = 5.0
    world.run_for(0.1)
    world.crown(1)
    world.attach(2, 1)
    world.run(lambda: len(world.devices[2].jobs) == 1)
    world.attach(3, 2)
    world.run(world.finished)
    record = world.devices[1].app.ledger.history.get(1)
    assert record is not None
    assert record.participants == 3


def test_who_comes_after_the_end_gets_the_final_model() -> None:
    world = World(4)
    for device in world.devices.values():
        device.learning.take_part(world.advert, 0.0)
    world.run_for(0.1)
    world.crown(1)
    world.attach(2, 1)
    world.attach(3, 2)
    world.run(lambda: world.finished(1, 2, 3))
    world.attach(4, 3)
    world.run(lambda: world.finished(4))
    assert world.devices[4].jobs == []
    assert (world.model_of(4) == world.model_of(1)).all()


def test_observers_see_the_history_and_get_the_final_model_but_do_not_train() -> None:
    world = World(4)
    world.start({2: 1, 3: 1, 4: 2}, observers=[4])
    world.run(world.finished)
    watcher = world.devices[4]
    assert watcher.jobs == []
    assert (world.model_of(4) == world.model_of(1)).all()
    assert [record.round for record in watcher.app.ledger.history.all()] == [0, 1, 2, 3]
    np.testing.assert_allclose(world.model_of(1), world.expected_model(3, [1, 2, 3]), rtol=1e-5, atol=1e-6)


def test_pause_resume_and_stop_by_the_owner() -> None:
    world = World(3, manifest=make_manifest(rounds=100))
    world.start({2: 1, 3: 1})
    root = world.devices[1]
    world.run(lambda: root.app.ledger.round >= 2)

    def command(version: int, state: AppState) -> None:
        from support.learning_world import make_advert

        for device in world.devices.values():
            device.learning.on_advert(make_advert(world.manifest, version=version, state=state), world.now)

    command(2, AppState.PAUSED)
    world.run(lambda: root.app.coordinator.problem == "paused by its owner")
    rounds = root.app.ledger.round
    world.run_for(100)
    assert root.app.ledger.round == rounds
    command(1, AppState.RUNNING)  # an old advert changes nothing
    world.run_for(100)
    assert root.app.ledger.round == rounds
    command(3, AppState.RUNNING)
    world.run(lambda: root.app.ledger.round > rounds)
    command(4, AppState.STOPPED)
    world.run(world.finished)
    assert root.app.ledger.round < 100
    assert {device.app.ledger.round for device in world.devices.values()} == {root.app.ledger.round}


class TestHostileChildren:
    """What a lying child can do: waste its own part."""

    def run_with_forged(self, kind: type[Message], **changes: Any) -> World:
        """Device 3's messages of one kind are changed on their way to the root."""
        world = World(4, manifest=make_manifest(deadline_s=20.0, rounds=1))

        def tap(sender: int, to: int, message: Message) -> bool | Message:
            return replace(message, **changes) if sender == 3 and isinstance(message, kind) else True  # type: ignore

        world.tap = tap
        world.start({2: 1, 3: 1, 4: 1})
        world.run(lambda: world.finished(1))
        return world

    @pytest.mark.parametrize(
        ("kind", "changes"),
        [
            (UpdateChunk, {"samples": 10**12}),
            (UpdateChunk, {"samples": 0}),
            (UpdateChunk, {"participants": 2, "mask": b"\1"}),
            (Update, {"contributors": (3, 3)}),
            (Update, {"first": 99}),
        ],
    )
    def test_impossible_claims_are_refused(self, kind: type[Message], changes: dict[str, Any]) -> None:
        world = self.run_with_forged(kind, **changes)
        assert world.devices[1].app.counters["update_invalid"] >= 1
        np.testing.assert_allclose(world.model_of(1), world.expected_model(1, [1, 2, 4]), rtol=1e-5, atol=1e-6)

    def test_a_device_is_never_counted_twice(self) -> None:
        counters = self.run_with_forged(Update, contributors=(2,)).devices[1].app.counters
        assert counters["chunk_duplicate"] == 1

    def test_values_that_are_not_finite_are_refused(self) -> None:
        world = World(4, manifest=make_manifest(rounds=1))
        world.devices[3].target = np.full(5, np.inf, np.float32)
        world.start({2: 1, 3: 1, 4: 3})
        world.run(lambda: world.finished(1))
        assert world.devices[3].app.counters["training_failed"] == 1
        np.testing.assert_allclose(world.model_of(1), world.expected_model(1, [1, 2, 4]), rtol=1e-5, atol=1e-6)

    def test_who_declines_to_train_holds_nobody_up(self) -> None:
        """A leaf and an interior device that may not train now: no round waits for its deadline, the interior one still
        passes on what its children send, and a declined round is no failure."""
        world = World(5, manifest=make_manifest(rounds=2, quorum=0.5))
        for number in (2, 4):
            world.devices[number].declines = True
        world.start({2: 1, 3: 1, 4: 2, 5: 2})
        world.run(lambda: world.finished(1, 2, 3, 4, 5), limit_s=world.manifest.deadline_s / 2)
        assert [record.participants for record in world.devices[1].app.ledger.history.tail(2)] == [3, 3]
        np.testing.assert_allclose(world.model_of(1), world.expected_model(2, [1, 3, 5]), rtol=1e-5, atol=1e-6)
        for number in (2, 4):
            counters = world.devices[number].app.counters
            assert counters["training_declined"] == 3  # two rounds, and the final evaluation
            assert "training_failed" not in counters

    def test_nobody_waits_for_a_job_after_the_devices_own_share_of_the_round(self) -> None:
        world = World(3, manifest=make_manifest(rounds=1))
        world.start({2: 1, 3: 2})
        world.run(lambda: world.finished(1))
        deadlines = [world.devices[number].jobs[0].deadline for number in (1, 2, 3)]
        assert deadlines == sorted(deadlines, reverse=True)
        assert deadlines[0] <= world.manifest.deadline_s + 10.0

    def test_an_update_for_another_round_is_late(self) -> None:
        world = World(2)
        world.start({2: 1})
        world.run(world.finished)
        world.devices[2].send(world.devices[1].contact, Update(world.app_id, 1, 1, 1, (2,), 1))
        world.run_for(1)
        assert world.devices[1].app.counters["update_late"] == 1

    def test_a_child_that_was_taken_for_dead_is_told_so_and_not_that_it_is_late(self) -> None:
        """It asks for its place again, and then offers its update again."""
        world = World(3)
        world.start({2: 1, 3: 1})
        world.devices[3].train_s = 20.0
        world.run(lambda: len(world.devices[3].jobs) > 0)
        root = world.devices[1]
        assert root.app.worker.open is not None
        world.detach(2)
        world.devices[2].send(root.contact, Update(world.app_id, *root.app.worker.open.tag, (2,), 1))
        world.run_for(0.5)
        assert root.disowned == [2]
        assert root.app.counters["update_not_from_child"] == 1
        assert "update_late" not in root.app.counters
        world.attach(2, 1)
        world.run(lambda: root.app.ledger.round == 1)
        record = root.app.ledger.history.get(1)
        assert record is not None
        assert record.participants == 3

    def test_only_the_parent_starts_rounds(self) -> None:
        world = World(3)
        world.start({2: 1, 3: 1})
        world.run_for(0.2)
        device = world.devices[2]
        start = RoundStart(world.app_id, 9 << 16, 9, 1, RoundKind.TRAIN, device.hold(bytes(20)), 5.0)
        world.devices[3].send(device.contact, start)
        world.run_for(0.5)
        assert device.app.counters["round_not_from_parent"] == 1
        assert len(device.disowned) == 1, "who takes us for its child must not wait for us"
        assert device.jobs == []


def test_an_update_lost_with_its_acknowledgement_is_not_added_twice() -> None:
    world = World(3, manifest=make_manifest(rounds=2))
    lost: list[Message] = []

    def tap(sender: int, to: int, message: Message) -> bool:
        if isinstance(message, UpdateAck) and to == 2 and len(lost) < 2:
            lost.append(message)
            return False
        return True

    world.devices[3].train_s = 10.0  # the round stays open long enough for a second offer
    world.tap = tap
    world.start({2: 1, 3: 1})
    world.run(world.finished)
    np.testing.assert_allclose(world.model_of(1), world.expected_model(2), rtol=1e-5, atol=1e-6)


def test_a_parent_that_dies_after_its_child_was_served_does_not_make_the_round_wrong() -> None:
    """The child's update reached the dead parent, which had not passed it on: it is lost, never doubled."""
    world = World(4, manifest=make_manifest(rounds=1, quorum=0.2))
    world.devices[1].train_s = 8.0
    world.devices[2].train_s = 6.0
    world.start({2: 1, 4: 2, 3: 1})
    world.run(lambda: world.devices[4].jobs != [] and 4 in world.devices[2].app.worker.open.delivered)  # type: ignore[union-attr]
    world.kill(2)
    world.attach(4, 3)
    world.run(lambda: world.finished(1))
    np.testing.assert_allclose(world.model_of(1), world.expected_model(1, [1, 3]), rtol=1e-5, atol=1e-6)


def test_an_orphan_delivers_through_its_new_parent_in_the_same_round() -> None:
    world = World(4, manifest=make_manifest(rounds=1, quorum=0.2))
    for device in world.devices.values():
        device.train_s = 5.0
    world.start({2: 1, 4: 2, 3: 1})
    world.run(lambda: all(device.jobs for device in world.devices.values()))
    world.kill(2)
    world.attach(4, 3)
    world.run(lambda: world.finished(1))
    np.testing.assert_allclose(world.model_of(1), world.expected_model(1, [1, 3, 4]), rtol=1e-5, atol=1e-6)


def test_a_round_is_done_only_when_a_second_device_holds_its_model() -> None:
    world = World(3, manifest=make_manifest(rounds=2))
    world.tap = lambda sender, to, message: not isinstance(message, ReplicaAck)
    world.start({2: 1, 3: 1})
    root = world.devices[1]
    world.run(lambda: root.app.coordinator.phase is Phase.REPLICATING)
    world.run_for(5)
    assert root.app.ledger.round == 0
    world.run(lambda: root.app.ledger.round == 1)
    assert root.app.counters["replica_unanswered"] == 1


def test_refused_and_postponed_applications() -> None:
    world = World(2)
    device = world.devices[1]
    device.prepared = Prepared(None, "the data has 3 columns, the model wants 64")
    device.learning.take_part(world.advert, 0.0)
    world.run_for(1)
    assert device.app.stage.value == "refused"
    assert device.app.refusal.startswith("the data has 3 columns")
    assert device.joined == {}

    seeker = world.devices[2]
    seeker.prepared = Prepared(None, "nobody has the artifacts", retry=True)
    seeker.learning.take_part(world.advert, world.now)
    world.run_for(1)
    assert seeker.app.stage.value == "seeking"
    assert seeker.joined == {world.app_id: True}  # as an observer, to find somebody who has them
    seeker.prepared = None
    world.run_for(10)
    assert seeker.app.stage.value == "member"
    assert seeker.joined == {world.app_id: False}
