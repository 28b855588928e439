"""`--together`: several applications share one fleet's training, each device works for one of them at a time."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass, field
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.learning_world import World, make_manifest

from edgefl.errors import UsageError
from edgefl.learning.effects import TrainJob
from edgefl.learning.forest.need import SQUARES_METRIC, Need, need_of
from edgefl.learning.manifest import ManifestError, check_manifest
from edgefl.learning.metrics import means
from edgefl.learning.together import FIRST_HOLD_S, HOLD, MAX_NEED, MIN_NEED, Together, parse_together
from edgefl.sim.apps.device import AppDevice
from edgefl.sim.apps.run import Fleet, Setting, median_links, median_steps
from edgefl.sim.train.traces import synthetic
from edgefl.sim.training import make_application
from edgefl.wire.application import AppState, Manifest, Topology
from edgefl.wire.learning import RoundKind, RoundStart

BUFFERED = "buffered:goal=0.8,floor=1"


def test_a_group_has_a_name_and_perhaps_a_fixed_share() -> None:
    assert parse_together("") is None
    assert parse_together("plant 2") == ("plant 2", 0.0)
    assert parse_together("plant:share=2.5") == ("plant", 2.5)
    for wrong in (" ", ":share=1", "a:share=0.01", "a:share=5", "a:weight=1", "a:share=much", "x" * 33, "a\n"):
        with pytest.raises(UsageError):
            parse_together(wrong)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pace": "sync"}, "together: rounds of the pace sync wait for devices"),
        ({"pace": "quantile"}, "together: rounds of the pace quantile wait for devices"),
        ({"pace": "buffered", "select": 3}, "together: who trains is whose turn it is, and 3 devices"),
        ({"pace": "buffered", "together": "a:share=99"}, "together: a: share is 99, but must be"),
        ({"topology": Topology.SAMPLED}, "topology: the topology sampled has no together"),
        ({"topology": Topology.CONSENSUS}, "topology: the topology consensus has no together"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ManifestError) as raised:
        check_manifest(make_manifest(**{"together": "a", **changes}))
    assert reason in str(raised.value)
    assert raised.value.hint


def test_a_buffered_forest_may_be_one_of_a_group() -> None:
    check_manifest(make_manifest(together="a:share=2", pace="buffered", strategy="fedadam"))


# One device


@dataclass
class Fake:
    """A partner whose model is here or not, as the test says."""

    id: int
    live: bool = True
    fresh: bool = True
    begun: list[float] = field(default_factory=list)
    woken: list[float] = field(default_factory=list)

    def begin(self, now: float) -> None:
        self.begun.append(now)

    def wake(self, at: float) -> None:
        self.woken.append(at)


def make_group(*partners: Fake, device: int = 7) -> Together:
    together = Together(device)
    for partner in partners:
        together.enter(partner)
    return together


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(MIN_NEED, MAX_NEED), st.floats(0.1, 10)), min_size=2, max_size=6),
    st.integers(0, 2**64 - 1),
)
def test_time_is_divided_by_need_whatever_a_training_takes(apps: list[tuple[float, float]], device: int) -> None:
    """Where models are always at hand, no application is more than one training of each ahead of its part."""
    partners = [Fake(number) for number in range(len(apps))]
    together, had, now = make_group(*partners, device=device), [0.0] * len(apps), 0.0
    for partner, (need, _) in zip(partners, apps, strict=True):
        together.tell(partner.id, need)
    for _ in range(100):
        together.on_idle(now)
        assert together.busy is not None
        seconds = apps[together.busy][1]
        now, had[together.busy] = now + seconds, had[together.busy] + seconds
        together.charge(together.busy, seconds)
        together.free(together.busy)
    virtual = [seconds / need for seconds, (need, _) in zip(had, apps, strict=True)]
    longest = max(seconds / need for need, seconds in apps)
    assert max(virtual) - min(virtual) <= longest + 1e-9
    assert sum(had) == pytest.approx(now)  # never idle


def test_devices_begin_with_different_applications() -> None:
    first = Counter()
    for device in range(300):
        partners = [Fake(app) for app in (11, 12, 13)]
        make_group(*partners, device=device).on_idle(0.0)
        first[next(partner.id for partner in partners if partner.begun)] += 1
    assert all(70 <= first[app] <= 130 for app in (11, 12, 13)), first


def test_needs_are_bounded_whatever_a_root_says() -> None:
    a, b = Fake(1), Fake(2)
    together, count = make_group(a, b), Counter()
    together.tell(1, 1e300)
    together.tell(2, -5.0)
    for now in range(2000):
        together.on_idle(float(now))
        assert together.busy is not None
        count[together.busy] += 1
        together.charge(together.busy, 1.0)
        together.free(together.busy)
    assert count[1] / count[2] == pytest.approx(MAX_NEED / MIN_NEED, rel=0.2)


def order(together: Together, *partners: Fake) -> tuple[Fake, Fake]:
    """Who is first by lot, and the other one."""
    first, second = sorted(partners, key=lambda partner: together._parts[partner.id].lot)
    return first, second


def test_a_round_is_for_an_idle_device_if_it_is_the_applications_turn() -> None:
    a, b = Fake(1), Fake(2)
    together = make_group(a, b)
    first, second = order(together, a, b)
    assert not together.claims(second.id)  # the other one had as little, and comes first
    assert together.claims(first.id)
    assert not together.claims(second.id)  # busy
    assert together.claims(first.id)  # still the same one's
    together.charge(first.id, 4.0)
    together.free(first.id)
    assert not together.claims(first.id)  # it has had its share
    assert together.claims(second.id)


def test_an_idle_device_waits_for_the_one_whose_turn_it_is_but_not_for_long() -> None:
    a, b = Fake(1), Fake(2)
    together = make_group(a, b)
    first, second = order(together, a, b)
    first.fresh = False
    together.on_idle(10.0)
    assert first.woken == [10.0 + FIRST_HOLD_S]
    together.on_idle(11.0)  # asked again, it waits all the same
    assert (first.woken, first.begun, second.begun) == ([15.0], [], [])
    together.on_hold_over(first.id, 15.0)
    assert second.begun == [15.0]
    together.charge(second.id, 8.0)
    together.free(second.id)
    together.on_idle(23.0)  # who let it wait is passed over now
    assert second.begun == [15.0, 23.0]
    together.charge(second.id, 8.0)
    together.free(second.id)
    # Its next round is worth waiting for again; what it has missed it does not get back.
    assert together.claims(first.id) or together._parts[first.id].had == together._parts[second.id].had
    assert not together._parts[first.id].passed


def test_a_hold_ends_with_the_round_that_it_was_for_and_is_a_part_of_the_last_training() -> None:
    a, b = Fake(1), Fake(2)
    together = make_group(a, b)
    first, second = order(together, a, b)
    together.on_idle(0.0)
    together.charge(first.id, 8.0)
    together.free(first.id)
    second.fresh = False
    together.on_idle(8.0)
    assert second.woken == [8.0 + HOLD * 8.0]
    assert together.claims(second.id)
    together.on_hold_over(second.id, 10.0)  # the timer that nobody cancelled
    assert (together.busy, first.begun, second.begun) == (second.id, [0.0], [])


def test_when_one_ends_or_is_paused_the_device_goes_to_the_others_at_once() -> None:
    a, b = Fake(1), Fake(2)
    together = make_group(a, b)
    first, second = order(together, a, b)
    together.on_idle(0.0)
    first.live = False
    together.free(first.id)
    together.on_idle(1.0)
    assert second.begun == [1.0]
    together.leave(second.id)
    together.on_idle(2.0)
    assert together.busy is None
    first.live = True
    together.on_idle(3.0)
    assert first.begun == [0.0, 3.0]


def test_who_comes_later_begins_where_the_others_are() -> None:
    a, b = Fake(1), Fake(2)
    together = make_group(a)
    for now in range(100):
        together.on_idle(float(now))
        together.charge(1, 1.0)
        together.free(1)
    together.enter(b)
    for now in range(100, 110):
        together.on_idle(float(now))
        assert together.busy is not None
        together.charge(together.busy, 1.0)
        together.free(together.busy)
    assert len(b.begun) in (5, 6), "it does not catch up what was before it"


# What a model needs


@settings(deadline=None)
@given(st.integers(5, 40), st.integers(0, 2**32 - 1), st.floats(0.2, 1.5))
def test_need_is_the_root_of_the_relative_variance(devices: int, seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    parameters = 4000
    deltas = 1.0 + spread * rng.normal(size=(devices, parameters))
    squares, mean = float(np.mean(np.sum(deltas**2, axis=1))), deltas.mean(axis=0)
    assert need_of(squares, float(mean @ mean), devices) == pytest.approx(spread, rel=0.25)


def test_need_has_bounds() -> None:
    assert need_of(1.0, 1.0, 5) == MIN_NEED  # all alike
    assert need_of(1.0, 0.2, 5) == MAX_NEED  # the mean is as long as chance makes it
    assert need_of(0.0, 0.0, 5) == MIN_NEED
    assert need_of(1.0, 0.0, 2) == MAX_NEED


def test_the_root_says_what_it_finds_and_others_pass_it_on() -> None:
    said: list[RoundStart] = []
    world = World(4, manifest=make_manifest(rounds=6, pace=BUFFERED, together="a"))
    world.tap = lambda sender, to, message: said.append(message) is None if isinstance(message, RoundStart) else True
    world.start({2: 1, 3: 2, 4: 2})
    root = world.devices[1].app
    world.run(lambda: root.ledger.finished, limit_s=300.0)
    training = [message for message in said if message.kind is RoundKind.TRAIN]
    assert {message.need for message in training if message.round == 1} == {1.0}
    later = [message.need for message in training if message.round > 2]
    assert later
    assert all(MIN_NEED <= need <= MAX_NEED and need != 1.0 for need in later)
    record = root.ledger.history.get(3)
    assert record is not None
    assert means(record.metrics)[SQUARES_METRIC] > 0
    assert means(record.metrics)["train_need"] > 0
    # Below as above: a device that becomes the root goes on from there.
    heard = world.devices[3].app.need
    assert heard.value == pytest.approx(training[-1].need)
    assert {message.need for message in said if message.kind is not RoundKind.TRAIN} == {0.0}


def test_training_counts_and_evaluation_does_not() -> None:
    charged: list[float] = []
    world = World(3, manifest=make_manifest(rounds=4, pace=BUFFERED, together="a"))
    with patch.object(Together, "charge", lambda self, app, seconds: charged.append(seconds)):
        world.start({2: 1, 3: 1})
        world.run(world.finished, limit_s=300.0)
    jobs = [job for device in world.devices.values() for job in device.jobs]
    assert {job.kind for job in jobs} == {RoundKind.TRAIN, RoundKind.EVALUATE}
    trained = sum(job.kind is RoundKind.TRAIN for job in jobs)
    assert trained - 3 <= len(charged) <= trained  # what is under way at the end was for nothing
    assert all(seconds == pytest.approx(1.0, abs=0.2) for seconds in charged)


def test_a_fixed_share_is_not_said_and_not_overheard() -> None:
    world = World(2, manifest=make_manifest(rounds=3, pace=BUFFERED, together="a:share=4"))
    said: list[float] = []
    world.tap = lambda sender, to, message: (
        said.append(message.need) is None if isinstance(message, RoundStart) else True
    )
    world.start({2: 1})
    world.run(lambda: world.devices[1].app.ledger.finished, limit_s=300.0)
    assert set(said) == {0.0}
    need = Need(world.devices[2].app)
    need.heard(9.0)
    assert (need.value, need.said) == (4.0, 0.0)


# A fleet


class Noting(AppDevice):
    """Notes when it trains for which application."""

    def train(self, app: int, job: TrainJob) -> None:
        if job.kind is RoundKind.TRAIN:
            self.noted().append((app, self.member.now, None))
        super().train(app, job)

    def result(self, app: int, data: bytes, job: TrainJob):  # type: ignore[no-untyped-def]
        if job.kind is RoundKind.TRAIN:
            noted = self.noted()
            at = max(index for index, entry in enumerate(noted) if entry[0] == app)
            noted[at] = (*noted[at][:2], self.member.now)
        return super().result(app, data, job)

    def noted(self) -> list[tuple[int, float, float | None]]:
        return self.__dict__.setdefault("notes", [])


class Sharing(Fleet):
    kind = Noting
    together: tuple[str, ...] = ("all", "all")
    rounds: tuple[int, ...] = (12, 12)

    def _manifest(self, index: int) -> Manifest:
        return make_application(
            f"application-{index}",
            f"application-{index}",
            rounds=self.rounds[index],
            min_members=self.setting.members,
            quorum=0.5,
            seed=index,
            parameters=1000,
            deadline_s=120.0,
            pace="buffered",
            together=self.together[index],
        )


def run_fleet(together: tuple[str, ...], rounds: tuple[int, ...], *, alike: bool = False) -> Sharing:
    kind = type("Sharing", (Sharing,), {"together": together, "rounds": rounds})
    setting = Setting(nodes=8, apps=len(together), members=8, steps=100 if alike else 20)
    traces = median_links(synthetic(8, setting.seed))
    fleet: Sharing = kind(setting, median_steps(traces) if alike else traces, central=False)
    for manifest in fleet.manifests:
        fleet.start(manifest)
    return fleet


def spans(fleet: Sharing, until: float = math.inf) -> dict[int, float]:
    """Seconds of training for each application."""
    total = dict.fromkeys((manifest.app_id for manifest in fleet.manifests), 0.0)
    for device in fleet.learners:
        assert isinstance(device, Noting)
        for app, begin, end in device.noted():
            if end is not None and end <= until:
                total[app] += end - begin
    return total


def test_each_device_trains_one_at_a_time_and_all_applications_end() -> None:
    fleet = run_fleet(("all", "all", "all"), (8, 8, 8))
    fleet.finish()
    for device in fleet.learners:
        assert isinstance(device, Noting)
        done = [(begin, end) for _, begin, end in device.noted() if end is not None]
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(done))
        assert len({app for app, _, _ in device.noted()}) == 3, "every device has worked for every application"
    roots = [
        app
        for device in fleet.learners
        for app in device.learning.applications.values()
        if app.tree is not None and app.tree.is_root
    ]
    records = [record for app in roots for record in app.ledger.history.all() if record.participants]
    assert len(roots) == 3
    assert sum(record.participants for record in records) / len(records) < 0.75 * 8, "rounds have a part of the fleet"
    assert sum(record.attempts for record in records) <= 1.3 * len(records)


def test_fixed_shares_divide_the_devices_time() -> None:
    """Of devices that are alike. (One that is quicker trains no model twice, so its spare time is the others'.)"""
    fleet = run_fleet(("all:share=3", "all:share=1"), (400, 400), alike=True)
    fleet.world.run(300.0)
    large, small = spans(fleet).values()
    assert large / small == pytest.approx(3.0, rel=0.2)


def test_groups_of_other_names_do_not_wait_for_each_other() -> None:
    fleet = run_fleet(("one", "other"), (4, 4))
    fleet.finish()
    overlapping = 0
    for device in fleet.learners:
        assert isinstance(device, Noting)
        done = sorted((begin, end) for _, begin, end in device.noted() if end is not None)
        overlapping += sum(end > begin for (_, end), (begin, _) in itertools.pairwise(done))
    assert overlapping > 0


def test_when_an_application_ends_or_pauses_the_others_have_its_devices() -> None:
    fleet = run_fleet(("all", "all"), (400, 400), alike=True)
    fleet.world.run(200.0)
    first, second = (manifest.app_id for manifest in fleet.manifests)
    shared = spans(fleet)
    assert 0.5 <= shared[first] / shared[second] <= 2.0
    fleet.say(fleet.manifests[1], 3, AppState.PAUSED)
    fleet.world.run(20.0)
    before = spans(fleet)
    fleet.world.run(200.0)
    after = spans(fleet)
    gained = after[first] - before[first]
    assert after[second] == before[second]
    assert gained > 1.4 * shared[first]
    fleet.say(fleet.manifests[1], 4, AppState.RUNNING)
    fleet.world.run(200.0)
    assert spans(fleet)[second] - after[second] > 0.3 * gained
