"""Rounds in which only some devices train, drawn by lot without any list."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.learning_world import World, make_contact, make_manifest

from edgefl.learning.forest.selection import is_selected, threshold_for
from edgefl.wire import Message
from edgefl.wire.learning import EVERYBODY, RoundKind, RoundStart, Update

SALT = bytes(range(16))
WIDE = {child: 1 + (child - 2) // 4 for child in range(2, 31)}
"""30 devices, four children each."""


class TestLots:
    @given(st.integers(1, 500), st.floats(0, 2), st.integers(1, 1000))
    def test_the_threshold_is_the_share_that_is_wanted(self, wanted: int, over: float, members: int) -> None:
        threshold = threshold_for(wanted, over, members)
        if wanted * (1 + over) >= members:
            assert threshold == EVERYBODY
        else:
            assert threshold / 2**64 == pytest.approx(wanted * (1 + over) / members)

    def test_nobody_is_left_out_unless_asked_for(self) -> None:
        assert threshold_for(0, 0.3, 10**9) == EVERYBODY
        assert all(is_selected(SALT, (1, 1, 1), node, EVERYBODY) for node in (0, 2**64 - 1))

    def test_as_many_are_drawn_as_expected_and_others_in_each_round_and_attempt(self) -> None:
        threshold = threshold_for(100, 0.0, 1000)
        drawn = [
            {node for node in range(1000) if is_selected(SALT, tag, node, threshold)}
            for tag in ((65537, 1, 1), (65537, 2, 1), (65537, 1, 2), (131073, 1, 1))
        ]
        for lot in drawn:
            assert 60 < len(lot) < 140  # more than four standard deviations to both sides
        for a in range(4):
            for b in range(a):
                assert len(drawn[a] & drawn[b]) < 40
        assert {node for node in range(1000) if is_selected(bytes(16), (65537, 1, 1), node, threshold)} != drawn[0]


def selected(world: World, start: RoundStart) -> set[int]:
    tag = (start.epoch, start.round, start.attempt)
    return {n for n in world.devices if is_selected(world.manifest.salt, tag, n, start.threshold)}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_those_that_are_drawn_train_and_nobody_else(seed: int) -> None:
    world = World(30, seed=seed, manifest=make_manifest(rounds=4, select=8, quorum=0.25, seed=seed))
    starts: dict[int, RoundStart] = {}

    def tap(_: int, __: int, message: Message) -> bool:
        if isinstance(message, RoundStart) and message.kind is RoundKind.TRAIN:
            starts[message.round] = message
        return True

    world.tap = tap
    world.start(WIDE)
    world.run(world.finished)
    assert len(starts) == 4
    history = {record.round: record for record in world.devices[1].app.ledger.history.all()}
    for number, start in starts.items():
        drawn = selected(world, start)
        assert start.threshold == threshold_for(8, 0.3, 30)
        trained = {
            n
            for n, device in world.devices.items()
            if any(job.kind is RoundKind.TRAIN and job.tag[1:] == (number, start.attempt) for job in device.jobs)
        }
        assert trained == drawn
        assert history[number].members == 30
        assert min(8, len(drawn)) - 1 <= history[number].participants <= len(drawn)
    for device in world.devices.values():
        assert [job.kind for job in device.jobs].count(RoundKind.EVALUATE) == 1  # everybody judges the final model
        assert device.app.ledger.round == 4


def test_the_model_is_the_mean_of_those_that_were_drawn() -> None:
    world = World(12, seed=5, manifest=make_manifest(rounds=1, select=6, over_select=0.0, quorum=0.1))
    drawn: set[int] = set()

    def tap(_: int, __: int, message: Message) -> bool:
        if isinstance(message, RoundStart) and message.kind is RoundKind.TRAIN:
            drawn.update(selected(world, message))
        return True

    world.tap = tap
    world.start({child: 1 + (child - 2) // 3 for child in range(2, 13)})
    world.run(world.finished)
    assert 0 < len(drawn) < 12
    assert world.devices[1].app.ledger.history.get(1).participants == len(drawn)  # type: ignore[union-attr]
    np.testing.assert_allclose(world.model_of(1), world.expected_model(1, drawn), rtol=1e-5, atol=1e-6)


def test_a_round_ends_when_enough_of_those_that_were_asked_have_delivered() -> None:
    """20 of 30 are wanted, 26 asked; the slow ones of them are not waited for."""
    world = World(30, seed=2, manifest=make_manifest(rounds=3, select=20, quorum=0.5, deadline_s=600.0))
    for number in (28, 29, 30):
        world.devices[number].train_s = 500.0
    world.start(dict.fromkeys(range(2, 31), 1))
    world.run(lambda: world.devices[1].app.ledger.round == 3, limit_s=60.0)
    for record in world.devices[1].app.ledger.history.all()[1:]:
        assert 19 <= record.participants <= 21


def test_without_enough_of_them_another_lot_is_drawn() -> None:
    world = World(30, manifest=make_manifest(rounds=1, select=10, quorum=1.0, deadline_s=20.0))
    attempts: dict[int, set[int]] = {}

    def tap(_: int, to: int, message: Message) -> bool:
        if isinstance(message, RoundStart) and message.kind is RoundKind.TRAIN:
            attempts[message.attempt] = selected(world, message)
        return not (isinstance(message, Update) and message.vector and message.attempt == 1)

    world.tap = tap
    world.start(WIDE)
    world.run(world.finished)
    assert len(attempts) >= 2
    assert attempts[1] != attempts[2]
    assert world.devices[1].app.ledger.history.get(1).attempts == max(attempts)  # type: ignore[union-attr]


def test_a_part_of_the_fleet_that_is_cut_off_does_not_train_on_as_if_it_were_the_whole() -> None:
    world = World(30, manifest=make_manifest(rounds=50, select=10, quorum=0.5, deadline_s=20.0))
    world.start(WIDE)
    root = world.devices[1].app
    world.run(lambda: root.ledger.round == 3)
    for child in (2, 3):
        world.detach(child)  # and what hangs below them
    assert world.tree_of(world.devices[1], world.app_id).members == 11
    before = root.ledger.round
    world.run_for(300.0)
    assert root.ledger.round <= before + 1
    assert root.coordinator.problem


def test_who_was_not_drawn_holds_the_model_nevertheless() -> None:
    world = World(12, manifest=make_manifest(rounds=3, select=2, over_select=0.0, quorum=0.5))
    world.start({child: 1 + (child - 2) // 3 for child in range(2, 13)})
    world.run(lambda: world.devices[1].app.ledger.round == 2 and world.devices[12].app.ledger.round == 2)
    model = world.devices[1].app.ledger.model
    for device in world.devices.values():
        assert device.app.ledger.model == model
    world.run(world.finished)


def test_a_threshold_from_a_stranger_changes_nothing() -> None:
    world = World(3, manifest=make_manifest(rounds=2))
    world.start({2: 1, 3: 1})
    app = world.devices[3].app
    model = world.devices[3].hold(bytes(20))
    start = RoundStart(world.app_id, 9 << 16, 1, 1, RoundKind.TRAIN, model, 5.0, (), 0)
    app.on_message(make_contact(2), start, world.now)
    assert app.counters["round_not_from_parent"] == 1
    world.run(world.finished)
