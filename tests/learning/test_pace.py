"""How much time a round gets, and what happens to those who need more: `--pace sync` and `--pace quantile`."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.learning_world import World, make_manifest

from edgefl.errors import UsageError
from edgefl.learning.forest.durations import SHORTEST_S, merge_reports, one_duration, quantile
from edgefl.learning.manifest import ManifestError, check_manifest
from edgefl.learning.pace import PACES, parse_pace
from edgefl.wire import Message
from edgefl.wire.learning import MAX_DURATIONS, PaceReport, RoundKind, RoundStart, Update

TREE = {2: 1, 3: 1, 4: 2, 5: 2, 6: 3, 7: 3, 8: 4, 9: 4, 10: 5}
reports = st.builds(
    PaceReport, st.lists(st.integers(0, 2**32 - 1), max_size=MAX_DURATIONS).map(tuple), st.integers(0, 9)
)


class TestSpec:
    def test_defaults_are_filled_in(self) -> None:
        pace = parse_pace("buffered:goal=0.7")
        assert (pace.share, pace.buffered, pace.measured, pace.max_staleness) == (0.7, True, True, 20)
        assert [round(pace.discount(age), 3) for age in (0, 3, 8)] == [1.0, 0.5, 0.333]
        assert parse_pace("buffered:exponent=1").discount(3) == 0.25
        assert parse_pace("quantile").share == 0.9
        assert not parse_pace("sync").measured
        assert (parse_pace("sync").discount(3), parse_pace("quantile").discount(3)) == (1.0, 1.0)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "slow",
            "sync:q=1",
            "quantile:q=0",
            "quantile:q=x",
            "quantile:q=1,q=1",
            "buffered:slack=nan",
            "buffered:exponent=-1",
            "buffered:max_staleness=0.5",
            "buffered:max_staleness=-1",
            "quantile:floor=0",
        ],
    )
    def test_what_no_pace_has_is_refused(self, text: str) -> None:
        with pytest.raises(UsageError) as caught:
            parse_pace(text)
        assert caught.value.hint
        with pytest.raises(ManifestError, match="pace"):
            check_manifest(make_manifest(pace=text))

    @pytest.mark.parametrize("text", list(PACES))
    def test_a_manifest_may_have_each(self, text: str) -> None:
        check_manifest(make_manifest(pace=text))

    def test_a_pace_that_is_too_long_is_refused(self) -> None:
        with pytest.raises(UsageError, match="bytes"):
            parse_pace("quantile:q=0." + "9" * 128)


class TestDurations:
    @given(st.lists(st.floats(SHORTEST_S, 1e6), min_size=1, max_size=50), st.floats(0.01, 1))
    def test_a_quantile_is_right_to_a_bucket_whatever_the_order_of_adding(self, times: list[float], q: float) -> None:
        total = PaceReport()
        for seconds in times:
            total = merge_reports(total, PaceReport(one_duration(seconds)))
        found = quantile(total.durations, q)
        rank = next(n for n in range(1, len(times) + 1) if n >= q * len(times) - 1e-9)
        exact = sorted(times)[rank - 1]
        assert found is not None
        assert exact * (1 - 1e-9) <= found <= exact * 2**0.25 * (1 + 1e-9)

    def test_nobody_takes_no_time(self) -> None:
        assert quantile((), 0.5) is None
        assert quantile((0, 0), 0.5) is None

    @given(st.floats(0, 1e12))
    def test_a_histogram_is_bounded(self, seconds: float) -> None:
        assert len(one_duration(seconds)) <= MAX_DURATIONS

    @given(reports, reports, reports)
    def test_merging_is_associative_and_stays_in_range(self, a: PaceReport, b: PaceReport, c: PaceReport) -> None:
        assert merge_reports(merge_reports(a, b), c) == merge_reports(a, merge_reports(b, c))
        assert max(merge_reports(a, b).durations, default=0) < 2**32


def budgets(world: World) -> dict[tuple[int, int], float]:
    """What the root's children are given: (round, attempt) -> seconds."""
    found: dict[tuple[int, int], float] = {}

    def tap(sender: int, _: int, message: Message) -> bool:
        if isinstance(message, RoundStart) and message.kind is RoundKind.TRAIN and sender == 1:
            found.setdefault((message.round, message.attempt), message.budget_s)
        return True

    world.tap = tap
    return found


def test_a_slow_device_holds_up_one_round_and_then_no_more() -> None:
    world = World(10, manifest=make_manifest(rounds=6, pace="quantile:q=0.8,floor=2", deadline_s=400.0))
    for device in world.devices.values():
        device.train_s = 4.0
    world.devices[8].train_s = 10_000.0
    world.start(TREE)
    world.run(lambda: world.devices[1].app.ledger.round == 6, limit_s=1000.0)
    records = world.devices[1].app.ledger.history.all()
    assert [record.participants for record in records[1:6]] == [9] * 5
    assert 95 < records[1].seconds < 105  # a leaf's quarter of the deadline
    for record in records[2:6]:
        assert record.seconds < 9.0  # 4 s, a bucket, and half as much again
        assert record.budget_s < 4 * 9.0
    assert world.devices[8].app.counters["own_out_of_time"] >= 5


def test_an_inner_device_that_is_slow_itself_holds_up_nobody_either() -> None:
    world = World(10, manifest=make_manifest(rounds=4, pace="quantile:q=0.8,floor=2", deadline_s=400.0))
    for device in world.devices.values():
        device.train_s = 4.0
    world.devices[2].train_s = 10_000.0
    world.start(TREE)
    world.run(lambda: world.devices[1].app.ledger.round == 4, limit_s=1000.0)
    records = world.devices[1].app.ledger.history.all()
    assert [record.participants for record in records[1:4]] == [9] * 3
    assert all(record.seconds < 9.0 for record in records[2:4])


def test_when_many_become_slower_the_time_grows_until_they_are_inside_it() -> None:
    world = World(10, manifest=make_manifest(rounds=30, pace="quantile:q=0.9,floor=1", deadline_s=400.0, quorum=0.2))
    for device in world.devices.values():
        device.train_s = 2.0
    world.start(TREE)
    root = world.devices[1].app
    world.run(lambda: root.ledger.round == 5)
    for number in range(4, 11):
        world.devices[number].train_s = 30.0
    world.run(lambda: root.ledger.round == 20, limit_s=3000.0)
    assert [record.participants for record in root.ledger.history.all()[-3:]] == [10] * 3


def test_the_time_is_never_above_the_deadline_nor_below_the_floor() -> None:
    world = World(10, manifest=make_manifest(rounds=4, pace="quantile:floor=3", deadline_s=50.0, quorum=0.1))
    for device in world.devices.values():
        device.train_s = 0.1
    world.start(TREE)
    found = budgets(world)
    world.run(world.finished)
    levels = 1 + world.tree_of(world.devices[1], world.app_id).height
    for (number, _), budget_s in found.items():
        record = world.devices[1].app.ledger.history.get(number)
        assert record is not None
        assert record.budget_s == pytest.approx(50.0 if number == 1 else 3.0 * levels)
        assert budget_s == pytest.approx(record.budget_s * (levels - 1) / levels, rel=0.01)


def test_an_attempt_gets_twice_the_time_of_the_one_that_failed() -> None:
    world = World(10, manifest=make_manifest(rounds=3, pace="quantile:floor=1", deadline_s=400.0, quorum=0.9))
    for device in world.devices.values():
        device.train_s = 1.0
    world.start(TREE)
    root = world.devices[1].app
    found = budgets(world)
    world.run(lambda: root.ledger.round == 2)
    for device in world.devices.values():
        device.train_s = 20.0
    world.run(world.finished, limit_s=1000.0)
    attempts = [budget_s for (number, _), budget_s in sorted(found.items()) if number == 3]
    assert len(attempts) > 1
    assert all(b >= 1.9 * a for a, b in pairwise(attempts))


def test_a_new_root_goes_on_at_the_pace_of_the_one_before() -> None:
    world = World(10, manifest=make_manifest(rounds=8, pace="quantile:q=0.8,floor=2", deadline_s=400.0))
    for device in world.devices.values():
        device.train_s = 4.0
    world.devices[9].train_s = 10_000.0
    world.start(TREE)
    root = world.devices[1].app
    world.run(lambda: root.ledger.round == 4, limit_s=1000.0)
    pace = root.ledger.history.get(4).budget_s  # type: ignore[union-attr]
    world.kill(1)
    world.heal()
    new = world.devices[2].app
    world.run(lambda: new.ledger.round >= 5, limit_s=200.0)
    assert new.ledger.history.get(5).budget_s == pytest.approx(pace, rel=0.5)  # type: ignore[union-attr]


def test_devices_that_a_child_does_not_have_are_not_believed() -> None:
    world = World(3, manifest=make_manifest(rounds=3, pace="quantile:floor=1", deadline_s=400.0))

    def tap(sender: int, _: int, message: Message) -> bool | Message:
        if isinstance(message, Update) and sender == 3 and message.final:
            return replace(message, report=PaceReport((0,) * 90 + (1000,)))
        return True

    world.tap = tap
    world.start({2: 1, 3: 1})
    world.run(world.finished, limit_s=100.0)
    assert world.devices[1].app.counters["report_invalid"] == 3
    assert world.devices[1].app.ledger.history.get(3).budget_s < 20  # type: ignore[union-attr]


def test_those_who_wait_for_everybody_say_nothing_of_their_pace() -> None:
    world = World(10)
    said: list[Update] = []

    def tap(_: int, __: int, message: Message) -> bool:
        if isinstance(message, Update):
            said.append(message)
        return True

    world.tap = tap
    world.start(TREE)
    world.run(world.finished)
    assert said
    assert all(update.report is None for update in said)
