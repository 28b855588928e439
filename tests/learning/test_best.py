"""The best model is kept, told to everybody at the end, and survives a root; patience ends what no longer improves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.learning_world import World, make_manifest

from edgefl.errors import EdgeflError, UsageError
from edgefl.learning.forest.coordinator import Phase
from edgefl.learning.manifest import check_manifest
from edgefl.learning.metrics import means
from edgefl.learning.strategies.rates import LEAST_FACTOR, learning_rate, parse_rates
from edgefl.wire import Message
from edgefl.wire.application import Target, Topology
from edgefl.wire.learning import Best, RoundKind, RoundStart, Standing

TREE = {2: 1, 3: 1, 4: 2, 5: 2, 6: 3}


def overshooting(rounds: int, observers: tuple[int, ...] = (), **changes: object) -> World:
    """Two rounds make the model better; then devices overshoot their targets, and every round makes it worse."""
    world = World(6, manifest=make_manifest(rounds=rounds, **changes))
    world.start(TREE, observers=observers)
    world.run(lambda: world.devices[1].app.ledger.round == 2)
    world.pull = 2.2
    return world


def losses(world: World, number: int) -> dict[int, float]:
    found = {r.round: means(r.metrics) for r in world.devices[number].app.ledger.history.all()}
    return {round_: metrics["loss"] for round_, metrics in found.items() if "loss" in metrics}


def assert_everybody_holds_the_best(world: World, best: Best) -> None:
    world.run_for(5)
    for number, device in world.devices.items():
        if device.alive:
            assert device.app.ledger.best == best
            assert device.saved[world.app_id].best == best
            assert set(device.durable) == {blob.id for blob in device.app.ledger.blobs()}
            assert np.isfinite(np.frombuffer(device.blobs[best.model.id], "<f4")).all(), number


def test_the_best_model_is_with_everybody_at_the_end() -> None:
    world = overshooting(6, observers=(6,), keep_best=True)
    world.run(world.finished)
    measured = losses(world, 1)
    assert sorted(measured) == [0, 1, 2, 3, 4, 5, 6]
    least = min(measured, key=lambda round_: measured[round_])
    best = world.devices[1].app.ledger.best
    assert best is not None
    assert 0 < best.round == least < 6
    assert best.value == pytest.approx(measured[least])
    assert best.model != world.devices[1].app.ledger.model
    assert_everybody_holds_the_best(world, best)


def test_the_last_model_may_be_the_best_and_is_then_sent_once() -> None:
    world = World(6, manifest=make_manifest(rounds=4, keep_best=True))
    world.start(TREE)
    world.run(world.finished)
    best = world.devices[1].app.ledger.best
    assert best is not None
    assert (best.round, best.model) == (4, world.devices[1].app.ledger.model)
    assert_everybody_holds_the_best(world, best)
    assert all(len(device.durable) == 1 for device in world.devices.values())


def test_nobody_keeps_a_best_model_unless_asked() -> None:
    world = overshooting(3)
    world.run(world.finished)
    assert all(device.app.ledger.best is None for device in world.devices.values())


@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.KEEPING, Phase.REPLICATING])
def test_the_best_model_survives_its_root(phase: Phase) -> None:
    world = overshooting(6, keep_best=True)
    root = world.devices[1].app
    world.run(lambda: root.ledger.round == 4 and root.coordinator.phase is phase)
    before = root.ledger.best
    assert before is not None
    assert before.round < 4
    world.kill(1)
    world.run_for(0.3)
    world.heal()
    world.run(world.finished)
    best = world.devices[2].app.ledger.best
    assert best is not None
    assert best.round <= before.round
    assert_everybody_holds_the_best(world, best)


def test_the_best_model_survives_a_power_cut() -> None:
    world = overshooting(6, keep_best=True)
    root = world.devices[1].app
    world.run(lambda: root.ledger.round == 3 and root.coordinator.phase is Phase.RUNNING)
    best = root.ledger.best
    assert best is not None
    for number in world.devices:
        world.kill(number)
    for number in world.devices:
        world.restart(number)
    world.heal()
    world.run(world.finished)
    assert_everybody_holds_the_best(world, best)


def test_patience_ends_an_application_that_no_longer_improves() -> None:
    world = overshooting(50, patience=3)
    world.run(world.finished)
    root = world.devices[1].app
    best = root.ledger.best
    assert best is not None
    assert root.ledger.round == best.round + 3 + 1  # the last of the three was judged while the next was made
    assert [job.kind for job in world.devices[4].jobs][-1] is RoundKind.EVALUATE
    assert_everybody_holds_the_best(world, best)


def test_patience_goes_on_being_counted_by_a_successor() -> None:
    world = overshooting(50, patience=4)
    root = world.devices[1].app
    world.run(lambda: root.ledger.round == 4 and root.coordinator.phase is Phase.RUNNING)
    world.run_for(0.2)
    best = root.ledger.best
    assert best is not None
    world.kill(1)
    world.heal()
    world.run(world.finished)
    assert world.devices[2].app.ledger.best is not None
    assert world.devices[2].app.ledger.round <= best.round + 4 + 2  # without the lost device the loss is another


def test_what_improves_is_not_ended() -> None:
    world = World(4, manifest=make_manifest(rounds=8, patience=1))
    world.start({2: 1, 3: 1, 4: 2})
    world.run(world.finished)
    assert world.devices[1].app.ledger.round == 8


def test_a_target_says_what_the_best_is() -> None:
    """More is better where there is a target: of losses that grow, the last."""
    world = overshooting(4, keep_best=True, target=Target("loss", 1e30))
    world.run(world.finished)
    best = world.devices[1].app.ledger.best
    assert best is not None
    assert best.value == max(losses(world, 1).values())


def test_a_round_without_a_quorum_judges_no_model() -> None:
    world = overshooting(3, keep_best=True, quorum=1.0, deadline_s=10.0)
    root = world.devices[1].app
    best = root.ledger.best
    for number in (4, 5):
        world.devices[number].broken = True
    world.run(lambda: root.counters.get("round_failed", 0) > 0)
    assert root.ledger.best == best
    assert root.ledger.round == 2


def test_a_device_that_cannot_have_the_best_model_holds_the_final_one_all_the_same() -> None:
    world = overshooting(4, keep_best=True)

    def tap(sender: int, to: int, message: Message) -> bool | Message:
        if to == 6 and isinstance(message, RoundStart) and message.best is not None:
            nowhere = replace(message.best.model, id=b"?" * 32)
            return replace(message, best=replace(message.best, model=nowhere))
        return True

    world.tap = tap
    world.run(lambda: world.finished(1, 2, 3, 4, 5, 6))
    world.run_for(5)
    device = world.devices[6]
    assert device.saved[world.app_id].finished
    assert device.app.ledger.model == world.devices[1].app.ledger.model
    assert device.app.ledger.best is None or device.app.ledger.best.model.id != b"?" * 32


def test_a_standing_with_a_best_model_of_another_size_is_refused() -> None:
    world = overshooting(50, keep_best=True)
    world.run(lambda: world.devices[1].app.ledger.round == 2)
    standing = world.devices[2].app.standing()
    assert standing is not None
    assert isinstance(standing, Standing)
    wrong = replace(standing, best=Best(1, 0.0, replace(standing.model, size=7)))
    world.devices[2].send(world.devices[1].contact, wrong)
    world.run_for(0.1)
    assert world.devices[1].app.counters["standing_invalid"] == 1


# Learning rates over the rounds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("constant", [1, 1, 1, 1, 1, 1]),
        ("cosine", [1, 0.933013, 0.75, 0.5, 0.25, 0.066987]),
        ("cosine:floor=0.5", [1, 0.966506, 0.875, 0.75, 0.625, 0.533494]),
        ("step:every=2", [1, 1, 0.1, 0.1, 0.01, 0.01]),
        ("step:every=2,factor=0.5", [1, 1, 0.5, 0.5, 0.25, 0.25]),
        ("warmup:rounds=3", [0.25, 0.5, 0.75, 1, 1, 1]),
        ("warmup:rounds=2+cosine", [1 / 3, 2 / 3, 1, 0.853553, 0.5, 0.146447]),
        ("warmup:rounds=1+step:every=1,factor=0.5", [0.5, 1, 0.5, 0.25, 0.125, 0.0625]),
    ],
)
def test_schedules(text: str, expected: list[float]) -> None:
    rates = parse_rates(text)
    assert [rates.factor(round_, 6) for round_ in range(1, 7)] == pytest.approx(expected, abs=1e-6)
    assert learning_rate(text, 0.2, 4, 6) == pytest.approx(0.2 * expected[3], abs=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "linear",
        "constant:floor=1",
        "cosine:floor=2",
        "cosine:floor=nan",
        "cosine:10",
        "step:every=0",
        "step:every=1.5",
        "step:factor=0",
        "warmup:rounds=0",
        "warmup:rounds=2+",
        "warmup:rounds=2+warmup:rounds=2",
        "cosine+step",
        "step:every=" + "9" * 200,
    ],
)
def test_schedules_that_nobody_can_follow(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_rates(text)
    assert caught.value.hint
    with pytest.raises(EdgeflError, match="lr_schedule"):
        check_manifest(make_manifest(lr_schedule=text[:120]))


@given(
    st.one_of(
        st.builds("cosine:floor={}".format, st.floats(0, 1)),
        st.builds("step:every={},factor={}".format, st.integers(1, 100), st.floats(1e-9, 1)),
        st.builds("warmup:rounds={}+cosine".format, st.integers(1, 100)),
    ),
    st.integers(1, 10_000),
    st.integers(1, 10_000),
)
def test_a_rate_is_never_nothing_and_never_more_than_was_asked(text: str, round_: int, rounds: int) -> None:
    assert LEAST_FACTOR <= parse_rates(text).factor(min(round_, rounds), rounds) <= 1


@pytest.mark.parametrize("changes", [{"patience": 3}, {"keep_best": True}, {"personal": ("head.*",)}])
def test_topologies_without_a_root_refuse_what_only_a_root_can_do(changes: dict[str, object]) -> None:
    check_manifest(make_manifest(**changes))
    with pytest.raises(EdgeflError, match="topology sampled"):
        check_manifest(make_manifest(topology=Topology.SAMPLED, **changes))
