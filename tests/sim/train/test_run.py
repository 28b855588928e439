"""Curves of all topologies on the same devices."""

from __future__ import annotations

import numpy as np
import pytest

from edgefl.datasets import digits
from edgefl.errors import UsageError
from edgefl.learning.sampled.options import SampledOptions
from edgefl.sim.train.curve import Curve, Failure
from edgefl.sim.train.run import TOPOLOGIES, WITH_STRATEGY, Bench
from edgefl.sim.train.traces import synthetic
from edgefl.sim.train.world import Recipe

OPTIONS = SampledOptions()

STRATEGIES = (
    "fedavg",
    "fedavgm:momentum=0.5",
    "fedadam:lr=0.05",
    "fedprox:mu=1",
    "scaffold",
    "qfedavg:q=0.2",
    "trimmed:share=0.2",
)


def make_bench(nodes: int = 24, *, links_down: float = 0.0) -> Bench:
    x, y = digits()
    recipe = Recipe(lr=0.3)
    return Bench(synthetic(nodes, 1), x, y, hidden=0, recipe=recipe, alpha=100.0, seed=1, links_down=links_down)


def seconds_for(topology: str) -> float:
    return 1200 if topology == "gossip" else 60


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_every_topology_gives_a_rising_curve(topology: str) -> None:
    curve = make_bench().curve(topology, seconds=seconds_for(topology), points=3, target=None, options=OPTIONS)
    assert curve.accuracy[-1] > 0.6
    assert curve.bytes == sorted(curve.bytes)
    assert curve.device_seconds[0] > 0
    assert curve.round_s == sorted(curve.round_s)
    assert curve.rounds[-1] == len(curve.round_s) > 0


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_every_topology_goes_on_when_a_third_of_the_devices_falls_silent(topology: str) -> None:
    seconds = 20 * seconds_for(topology)
    curve = make_bench(30).curve(
        topology, seconds=seconds, points=4, target=None, options=OPTIONS, failures=(Failure(2, 1 / 3),), rounds=12
    )
    assert curve.rounds[-1] >= 12
    assert curve.accuracy[-1] > 0.5


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_the_same_seed_gives_the_same_curve(topology: str) -> None:
    one, two = (
        make_bench(12, links_down=0.1).curve(topology, seconds=90, points=2, target=None, options=OPTIONS)
        for _ in range(2)
    )
    assert one.document() == two.document()


@pytest.mark.parametrize("topology", sorted(WITH_STRATEGY))
def test_strategies_make_other_models_of_the_same_updates(topology: str) -> None:
    curves = [
        make_bench().curve(topology, seconds=90, points=90, target=None, options=OPTIONS, strategy=strategy, rounds=6)
        for strategy in STRATEGIES
    ]
    assert len({tuple(curve.accuracy) for curve in curves}) == len(curves)
    assert {curve.rounds[-1] for curve in curves} == {6}
    assert min(curve.accuracy[-1] for curve in curves) > 0.3


@pytest.mark.parametrize("topology", sorted(WITH_STRATEGY))
def test_control_variates_help_where_data_differ(topology: str) -> None:
    """Many local steps on few classes each: SCAFFOLD is further than averaging after as many rounds."""
    x, y = digits()
    recipe = Recipe(steps=40, lr=0.3, batch=32)
    bench = Bench(synthetic(20, 1), x, y, hidden=0, recipe=recipe, alpha=0.1, seed=1)
    options = SampledOptions(sample=20, success=1.0)
    losses = {}
    for strategy in ("fedavg", "scaffold"):
        world = bench.world(strategy)
        run = bench.start(world, topology, options, strategy)
        while run.round() < 12:
            world.clock.run(world.clock.now + 1.0)
        model = run.models()[0]
        losses[strategy] = bench.learner.loss(model, bench.test_x, bench.test_y)
    assert losses["scaffold"] < 0.9 * losses["fedavg"], losses


def test_a_curve_ends_at_its_target() -> None:
    curve = make_bench().curve("fedavg-server", seconds=600, points=200, target=0.6, options=OPTIONS)
    assert curve.accuracy[-1] >= 0.6 > max(curve.accuracy[:-1])


def test_costs_are_read_off_a_curve_where_it_has_steadily_reached_an_accuracy() -> None:
    accuracy = [0.2, 0.7, 0.3, 0.6, 0.8, 0.9]
    curve = Curve("sampled", "fedavg", time_s=[1, 2, 3, 4, 5, 6], accuracy=accuracy, bytes=[10, 20, 30, 40, 50, 60])
    assert curve.cost_at(0.6, "time_s") == 2
    assert curve.cost_at(0.6, "bytes", steady=3) == 40  # 0.7, 0.3, 0.6
    assert curve.cost_at(0.8, "bytes", steady=3) == 60
    assert curve.cost_at(0.95, "time_s") is None
    assert curve.cost_at(0.1, "time_s", steady=7) is None


def test_the_forest_of_all_devices_is_federated_averaging_round_by_round() -> None:
    """The bar: the same models as the mean of all devices' models, weighted by their samples."""
    bench = make_bench(20)
    world = bench.world()
    run = bench.start(world, "forest", OPTIONS, "fedavg")
    central = world.learner.initial(1)
    recipe, seen = world.recipe, 0
    members = [device.machine for device in world.devices]
    while seen < 5:
        world.clock.run(world.clock.now + 0.05)
        if run.round() == seen:
            continue
        seen += 1
        tag = members[0].application.worker.newest  # type: ignore[union-attr]
        trained = [
            world.learner.train(
                central,
                device.x,
                device.y,
                steps=recipe.steps,
                batch=recipe.batch,
                lr=recipe.lr,
                momentum=0.0,
                seed=device.contact.node_id ^ device.machine.application.worker.local.seed((tag[0], seen, 1)),  # type: ignore[union-attr]
            )
            for device in world.devices
        ]
        central = np.average(trained, axis=0, weights=[len(device.y) for device in world.devices]).astype(np.float32)
        np.testing.assert_allclose(run.models()[0], central, atol=1e-6)


def test_more_devices_than_images_are_refused() -> None:
    with pytest.raises(UsageError, match="images for 5000 devices"):
        make_bench(5000)
