"""Rounds inside zones between two global ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.learning_world import World, make_manifest

from edgefl.learning.forest.zones import STEPS, step_of
from edgefl.learning.manifest import ManifestError, check_manifest
from edgefl.learning.metrics import means
from edgefl.wire import Message
from edgefl.wire.application import Topology
from edgefl.wire.blob import ref_of
from edgefl.wire.learning import RoundKind, RoundStart, Update, UpdateChunk
from edgefl.wire.overlay import Scope

TREE = {2: 1, 3: 1, 4: 2, 5: 2, 6: 3, 7: 3, 8: 6, 9: 4, 10: 4}
"""Zone 0 has the root 1, and 2, 4, 5; zone 1 the head 3, and 6, 7. Zones 2 (head 8) and 3 (heads 9, 10) hang below."""

ZONES = {1: 0, 2: 0, 4: 0, 5: 0, 3: 1, 6: 1, 7: 1, 8: 2, 9: 3, 10: 3}


def make_world(zone_rounds: int, *, rounds: int = 3, parents: dict[int, int] = TREE, **changes: Any) -> World:
    manifest = make_manifest(rounds=rounds, zone_rounds=zone_rounds, deadline_s=120.0, **changes)
    world = World(len(parents) + 1, seed=3, manifest=manifest, zones=ZONES)
    world.start(parents)
    return world


def groups_of(parents: dict[int, int], zones: dict[int, int]) -> list[list[int]]:
    """The devices of each head: who hangs below it in the same zone without another zone in between."""
    heads: dict[int, int] = {1: 1}
    for child in sorted(parents):
        same = zones.get(child, 0) == zones.get(parents[child], 0)
        heads[child] = heads[parents[child]] if same else child
    return [[n for n in sorted(heads) if heads[n] == head] for head in sorted(set(heads.values()))]


def expected(world: World, groups: list[list[int]], rounds: int, steps: int) -> np.ndarray:
    """The model after these rounds, in float64: each zone averages `steps` times, then all zones do."""
    model = np.zeros(world.manifest.parameters)
    for _ in range(rounds):
        results, weights = [], []
        for group in groups:
            devices = [world.devices[n] for n in group]
            zone, samples = model.copy(), [d.samples for d in devices]
            for _ in range(steps):
                zone = zone + np.average([(d.target - zone) / 2 for d in devices], axis=0, weights=samples)
            results.append(zone)
            weights.append(sum(samples))
        model = np.average(results, axis=0, weights=weights)
    return model


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_every_zone_averages_by_itself_before_all_do(steps: int) -> None:
    world = make_world(steps)
    world.run(world.finished)
    for number, device in world.devices.items():
        np.testing.assert_allclose(
            world.model_of(number), expected(world, groups_of(TREE, ZONES), 3, steps), rtol=1e-4, atol=1e-5
        )
        assert [job.kind for job in device.jobs] == [RoundKind.TRAIN] * 3 * steps + [RoundKind.EVALUATE]
        assert device.app.counters == {}
        assert len(device.blobs) <= 2
    for record in world.devices[1].app.ledger.history.all()[1:]:
        assert record.participants == 10
        assert record.samples == sum(device.samples for device in world.devices.values())
        assert "loss" in means(record.metrics)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_tree_and_any_zones(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 9))
    parents = {child: data.draw(st.integers(1, child - 1)) for child in range(2, size + 1)}
    zones = {number: data.draw(st.integers(0, 2)) for number in range(1, size + 1)}
    world = World(size, manifest=make_manifest(rounds=2, zone_rounds=3, deadline_s=120.0), zones=zones)
    for device in world.devices.values():
        device.train_s = device.random.uniform(0.1, 3.0)
    world.start(parents)
    world.run(world.finished)
    for number in world.devices:
        np.testing.assert_allclose(
            world.model_of(number), expected(world, groups_of(parents, zones), 2, 3), rtol=1e-4, atol=1e-5
        )


def test_one_zone_round_is_no_zone_round() -> None:
    world = make_world(1)
    world.run(world.finished)
    np.testing.assert_allclose(world.model_of(1), world.expected_model(3), rtol=1e-4, atol=1e-5)
    assert world.devices[1].app.zones is None


def test_what_crosses_between_zones_does_not_grow_with_their_rounds() -> None:
    crossed: dict[int, int] = {}
    for steps in (2, 8):
        world = World(10, manifest=make_manifest(rounds=2, zone_rounds=steps, deadline_s=120.0), zones=ZONES)
        count = 0

        def tap(sender: int, to: int, message: Message, steps: int = steps) -> bool:
            if isinstance(message, UpdateChunk) and ZONES[sender] != ZONES[to]:
                crossed[steps] = crossed.get(steps, 0) + 1
                assert step_of((message.epoch, message.round, message.attempt)) == 0
            if isinstance(message, RoundStart) and ZONES[sender] != ZONES[to]:
                assert message.attempt % STEPS == 0
            return True

        world.tap = tap
        world.start(TREE)
        world.run(world.finished)
        assert count == 0
    assert crossed[2] == crossed[8] > 0


def test_who_carries_another_zone_looks_for_a_parent_after_the_global_round_alone() -> None:
    world = make_world(3)
    for number in (8, 9, 10):
        world.devices[number].train_s = 4.0  # the zones that devices 4 and 6 carry take longer than their own
    world.run(world.finished)
    assert {number: len(world.devices[number].rounds_over) for number in (4, 5, 6, 7)} == {4: 3, 5: 9, 6: 3, 7: 9}


def test_a_slow_zone_is_cut_off_in_time_with_what_its_earlier_steps_have_made() -> None:
    world = make_world(4, rounds=2, quorum=0.5)
    world.devices[7].train_s = 1000.0
    world.run(world.finished, limit_s=500.0)
    for record in world.devices[1].app.ledger.history.all()[1:]:
        assert record.seconds <= 120.0
        assert record.participants == 9


def test_a_zone_whose_head_dies_is_back_in_the_next_global_round() -> None:
    world = make_world(4, rounds=12, quorum=0.3)
    root = world.devices[1].app
    world.run(lambda: root.ledger.round == 2 and world.devices[6].app.zones.worker.newest[2] % STEPS == 2)  # type: ignore[union-attr]
    world.kill(3)
    world.run_for(1.0)
    world.attach(6, 2)
    world.attach(7, 6)
    world.run(lambda: root.ledger.round == 5, limit_s=600.0)
    assert root.ledger.history.get(5).participants == 9  # type: ignore[union-attr]
    world.run(world.finished, limit_s=2000.0)


def test_who_comes_to_a_head_that_is_not_as_far_does_not_hold_it_up() -> None:
    zones = dict.fromkeys(range(1, 7), 1) | {1: 0}
    world = World(6, manifest=make_manifest(rounds=3, zone_rounds=4, quorum=0.3, deadline_s=600.0), zones=zones)
    world.devices[3].train_s = 9.0
    world.start({2: 1, 3: 1, 4: 2, 5: 2, 6: 3})  # two heads in zone 1; the second is slow
    root = world.devices[1].app
    world.run(lambda: step_of(world.devices[4].app.zones.worker.newest) == 3)  # type: ignore[union-attr]
    world.attach(4, 3)
    world.run(lambda: root.ledger.round == 3, limit_s=200.0)
    assert world.devices[4].app.counters["zone_round_fenced"] >= 1
    assert root.ledger.history.get(3).participants == 6  # type: ignore[union-attr]


def test_a_head_that_gets_a_parent_in_its_zone_leads_no_more() -> None:
    zones = {1: 0, 2: 1, 3: 1, 4: 1}
    world = World(4, manifest=make_manifest(rounds=4, zone_rounds=3, quorum=0.3, deadline_s=300.0), zones=zones)
    world.start({2: 1, 3: 1, 4: 3})
    root = world.devices[1].app
    world.run(lambda: root.ledger.round == 1 and step_of(world.devices[3].app.zones.worker.newest) == 1)  # type: ignore[union-attr]
    world.attach(3, 2)
    world.run(world.finished, limit_s=900.0)
    assert not world.devices[3].app.zones.leads  # type: ignore[union-attr]
    assert root.ledger.history.get(4).participants == 4  # type: ignore[union-attr]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.1]))
def test_no_device_counts_twice_and_rounds_go_on_whatever_happens(seed: int, loss: float) -> None:
    manifest = make_manifest(rounds=8, zone_rounds=3, deadline_s=30.0, quorum=0.2)
    zones = {number: number % 3 for number in range(1, 9)}
    world = World(8, seed=seed, loss=loss, manifest=manifest, zones=zones)
    chance = world.random
    sums = 0

    def tap(_: int, __: int, message: Message) -> bool:
        nonlocal sums
        if isinstance(message, Update) and message.vector:
            assert len(set(message.contributors)) == len(message.contributors)
            sums += 1
        return True

    world.tap = tap
    world.start({child: chance.randrange(1, child) for child in range(2, 9)})

    def disturb(now: float) -> None:
        alive = [n for n, d in world.devices.items() if d.alive]
        dead = [n for n, d in world.devices.items() if not d.alive]
        move = chance.random()
        if move < 0.15 and len(alive) > 4:
            world.kill(chance.choice(alive))
        elif move < 0.5 and dead:
            world.restart(chance.choice(dead))
        elif move < 0.7:
            world.detach(chance.choice(alive))
        world.heal()
        if now < 300:
            world.at(now + chance.uniform(0.5, 10.0), disturb)

    world.at(2.0, disturb)
    world.run_for(300.0)
    for number in [n for n, d in world.devices.items() if not d.alive]:
        world.restart(number)
    world.heal()
    world.run(world.finished, limit_s=3000.0)
    assert sums > 0
    for device in world.devices.values():
        for record in device.app.ledger.history.all():
            assert record.participants <= 8
            assert record.samples <= sum(other.samples for other in world.devices.values())


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_parent_in_the_zone_may_say_what_it_wants(data: st.DataObject) -> None:
    """Whatever kind, tag, model and time its rounds have: the device stands, and holds no model that it made up."""
    world = make_world(3, rounds=50, quorum=0.1)
    world.run(lambda: world.devices[1].app.ledger.round == 1)
    device, parent = world.devices[5], world.devices[2]
    initial = ref_of(bytes(4 * world.manifest.parameters))
    models = st.sampled_from([parent.hold(b"\2" * 20), parent.hold(b"\1" * 20), device.app.ledger.model])
    starts = st.builds(
        RoundStart,
        st.just(world.app_id),
        st.sampled_from([device.app.ledger.epoch, device.app.ledger.epoch + 65536]),
        st.integers(0, 50),
        st.integers(0, 2**16 - 1).filter(lambda attempt: attempt % STEPS > 0),
        st.sampled_from(RoundKind),
        models,
        st.floats(allow_nan=True),
        threshold=st.integers(0, 2**64 - 1),
        own_s=st.floats(allow_nan=True),
    )
    for start in data.draw(st.lists(starts, max_size=6)):
        device.app.on_message(parent.contact, start, world.now)
        world.run_for(data.draw(st.sampled_from([0.005, 0.1])))
        # Only the root makes the model that a device holds for everybody.
        assert device.app.ledger.model in {initial, *world.devices[1].broadcasts}
        assert not device.app.ledger.finished
    world.run_for(60.0)
    assert len(device.blobs) <= 6


@pytest.mark.parametrize(
    "changes",
    [
        {"zone_rounds": 0},
        {"zone_rounds": 51},
        {"zone_rounds": 2, "scope": Scope.ZONE},
        {"zone_rounds": 2, "pace": "buffered"},
        {"zone_rounds": 2, "select": 3},
        {"zone_rounds": 2, "strategy": "scaffold"},
        {"zone_rounds": 2, "strategy": "trimmed"},
        {"zone_rounds": 2, "compress": "int8"},
        {"zone_rounds": 2, "personal": ("head.*",)},
        {"zone_rounds": 2, "topology": Topology.SAMPLED},
    ],
    ids=lambda changes: " ".join(str(value) for value in changes.values()),
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ManifestError) as caught:
        check_manifest(make_manifest(**changes))
    assert caught.value.hint


def test_a_round_whose_owner_made_no_model_of_it_is_tried_again_with_its_zones() -> None:
    manifest = make_manifest(rounds=2, zone_rounds=2, deadline_s=120.0, policies="aggregate=mine")
    world = World(10, seed=3, manifest=manifest, zones=ZONES)
    failures = [True, False, False]
    world.devices[1].aggregate = lambda model, mean: None if failures.pop(0) else model + mean
    world.start(TREE)
    world.run(world.finished)
    assert [record.attempts for record in world.devices[1].app.ledger.history.all()[1:]] == [2, 1]
    np.testing.assert_allclose(world.model_of(1), expected(world, groups_of(TREE, ZONES), 2, 2), rtol=1e-4, atol=1e-5)
