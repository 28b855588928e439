"""Many applications on one fleet: the links and processors that they share, and how long they take."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import groupby
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from edgefl.sim.apps.links import Downlink, Messages, Uplink
from edgefl.sim.apps.processor import Processor
from edgefl.sim.apps.run import Setting, groups, median_links, median_steps, run_apps
from edgefl.sim.clock import Clock
from edgefl.sim.train.traces import synthetic

SMALL = Setting(nodes=16, apps=4, members=4, rounds=3, parameters=70_000, steps=10)


def run(setting: Setting, *, alike: bool = False) -> dict[str, Any]:
    traces = median_links(synthetic(setting.nodes, setting.seed))
    return run_apps(setting, median_steps(traces) if alike else traces)


@cache
def small() -> dict[str, Any]:
    return run(SMALL)


def test_flows_take_turns_on_an_uplink() -> None:
    clock, left = Clock(), []
    uplink = Uplink(clock, 10.0)
    for number in range(3):
        uplink.send("a", 20, lambda number=number: left.append(("a", number, clock.now)))
    uplink.send("b", 10, lambda: left.append(("b", 0, clock.now)))
    clock.run(100.0)
    assert left == [("a", 0, 2.0), ("a", 1, 4.0), ("b", 0, 5.0), ("a", 2, 7.0)]  # b came after a's second turn
    assert uplink.sent_bytes == 70


def test_a_flow_without_anything_ready_is_passed_over_until_it_is_poked() -> None:
    class Later(Messages):
        ended = False  # more is to come

    clock, left = Clock(), []
    uplink, later = Uplink(clock, 1.0), Later()
    uplink.add("later", later)
    uplink.send("now", 1, lambda: left.append("now"))
    clock.run(10.0)
    assert left == ["now"]
    later.add(1, lambda: left.append("later"))
    uplink.poke()
    clock.run(20.0)
    assert left == ["now", "later"]


def test_a_downlink_is_shared_in_the_order_of_arrival() -> None:
    clock, arrived = Clock(), []
    downlink = Downlink(clock, 10.0)
    downlink.receive(10, 0.5, lambda: arrived.append(clock.now))
    downlink.receive(20, 0.5, lambda: arrived.append(clock.now))
    clock.run(10.0)
    assert arrived == [1.5, 3.5]


class TestProcessor:
    def test_jobs_take_turns_by_deadline_and_none_is_lost(self) -> None:
        clock, ended = Clock(), []
        processor = Processor(clock, 2.0)
        for app, steps, deadline in ((1, 5, 1000.0), (2, 3, 500.0), (3, 1, 2000.0)):
            processor.submit(app, steps, deadline, lambda done, app=app: ended.append((app, done, clock.now)))
        clock.run(100.0)
        # The step that is under way when an earlier deadline comes is ended first.
        assert ended == [(2, True, 8.0), (1, True, 16.0), (3, True, 18.0)]
        assert processor.busy_s == 18.0

    def test_what_is_too_late_ends_and_says_so(self) -> None:
        clock, ended = Clock(), []
        processor = Processor(clock, 1.0)
        processor.submit(1, 10, 4.5, lambda done: ended.append((1, done)))
        processor.submit(2, 10, 100.0, lambda done: ended.append((2, done)))
        clock.run(100.0)
        assert ended == [(1, False), (2, True)]
        assert processor.busy_s == 15.0

    def test_who_hears_of_an_end_may_begin_anew_at_once(self) -> None:
        clock, ended = Clock(), []
        processor = Processor(clock, 1.0)

        def again(done: bool) -> None:
            ended.append(done)
            processor.submit(1, 3, 100.0, ended.append)

        processor.submit(1, 10, 2.5, again)
        processor.submit(2, 2, 100.0, ended.append)
        clock.run(100.0)
        assert ended == [False, True, True]
        assert processor.busy_s == 3.0 + 3.0 + 2.0

    def test_a_newer_job_takes_the_place_of_the_older_one(self) -> None:
        clock, ended = Clock(), []
        processor = Processor(clock, 1.0)
        processor.submit(1, 10, 100.0, lambda done: ended.append("older"))
        clock.run(3.5)
        processor.submit(1, 2, 100.0, lambda done: ended.append("newer"))
        clock.run(100.0)
        assert ended == ["newer"]
        assert processor.busy_s == 6.0


@given(st.integers(2, 40), st.integers(1, 12), st.integers(1, 40), st.integers(0, 99))
def test_members_are_dealt_evenly(nodes: int, apps: int, members: int, seed: int) -> None:
    members = min(members, nodes)
    dealt = groups(Setting(nodes=nodes, apps=apps, members=members, seed=seed))
    assert all(len(set(group)) == members for group in dealt)
    parts = Counter(number for group in dealt for number in group)
    counts = [parts[number] for number in range(nodes)]
    assert max(counts) - min(counts) <= 2
    if apps * members <= nodes:
        assert max(counts) == 1


def test_applications_with_trainers_of_their_own_take_no_longer_together_than_one() -> None:
    """The measure of many applications (Totoro: 15.41 h for one, 15.47 h for twenty), small enough for a test."""
    found = small()
    assert found["over_one"]["mean"] <= 1.15
    assert found["over_one"]["longest"] <= 1.15
    assert found["server"]["sequential_over_trees"] > found["server"]["parallel_over_trees"] > 1.0
    for name, counts in found["runs"].items():
        assert (counts["rounds"], counts["participants"]) == (12, 4.0), name


def test_trainers_that_overlap_share_their_processors_almost_without_loss() -> None:
    """Every device in three applications: no system is faster than its busiest device."""
    found = run(Setting(nodes=8, apps=6, members=4, rounds=3, parameters=1000, steps=60), alike=True)
    busiest_s = found["runs"]["trees together"]["busiest_device_s"]
    assert busiest_s > 2 * found["one_s"]["longest"] * 0.8
    assert found["bound_s"] >= busiest_s
    assert 1.0 <= found["over_bound"] <= 1.3
    together, in_turn = found["runs"]["trees together"], found["runs"]["trees in turn"]
    assert together["device_seconds"] == in_turn["device_seconds"]  # nothing is trained twice


def test_a_fast_server_is_faster() -> None:
    slow = small()["server"]
    fast = run(replace(SMALL, server_uplink_bytes_s=1e8))["server"]
    assert fast["parallel_s"] < slow["parallel_s"]


def test_the_same_seed_gives_the_same_run() -> None:
    first, again = (run(Setting(nodes=8, apps=2, members=4, rounds=2, parameters=1000, steps=5)) for _ in range(2))
    for document in (first, again):
        del document["cpu_seconds"]
    assert first == again


def test_what_one_application_takes_is_its_own_time() -> None:
    found = run(Setting(nodes=4, apps=1, members=4, rounds=2, parameters=1000, steps=5))
    assert [name for name, _ in groupby(found["runs"])] == [
        "trees in turn",
        "trees together",
        "server in turn",
        "server together",
    ]
    assert found["over_one"] == {"mean": 1.0, "longest": 1.0, "longest_over_mean": 1.0}
