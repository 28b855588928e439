"""P2PL's claims as a measurement, on a small fleet with the shipped digits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgefl.datasets import digits
from edgefl.learning.consensus.options import ConsensusOptions
from edgefl.sim.train.consensus import start_consensus
from edgefl.sim.train.learner import Learner
from edgefl.sim.train.p2pl import GRAPHS, Data, Setting, centralised, claim, graph_of, measure, without_sync
from edgefl.sim.train.traces import synthetic
from edgefl.sim.train.world import Recipe, World, simulated_manifest

SMALL = Setting(
    devices=12,
    rounds=40,
    hidden=8,
    recipe=Recipe(steps=8, batch=10, lr=0.3, momentum=0.5, schedule="cosine", rounds=40),
    options=ConsensusOptions(steps=2, sync_slots=12, slot_s=5.0),
)


@pytest.mark.parametrize("graph", GRAPHS)
def test_devices_come_close_to_central_training_with_links_that_come_and_go(graph: str) -> None:
    x, y = digits()
    setting = replace(SMALL, graph=graph)
    outcome = measure(x, y, setting)
    assert outcome.final > centralised(x, y, setting) - 0.12
    assert outcome.worst <= outcome.final + 1e-9
    assert outcome.rounds == sorted(set(outcome.rounds))


@pytest.mark.parametrize("graph", GRAPHS)
def test_graphs_are_undirected_and_connected(graph: str) -> None:
    setting = Setting(graph=graph)
    world = World(synthetic(100, 1), Learner(1, 2), Recipe(), 1)
    edges = graph_of(setting, world)
    near = [set(edges.outgoing(device, 1)) for device in range(100)]
    assert all(device in near[other] for device in range(100) for other in near[device])
    reached, frontier = {0}, {0}
    while frontier:
        frontier = set().union(*(near[device] for device in frontier)) - reached
        reached |= frontier
    assert len(reached) == 100
    assert 2 <= sum(map(len, near)) / 100 <= 7


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_all_devices_begin_with_one_start_though_links_are_down(graph: str, seed: int) -> None:
    """Half a ring of as many exchanges is too few then: pieces of the ring began with starts of their own, and averages
    of models that come from unlike starts are bad ones."""
    setting = claim(graph, None, seed=seed)
    learner = Learner(4, 3, 2)
    world = World(synthetic(setting.devices, seed), learner, replace(setting.recipe, lr=0.0), seed, links_down=0.3)
    for device in world.devices:
        device.x, device.y = np.zeros((1, 4), np.float32), np.zeros(1, np.int64)
    manifest = simulated_manifest(learner, setting.rounds, seed)
    machines = start_consensus(world, manifest, setting.options, graph_of(setting, world))
    world.clock.run(setting.options.sync_slots * setting.options.sync_slot_s + 1)
    vectors = [machine.vector for machine in machines if machine.vector is not None and machine.round >= 1]
    assert len(vectors) == setting.devices
    assert all(np.allclose(vector, vectors[0], atol=1e-6) for vector in vectors)


def test_two_classes_each() -> None:
    x, y = digits()
    data = Data(x, y, replace(SMALL, classes=2))
    assert {len(set(data.y[part].tolist())) for part in data.parts} == {2}
    assert sum(map(len, data.parts)) == len(data.y)


def test_one_start_for_all_learns_faster_than_many() -> None:
    x, y = digits()
    together = measure(x, y, SMALL, every=1, until=0.75)
    apart = measure(x, y, without_sync(SMALL), every=1, until=0.75)
    first, second = together.reached(0.75), apart.reached(0.75)
    assert first is not None
    assert second is None or first < second
