"""Neighbours that the shipped overlay finds: both ends of an edge know of each other, and all hang together."""

from __future__ import annotations

import pytest

from edgefl.datasets import digits
from edgefl.learning.consensus.graph import Fixed
from edgefl.learning.sampled.options import SampledOptions
from edgefl.sim.train.learner import Learner
from edgefl.sim.train.overlay_graph import overlay_graph
from edgefl.sim.train.run import GRAPHS, Bench
from edgefl.sim.train.traces import synthetic
from edgefl.sim.train.world import Recipe, World


def graph_of(devices: int, seed: int = 1, degree: int = 4, app: int = 7) -> Fixed:
    world = World(synthetic(devices, seed), Learner(1, 2), Recipe(), seed)
    return overlay_graph([device.contact for device in world.devices], app, degree, seed)


@pytest.mark.parametrize(("devices", "seed"), [(2, 1), (12, 1), (60, 2)])
def test_everybody_is_connected_and_every_edge_has_two_ends(devices: int, seed: int) -> None:
    near = [set(one) for one in graph_of(devices, seed).neighbours]
    assert all(device in near[other] for device in range(devices) for other in near[device])
    assert all(device not in near[device] for device in range(devices))
    reached, frontier = {0}, {0}
    while frontier:
        frontier = set().union(*(near[device] for device in frontier)) - reached
        reached |= frontier
    assert len(reached) == devices


def test_the_graph_is_of_the_application_and_repeats() -> None:
    assert graph_of(20) == graph_of(20)
    assert graph_of(20) != graph_of(20, app=8)


def test_a_larger_degree_gives_more_neighbours() -> None:
    few, many = (sum(map(len, graph_of(60, degree=degree).neighbours)) for degree in (2, 8))
    assert few < many


@pytest.mark.parametrize("graph", GRAPHS)
def test_consensus_learns_on_every_graph(graph: str) -> None:
    x, y = digits()
    bench = Bench(synthetic(16, 1), x, y, hidden=0, recipe=Recipe(lr=0.3), alpha=100.0, seed=1, graph=graph)
    curve = bench.curve("consensus", seconds=60, points=2, target=None, options=SampledOptions())
    assert curve.accuracy[-1] > 0.6
