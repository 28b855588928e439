"""What training leaves on a device: which round begins with it, whatever becomes of the round that left it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.learning_world import Device, World, make_manifest

from edgefl.learning.effects import TrainResult
from edgefl.learning.forest.coordinator import Phase
from edgefl.wire import Message
from edgefl.wire.learning import RoundKind, Update, UpdateAck, Verdict

STAR = {2: 1, 3: 1, 4: 1}
HEAD = ("head.*",)


def leave_the_round(world: World) -> None:
    """Every training leaves the number of its round on the device."""
    for device in world.devices.values():
        mark(device)


def mark(device: Device) -> None:
    trained = device.learning.on_trained

    def leave(app: int, tag: Any, result: TrainResult | None, now: float) -> None:
        if result is not None and result.delta is not None:
            left = np.array([tag[1]], np.float32)
            result = TrainResult(result.delta, result.samples, result.metrics, left)
        trained(app, tag, result, now)

    device.learning.on_trained = leave  # type: ignore[method-assign]


def began_with(device: Device) -> list[tuple[int, RoundKind, int]]:
    """(round, kind, number of the round whose result it began with; 0 for none) of every job."""
    return [
        (job.tag[1], job.kind, 0 if job.kept is None else int(np.frombuffer(job.kept, "<f4")[0])) for job in device.jobs
    ]


def test_every_round_begins_with_what_the_one_before_left_and_the_end_is_durable() -> None:
    world = World(4, manifest=make_manifest(rounds=3, personal=HEAD))
    leave_the_round(world)
    world.start(STAR)
    world.run(world.finished)
    train, evaluate = RoundKind.TRAIN, RoundKind.EVALUATE
    for device in world.devices.values():
        assert began_with(device) == [(1, train, 0), (2, train, 1), (3, train, 2), (4, evaluate, 3)]
        assert np.frombuffer(device.memories[world.app_id, "kept"], "<f4") == [3]


def test_nothing_is_kept_where_nothing_is_personal() -> None:
    world = World(4, manifest=make_manifest(rounds=3))
    leave_the_round(world)
    world.start(STAR)
    world.run(world.finished)
    for device in world.devices.values():
        assert {kept for _, _, kept in began_with(device)} == {0}
        assert device.memories == {}


def test_a_round_that_is_tried_again_begins_as_before() -> None:
    world = World(4, manifest=make_manifest(rounds=3, personal=HEAD, quorum=1.0))
    leave_the_round(world)
    world.start(STAR)
    root = world.devices[1].app
    world.run(lambda: root.ledger.round == 1)
    world.devices[4].broken = True
    world.run(lambda: root.counters.get("round_failed", 0) == 1)
    world.devices[4].broken = False
    world.run(world.finished)
    jobs = [(round_, kept) for round_, kind, kept in began_with(world.devices[2]) if kind is RoundKind.TRAIN]
    assert jobs == [(1, 0), (2, 1), (2, 1), (3, 2)]


@pytest.mark.parametrize(("strategy", "kept"), [("fedavg", 2), ("scaffold", 1)])
def test_an_update_that_came_too_late(strategy: str, kept: int) -> None:
    """Personal tensors stay as they were trained; a control variate goes back to what the fleet knows of."""
    world = World(4, manifest=make_manifest(rounds=3, personal=HEAD, strategy=strategy))
    leave_the_round(world)

    def tap(sender: int, to: int, message: Message) -> bool | Message:
        if sender == 4 and isinstance(message, Update) and message.round == 2:
            learning = world.devices[4].learning
            late = UpdateAck(message.app, message.epoch, message.round, message.attempt, Verdict.LATE)
            world.at(world.now + 0.01, lambda now: learning.on_message(world.devices[to].contact, late, now))
            return False
        return True

    world.tap = tap
    world.start(STAR)
    world.run(world.finished)
    assert world.devices[4].app.counters["own_update_late"] == 1
    assert (3, RoundKind.TRAIN, kept) in began_with(world.devices[4])
    assert (3, RoundKind.TRAIN, 2) in began_with(world.devices[3])


def test_a_device_that_comes_back_goes_on_with_the_last_round_that_counted() -> None:
    world = World(4, manifest=make_manifest(rounds=6, personal=HEAD))
    leave_the_round(world)
    world.start(STAR)
    root = world.devices[1].app
    world.run(lambda: root.ledger.round == 3 and root.coordinator.phase is Phase.RUNNING)
    world.run_for(0.2)  # round 4 has begun everywhere: what round 3 left counts
    world.kill(4)
    world.restart(4)
    mark(world.devices[4])
    world.attach(4, 1)
    world.run(world.finished)
    assert began_with(world.devices[4])[0][2] == 3
