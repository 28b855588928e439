"""The whole history is on the root and on its runners-up, whoever joined when, and survives the root."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.learning_world import Device, World, make_manifest

from edgefl.learning.forest.gaps import FILLED, NEWEST
from edgefl.learning.forest.records import EPSILON_METRIC
from edgefl.learning.history import MAX_ROUNDS_KEPT, History
from edgefl.learning.metrics import means
from edgefl.wire import encode
from edgefl.wire.learning import MAX_METRICS, MAX_RECORDS, Metric, ReplicaAck, RoundRecord


def rounds_of(device: Device) -> list[int]:
    return [record.round for record in device.app.ledger.history.all()]


def record(round_: int, epoch: int = 1) -> RoundRecord:
    return RoundRecord(round_, epoch, 3, 30, 1.0)


def late_fleet(rounds: int, late: int, *, after: int) -> World:
    """Devices 1 to 4, of which `late` joins when round `after` is done."""
    world = World(4, manifest=make_manifest(rounds=rounds))
    parents = {2: 1, 3: 1, 4: 2}
    others = {child: 1 if parent == late else parent for child, parent in parents.items() if child != late}
    for number, device in world.devices.items():
        if number != late:
            device.learning.take_part(world.advert, 0.0)
    world.run_for(0.1)
    root = next(number for number in world.devices if number != late)
    world.crown(root)
    for child, parent in ({3: 2, 4: 2} if late == 1 else others).items():
        world.attach(child, parent)
    world.run(lambda: world.devices[root].app.ledger.round >= after)
    world.devices[late].learning.take_part(world.advert, world.now)
    world.run_for(0.1)
    if late == 1:
        world.crown(1)
        world.attach(2, 1)
    else:
        world.attach(late, 1)
    return world


def test_every_record_has_what_the_issue_asks_for() -> None:
    world = World(4, manifest=make_manifest(rounds=3))
    world.start({2: 1, 3: 1, 4: 2})
    world.run(world.finished)
    for device in (world.devices[1], world.devices[2], world.devices[3]):  # the root and its runners-up
        records = device.app.ledger.history.all()
        assert [one.round for one in records] == [0, 1, 2, 3]
        for one in records[1:]:
            assert (one.participants, one.samples > 0, one.seconds > 0, one.bytes > 0) == (4, True, True, True)
            assert {"loss", "train_loss", EPSILON_METRIC} <= {metric.name for metric in one.metrics}
            assert "loss" in means(one.metrics)
    assert world.devices[2].app.ledger.history.all() == world.devices[1].app.ledger.history.all()


@pytest.mark.parametrize("late", [2, 3])
def test_a_runner_up_that_came_late_has_the_rounds_before_it(late: int) -> None:
    world = late_fleet(8, late, after=4)
    world.run(world.finished)
    assert rounds_of(world.devices[late]) == list(range(9))
    assert world.devices[late].app.ledger.history.get(2) == world.devices[1].app.ledger.history.get(2)
    saved = world.devices[late].saved[world.app_id]
    assert [one.round for one in saved.records] == list(range(9))  # over a restart, too


def test_a_root_that_came_late_learns_the_history_of_its_runners_up() -> None:
    world = late_fleet(8, 1, after=4)
    world.run(world.finished)
    assert world.devices[1].app.tree.is_root
    assert rounds_of(world.devices[1]) == list(range(9))


def test_the_history_survives_the_root_and_its_first_runner_up() -> None:
    world = World(5, manifest=make_manifest(rounds=8, quorum=0.4))
    world.start({2: 1, 3: 1, 4: 2, 5: 3})
    world.run(lambda: world.devices[1].app.ledger.round >= 5)
    before = {one.round: one for one in world.devices[1].app.ledger.history.all()[:-2]}
    world.kill(1)
    world.kill(2)
    world.crown(3)
    world.attach(4, 3)
    world.run(lambda: world.finished(3, 4, 5))
    history = world.devices[3].app.ledger.history
    assert rounds_of(world.devices[3]) == list(range(9))
    assert all(history.get(round_) == one for round_, one in before.items())


def test_a_long_history_comes_in_parts_that_fit_into_a_message() -> None:
    rounds = 3 * FILLED
    world = late_fleet(rounds, 3, after=rounds - 4)
    world.run(world.finished, limit_s=2000.0)
    held = rounds_of(world.devices[3])
    assert held == list(range(held[0], rounds + 1))
    # Three rounds brought two full parts at the least (the first Replica does not know yet what is missing).
    assert len(held) >= 2 * FILLED
    worst = RoundRecord(2**32 - 1, 2**64 - 1, 2**32 - 1, 2**64 - 1, 1.5, tuple(
        Metric("m" * 32, 1.1, 1.1) for _ in range(MAX_METRICS)), 2**64 - 1, 2**16 - 1)  # fmt: skip
    usual = RoundRecord(1000, 2**40, 1000, 10**6, 1.5, tuple(Metric("train_quite_long", 1.1, 1.1) for _ in range(8)))
    assert len(encode(ReplicaAck(1, 2**63, 1000, 1, (usual,) * MAX_RECORDS))) < 32 * 1024
    assert len(encode(ReplicaAck(1, 2**63, 1000, 1, (worst,)))) < 2 * 1024


def test_a_liar_among_the_runners_up_changes_no_record_that_is_known() -> None:
    world = World(3, manifest=make_manifest(rounds=3))
    world.start({2: 1, 3: 1})
    world.run(lambda: world.devices[1].app.ledger.round >= 2)
    root = world.devices[1].app
    known = root.ledger.history.all()
    lies = tuple(RoundRecord(round_, 2**60, 99, 9, 9.9) for round_ in (0, 1, 2, 50, 2**32 - 1))
    root.coordinator.on_replica_ack(
        world.devices[2].contact, ReplicaAck(root.id, root.ledger.epoch, 2, 0, lies), world.now
    )
    assert root.ledger.history.all() == known


class TestMissing:
    def test_nothing_is_missing_of_nothing(self) -> None:
        assert History().lacks() == 0
        assert History([record(0)]).lacks() == 0
        assert not History().is_missing(0)

    @given(st.sets(st.integers(0, 40), min_size=1))
    def test_what_is_missing_is_found_from_the_newest_on(self, present: set[int]) -> None:
        history = History(record(round_) for round_ in present)
        missing = [round_ for round_ in range(max(present)) if round_ not in present]
        assert history.lacks() == (missing[-1] + 1 if missing else 0)
        assert [round_ for round_ in range(60) if history.is_missing(round_)] == missing

    def test_what_is_too_old_to_be_kept_is_not_missing(self) -> None:
        history = History(record(round_) for round_ in range(MAX_ROUNDS_KEPT + 5))
        assert history.lacks() == 0
        assert not history.is_missing(0)

    @given(st.sets(st.integers(0, 40)), st.integers(0, 50), st.integers(1, 10))
    def test_the_newest_below_a_bound(self, present: set[int], bound: int, count: int) -> None:
        history = History(record(round_) for round_ in present)
        found = [one.round for one in history.below(bound, count)]
        assert found == sorted(round_ for round_ in present if round_ < bound)[-count:]


def test_the_parts_of_a_replica_fit() -> None:
    assert FILLED + NEWEST == MAX_RECORDS
