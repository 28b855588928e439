"""The topology `sampled` on simulated devices: it learns, and nothing that vanishes silently stops it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from edgefl.datasets import digits
from edgefl.learning.sampled.device import SampledDevice
from edgefl.learning.sampled.options import SampledOptions, ack_s, watch_s
from edgefl.sim.train.learner import Learner
from edgefl.sim.train.sampled import Undisturbed, newest_model, start_sampled
from edgefl.sim.train.traces import Trace, synthetic
from edgefl.sim.train.world import Recipe, World, simulated_manifest
from edgefl.wire.application import AppState

OPTIONS = SampledOptions(sample=6, success=0.8, window=20, timeout_s=20.0)


def fleet(
    nodes: int, rounds: int, seed: int = 1, options: SampledOptions = OPTIONS
) -> tuple[World, list[SampledDevice]]:
    x, y = digits()
    learner = Learner(64, 10)
    world = World(synthetic(nodes, seed), learner, Recipe(lr=0.3), seed)
    for part, device in zip(
        np.array_split(np.random.default_rng(seed).permutation(len(y)), nodes), world.devices, strict=True
    ):
        device.x, device.y = x[part], y[part]
    return world, start_sampled(world, simulated_manifest(learner, rounds, seed), options)


def advance(world: World, machines: list[SampledDevice], until: Callable[[], bool], limit_s: float) -> bool:
    """Let time pass until the condition holds; False after limit_s."""
    end = world.clock.now + limit_s
    while world.clock.now < end and not until():
        world.clock.run(world.clock.now + 0.5)
    return until()


def best(world: World, machines: list[SampledDevice]) -> int:
    return newest_model(world, machines)[0]


def test_rounds_go_on_to_the_end_and_the_model_is_good() -> None:
    # A window of 20 rounds forgets who was not sampled in them; on devices, news along the tree finds such a one.
    world, machines = fleet(40, rounds=40, options=replace(OPTIONS, window=1000))
    assert advance(world, machines, lambda: best(world, machines) == 40, 4000)
    x, y = digits()
    assert world.learner.accuracy(newest_model(world, machines)[1], x, y) > 0.85
    assert not any("restarts" in machine.counters for machine in machines)
    world.clock.run(world.clock.now + 1000)
    assert all(machine.finished for machine in machines)


def test_the_same_seed_gives_the_same_run() -> None:
    runs = []
    for _ in range(2):
        world, machines = fleet(20, rounds=8)
        world.clock.run(60)
        runs.append((world.bytes, best(world, machines), newest_model(world, machines)[1].tobytes()))
    assert runs[0] == runs[1]


def test_four_of_five_fall_silent_and_the_rounds_go_on() -> None:
    world, machines = fleet(60, rounds=1000)
    assert advance(world, machines, lambda: best(world, machines) >= 10, 1000)
    survivors = set(world.devices[0].random.sample(range(60), 12))
    for index, device in enumerate(world.devices):
        device.alive = index in survivors
    before = best(world, machines)
    assert advance(world, machines, lambda: best(world, machines) >= before + 10, 10 * ack_s(OPTIONS.timeout_s))


@pytest.mark.parametrize("moment", range(10))
def test_an_aggregator_that_vanishes_at_any_point_delays_a_round_by_a_bounded_time(moment: int) -> None:
    """The bound: one wait for the acknowledgement, one for the models that came to the aggregator, and a search."""
    world, machines = fleet(30, rounds=1000, seed=3)
    assert advance(world, machines, lambda: best(world, machines) >= 3, 1000)

    def collecting() -> list[int]:
        return [index for index, machine in enumerate(machines) if machine.session is not None]

    assert advance(world, machines, lambda: bool(collecting()), 100)
    victim = collecting()[0]
    world.clock.run(world.clock.now + 0.2 * moment)  # from the first offer, over the transfers, to the next sample
    before = best(world, machines)
    world.devices[victim].alive = False
    limit = 2 * ack_s(OPTIONS.timeout_s) + OPTIONS.timeout_s
    assert advance(world, machines, lambda: best(world, machines) >= before + 2, limit)


def test_when_all_who_work_on_a_round_vanish_the_watchdog_starts_again() -> None:
    world, machines = fleet(30, rounds=1000, seed=4)
    assert advance(world, machines, lambda: best(world, machines) >= 3, 1000)
    for device, machine in zip(world.devices, machines, strict=True):
        if (machine.own is not None and machine.own.task == machine.newest) or machine.session is not None:
            device.alive = False
    newest = max(machine.newest for machine in machines)
    for device, machine in zip(world.devices, machines, strict=True):
        if machine.newest == newest:
            device.alive = False
    before = best(world, machines)
    assert advance(world, machines, lambda: best(world, machines) >= before + 3, 4 * watch_s(OPTIONS.timeout_s) + 60)


def test_a_standstill_is_noticed_as_soon_as_the_last_rounds_allow() -> None:
    """Devices that know how quick the rounds are do not wait for as long as the first round might have taken."""
    world, machines = fleet(30, rounds=1000, seed=4, options=SampledOptions(sample=6, timeout_s=300.0))
    assert advance(world, machines, lambda: best(world, machines) >= 20, 1000)
    newest = max(machine.newest for machine in machines)
    for device, machine in zip(world.devices, machines, strict=True):
        delivers = machine.own is not None and not machine.own.done  # it would find another aggregator
        works = machine.own is not None and machine.own.task == newest
        if works or machine.holds == newest[1] - 1 or machine.session is not None or delivers:
            device.alive = False
    live = [machine for device, machine in zip(world.devices, machines, strict=True) if device.alive]
    before, slowest = best(world, machines), max(machine.watch_s for machine in live if machine.history.tail(1))
    assert slowest < watch_s(300.0) / 5
    assert advance(world, machines, lambda: best(world, machines) >= before + 1, 4 * slowest + 60)
    assert any("restarts" in machine.counters for machine in live)


@pytest.mark.parametrize(
    ("inputs", "ways"),
    [pytest.param(64, 2, id="small models are pushed"), pytest.param(7000, 6, id="a large one is asked for")],
)
def test_searches_cost_a_round_no_time(inputs: int, ways: int) -> None:
    """A round is the training and a way of 1 s with the task and with the update; where models are asked for, a round
    trip more for each."""
    x, y = digits()
    x, y = np.pad(x[:100], ((0, 0), (0, inputs - 64))), y[:100]
    learner = Learner(inputs, 10)
    world = World([Trace(1.0, 1e9, 1e9, 0.5)] * 20, learner, Recipe(lr=0.1, batch=5), 1)
    for part, device in zip(np.array_split(np.arange(len(y)), 20), world.devices, strict=True):
        device.x, device.y = x[part], y[part]
    machines = start_sampled(world, simulated_manifest(learner, 1000, 1), SampledOptions(sample=5))
    assert advance(world, machines, lambda: best(world, machines) == 5, 200)
    began = world.clock.now
    assert advance(world, machines, lambda: best(world, machines) == 15, 200)
    assert (world.clock.now - began) / 10 == pytest.approx(ways + 5, abs=0.1)


def test_a_sample_that_was_drawn_before_a_long_pause_is_drawn_again() -> None:
    world, machines = fleet(40, rounds=1000, options=SampledOptions(sample=6, timeout_s=300.0))
    assert advance(world, machines, lambda: best(world, machines) >= 10, 1000)
    paused = Undisturbed()
    paused.state = AppState.PAUSED
    for machine in machines:
        machine.around = paused
    world.clock.run(world.clock.now + 60)
    before = best(world, machines)
    world.clock.run(world.clock.now + 60)
    assert best(world, machines) == before
    maker = next(index for index, machine in enumerate(machines) if machine.aggregator.waiting)
    for index in set(range(40)) - {maker}:
        world.devices[index].alive = index % 4 == 0  # three of four of the sample drawn before are gone
    for machine in machines:
        machine.around = Undisturbed()
    task = machines[maker].newest
    machines[maker].on_state(world.clock.now)
    world.clock.run(world.clock.now + 2)
    live = [machine for device, machine in zip(world.devices, machines, strict=True) if device.alive]
    assert sum(machine.own is not None and machine.own.task >= task for machine in live) >= 6
