"""The small parts of learning, each against its law."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.learning_world import World, make_advert, make_manifest

from edgefl.learning.fit import check_fits
from edgefl.learning.forest.epoch import epoch_number, next_epoch
from edgefl.learning.history import MAX_ROUNDS_KEPT, History
from edgefl.learning.manifest import ManifestError, check_manifest
from edgefl.learning.metrics import mean, means, merge
from edgefl.learning.node import MAX_APPLICATIONS, PUBLISH_S, Decision, Part
from edgefl.wire import Contact
from edgefl.wire.application import Advert, AppState, Artifact, Target
from edgefl.wire.blob import BlobRef
from edgefl.wire.learning import MAX_METRICS, Metric, RoundRecord, Standing, UpdateChunk
from edgefl.wire.overlay import Ping

metric_lists = st.lists(st.builds(Metric, st.sampled_from("abcd"), st.floats(-1e6, 1e6), st.floats(0, 1e6)), max_size=5)


class TestMetrics:
    @given(metric_lists, metric_lists, metric_lists)
    def test_merging_is_associative_up_to_rounding(self, a: Any, b: Any, c: Any) -> None:
        left, right = merge(merge(a, b), c), merge(a, merge(b, c))
        assert [m.name for m in left] == [m.name for m in right]
        for x, y in zip(left, right, strict=True):
            assert x.total == pytest.approx(y.total, abs=1e-3)

    def test_a_sum_that_would_not_be_finite_leaves_the_metric_as_it_was(self) -> None:
        merged = merge([Metric("a", 1e308, 1.0)], [Metric("a", 1e308, 1.0)], [Metric("b", float("nan"), 1.0)])
        assert merged == (Metric("a", 1e308, 1.0),)

    def test_names_are_bounded_and_weightless_means_absent(self) -> None:
        merged = merge([Metric(f"{n:02}", 1.0, 1.0) for n in range(99)])
        assert len(merged) == MAX_METRICS
        assert mean([Metric("a", 1.0, 0.0)], "a") is None
        assert means([Metric("a", 1.0, 0.0), Metric("b", 3.0, 2.0)]) == {"b": 1.5}


class TestHistory:
    def test_more_metrics_or_a_later_epoch_win(self) -> None:
        first = RoundRecord(1, 65536, 5, 100, 1.0)
        complete = replace(first, metrics=(Metric("loss", 1.0, 1.0),))
        later = replace(first, epoch=131072)
        history = History([complete, first])
        assert history.get(1) == complete
        history.merge([later])
        assert history.get(1) == later
        assert history.get(2) is None

    def test_the_tail_is_ordered_and_the_whole_is_bounded(self) -> None:
        history = History(RoundRecord(n, 1, 1, 1, 1.0) for n in range(MAX_ROUNDS_KEPT + 5, 0, -1))
        assert len(history) == MAX_ROUNDS_KEPT
        assert [record.round for record in history.tail(2)] == [MAX_ROUNDS_KEPT + 4, MAX_ROUNDS_KEPT + 5]
        assert history.all()[0].round == 6


@given(st.lists(st.integers(0, 2**40), max_size=5), st.integers(0, 2**64 - 1))
def test_a_new_epoch_is_above_all_that_were_heard(heard: list[int], node_id: int) -> None:
    epoch = next_epoch(heard, node_id)
    assert all(epoch > other for other in heard)
    assert epoch_number(epoch) >= 1
    assert next_epoch(heard, node_id ^ 1) != epoch


BAD_MANIFESTS: list[dict[str, Any]] = [
    {"name": "  "},
    {"name": "a\nb"},
    {"data": ""},
    {"strategy": "magic"},
    {"strategy": "fedadam:beta1=1"},
    {"strategy": "fedprox:mu=-1"},
    {"parameters": 0},
    {"parameters": 2**40},
    {"rounds": 0},
    {"quorum": 0.0},
    {"quorum": 1.5},
    {"deadline_s": 0.0},
    {"deadline_s": 1e9},
    {"local_epochs": 0},
    {"batch": 0},
    {"learning_rate": 0.0},
    {"held_back": 0.95},
    {"min_members": 0},
    {"max_samples": 0},
    {"target": Target("", 1.0)},
    {"artifacts": ()},
    {"artifacts": tuple(Artifact("../../etc/passwd", BlobRef(bytes(32), 1)) for _ in range(6))},
    {"artifacts": tuple(replace(a, blob=BlobRef(bytes(32), 2**60)) for a in make_manifest().artifacts)},
]


class TestManifest:
    def test_a_good_one_passes(self) -> None:
        check_manifest(make_manifest(target=Target("accuracy", 0.9)))

    @pytest.mark.parametrize("changes", BAD_MANIFESTS)
    def test_bad_ones_name_the_field(self, changes: dict[str, Any]) -> None:
        with pytest.raises(ManifestError, match=next(iter(changes))) as caught:
            check_manifest(make_manifest(**changes))
        assert caught.value.exit_code == 78
        assert caught.value.hint

    @pytest.mark.parametrize("changes", BAD_MANIFESTS)
    def test_every_device_refuses_a_bad_one_again(self, changes: dict[str, Any]) -> None:
        """An owner with a program of his own signs what no command would: nobody takes part, and all say why."""
        manifest = make_manifest(**changes)
        device = World(1, manifest=make_manifest()).devices[1]
        device.learning.on_advert(make_advert(manifest), 0.0)
        assert device.learning.applications == {}
        assert next(iter(changes)) in device.learning.ignored[manifest.app_id]
        device.adverts = lambda: (make_advert(manifest),)  # type: ignore[assignment]
        device.learning.on_help_wanted(manifest.app_id, 0.0)
        assert device.learning.applications == {}

    def test_a_model_must_fit_into_the_device(self) -> None:
        manifest = make_manifest(parameters=1_000_000)
        check_fits(manifest, 32_000_000, trains=True)
        check_fits(manifest, None, trains=True)
        check_fits(manifest, 12_000_000, trains=False)
        with pytest.raises(
            ManifestError, match=r"1,000,000 parameters needs 32 MB of memory.*may take 31 MB"
        ) as caught:
            check_fits(manifest, 31_000_000, trains=True)
        assert caught.value.hint


class TestLearning:
    def test_the_policy_decides_and_its_reason_is_kept(self) -> None:
        world = World(1)
        device = world.devices[1]
        device.decision = Decision(Part.IGNORE, "no data named digits")
        device.learning.on_advert(world.advert, 0.0)
        assert device.learning.applications == {}
        assert device.learning.ignored == {world.app_id: "no data named digits"}
        device.decision = Decision(Part.OBSERVE)
        device.learning.on_advert(world.advert, 0.0)
        assert device.app.observer
        assert device.learning.ignored == {}

    def test_a_manifest_that_cannot_be_run_is_ignored_with_its_reason(self) -> None:
        world = World(1)
        device = world.devices[1]
        device.learning.on_advert(make_advert(make_manifest(strategy="magic")), 0.0)
        assert "strategy" in device.learning.ignored[make_manifest().app_id]
        device.learning.on_advert(Advert(b"junk", 1, AppState.RUNNING, bytes(64), device.contact), 0.0)
        assert device.learning.applications == {}

    def test_applications_and_refusals_are_bounded(self) -> None:
        world = World(1)
        device = world.devices[1]
        for number in range(3 * MAX_APPLICATIONS):
            device.learning.on_advert(make_advert(make_manifest(salt=number.to_bytes(16, "big"))), 0.0)
        assert len(device.learning.applications) == MAX_APPLICATIONS
        assert len(device.learning.ignored) == MAX_APPLICATIONS

    def test_taking_part_twice_is_once_and_dropping_forgets(self) -> None:
        world = World(1)
        device = world.devices[1]
        first = device.learning.take_part(world.advert, 0.0)
        assert device.learning.take_part(world.advert, 0.0) is first
        world.run_for(1)
        assert device.joined
        device.learning.drop(world.app_id, world.now)
        assert device.learning.applications == {}
        assert device.released == [world.app_id]
        assert device.joined == {}
        device.learning.drop(world.app_id, world.now)

    def test_root_and_owner_renew_the_advert(self) -> None:
        world = World(3)
        world.start({2: 1, 3: 1})
        owner = world.devices[3].app
        owner.owner = True
        world.run_for(3 * PUBLISH_S)
        assert [len(world.devices[n].adverts) for n in (1, 2, 3)] == [3, 0, 3]
        assert world.devices[1].adverts[0].holder.node_id == 1

    def test_strange_events_change_nothing(self) -> None:
        world = World(2)
        device = world.devices[1]
        learning = device.learning
        blob = device.hold(b"x")
        contact = Contact(9, "10.0.0.9", 1)
        learning.on_root(7, 0.0)
        learning.on_parent(7, contact, 0.0)
        learning.on_orphaned(7, 0.0)
        learning.on_child(7, contact, False, 0.0)
        learning.on_child_gone(7, 9, 0.0)
        learning.on_trained(7, (1, 1, 1), None, 0.0)
        learning.on_fetched(7, ("start",), blob, b"x", 0.0)
        learning.on_kept(7, ("model",), device.hold(b"y"), 0.0)
        learning.on_recalled(7, ("feedback", (1, 1, 1)), None, 0.0)
        assert device.blobs == {}
        assert not learning.on_message(contact, Ping(1), 0.0)
        assert not learning.on_bulk(contact, UpdateChunk(7, 1, 1, 1, 0), memoryview(b""), 0.0)
        assert not learning.on_timer(("membership", "beat"), 0.0)
        assert learning.on_timer(("learning", 7, "budget"), 0.0)

    def test_reports_of_strangers_are_counted(self) -> None:
        world = World(2)
        world.start({2: 1})
        contact = Contact(9, "10.0.0.9", 1)
        standing = Standing(world.app_id, 1, 99, BlobRef(bytes(32), 20), contact)
        world.devices[1].learning.on_message(contact, standing, world.now)
        assert world.devices[1].app.counters["standing_not_from_child"] == 1


RECORDS = st.builds(
    RoundRecord,
    round=st.integers(1, 2),
    epoch=st.integers(0, 2),
    participants=st.integers(0, 3),
    samples=st.integers(0, 3),
    seconds=st.just(1.0),
    metrics=st.lists(
        st.builds(
            Metric, st.sampled_from(["accuracy", "loss", "train_loss"]), st.integers(0, 3).map(float), st.just(2.0)
        ),
        max_size=3,
        unique_by=lambda metric: metric.name,
    ).map(lambda metrics: tuple(sorted(metrics, key=lambda metric: metric.name))),
)


@given(st.lists(RECORDS, max_size=6), st.randoms())
def test_a_history_is_the_same_in_whatever_order_its_records_come(records: list[RoundRecord], random: Random) -> None:
    shuffled = [*records, *records]
    random.shuffle(shuffled)
    first, second = History(records), History(shuffled)
    assert first.all() == second.all()
