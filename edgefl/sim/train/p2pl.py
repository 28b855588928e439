"""What P2PL claims, measured: devices that only average with their neighbours learn what central training learns.

Simulated devices under virtual time, with the machine that ships (learning/consensus), real gradients, and links of
which a share is down at any time. The yardstick is the same model trained on all the data in one place until it gets no
better, with the best of several rates and batches.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field, replace
from random import Random

import numpy as np

from edgefl.datasets.partition import Indices, few_classes
from edgefl.learning.consensus.graph import Graph, circulant, erdos_renyi
from edgefl.learning.consensus.options import ConsensusOptions
from edgefl.sim.train.consensus import start_consensus
from edgefl.sim.train.learner import Images, Labels, Learner
from edgefl.sim.train.overlay_graph import overlay_graph
from edgefl.sim.train.traces import synthetic
from edgefl.sim.train.world import Recipe, World, simulated_manifest

GRAPHS = ("ring", "erdos-renyi", "overlay")

TEST_SHARE = 0.2

RANDOM_DEGREE = 4.0
"""Of the Erdős–Rényi graph, besides the ring that keeps it connected."""

OVERLAY_APP = 0x5EED
"""The application whose tree gives the overlay's graph."""

MEASURED = 20
"""Devices whose models make a point of a curve; the end is measured of all."""

CENTRAL_EPOCHS = 40
"""Central training: more epochs make it no better."""

CENTRAL_CHOICES = ((20, 0.03), (20, 0.1), (20, 0.2), (10, 0.015), (10, 0.03), (10, 0.05), (10, 0.1))
"""(batch, rate) of central training. With either batch the best rate lies between the first and the last; where the
devices may have a batch of 10, it may as well."""

LOOK_S = 1.0
POINTS = 50
"""Of a curve."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One run. `classes`: of each device, None for IID; `links_down`: share of all links that is down at any time."""

    graph: str = "erdos-renyi"
    classes: int | None = None
    devices: int = 100
    links_down: float = 0.3
    rounds: int = 100
    hidden: int = 16
    recipe: Recipe = field(default_factory=Recipe)
    options: ConsensusOptions = field(default_factory=ConsensusOptions)
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Course:
    """How the devices train on a kind of graph and of data: rate, batch, local steps, rounds, consensus steps of a
    round, momentum between rounds, and so many of the rounds that settle."""

    lr: float
    batch: int
    local_steps: int
    rounds: int
    steps: int
    momentum: float
    settle: int


def claim(graph: str, classes: int | None, *, seed: int = 1) -> Setting:
    """The run that shows P2PL's claim for a graph and a split of MNIST: 100 devices, 30 % of the links down.

    Local momentum is that which suits central training. Averaging takes the noise out of the gradients, which central
    training has for its good: twice the rate and half the batch give some of it back. Unlike data want few local steps
    and momentum between rounds; IID data less of it. A ring wants few local steps, more averages, more rounds, and more
    that settle, for what differs between its halves passes slowly; with more momentum than 0.5 it diverged with two
    classes each. The rate rises over the first rounds, then falls along half a cosine, so that the devices end close
    together.
    """
    course = COURSES[graph == "ring", classes is None]
    recipe = Recipe(
        steps=course.local_steps,
        batch=course.batch,
        lr=course.lr,
        momentum=0.5,
        schedule="warmup:rounds=10+cosine",
        rounds=course.rounds,
    )
    options = ConsensusOptions(
        steps=course.steps,
        momentum=course.momentum,
        settle=course.settle,
        sync_slots=RING_SYNC_SLOTS if graph == "ring" else SYNC_SLOTS,
        slot_s=SLOT_S,
        pace_s=RING_PACE_S if graph == "ring" else 0.0,
    )
    return Setting(graph, classes, rounds=course.rounds, recipe=recipe, options=options, seed=seed)


SLOT_S = 10.0
"""A link that is down is down for 14 s in the mean: waiting longer for its neighbour brings little."""

RING_PACE_S = 15.0
"""A ring with links down is cut into pieces: rounds apart from each other find it cut elsewhere."""

SYNC_SLOTS, RING_SYNC_SLOTS = 50, 200
"""Half a ring of 100 is 50 hops, but a start waits at each link that is down: with 30 % of them down, none of 40 rings
had one start after 50 exchanges (3 to 6 of them), 36 after 150, and all after 200. Averages of models from unlike
starts are bad models, and stay so."""

COURSES = {
    (False, True): Course(lr=0.2, batch=10, local_steps=8, rounds=260, steps=2, momentum=0.5, settle=20),
    (False, False): Course(lr=0.2, batch=10, local_steps=8, rounds=260, steps=2, momentum=0.9, settle=20),
    (True, True): Course(lr=0.2, batch=10, local_steps=4, rounds=400, steps=8, momentum=0.5, settle=40),
    (True, False): Course(lr=0.2, batch=10, local_steps=4, rounds=400, steps=8, momentum=0.5, settle=40),
}
"""By whether the graph is a ring, and the data IID."""


@dataclass(slots=True)
class Outcome:
    """`accuracy[k]` after round `rounds[k]` (the median over devices), mean over MEASURED devices; at the end over all,
    with the worst one and the model that a single merge makes."""

    rounds: list[int] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    final: float = 0.0
    worst: float = 0.0
    merged: float = 0.0
    seconds: float = 0.0
    bytes: int = 0

    def reached(self, accuracy: float) -> int | None:
        """The first round with this accuracy."""
        return next((at for at, value in zip(self.rounds, self.accuracy, strict=True) if value >= accuracy), None)


class Data:
    """What the devices have between them, and what none of them has."""

    def __init__(self, x: Images, y: Labels, setting: Setting) -> None:
        rng = np.random.default_rng(setting.seed)
        order = rng.permutation(len(y))
        test = int(TEST_SHARE * len(y))
        self.test_x, self.test_y = x[order[:test]], y[order[:test]]
        self.x, self.y = x[order[test:]], y[order[test:]]
        self.parts: list[Indices]
        if setting.classes is None:
            self.parts = [np.asarray(part) for part in np.array_split(np.arange(len(self.y)), setting.devices)]
        else:
            self.parts = few_classes(self.y, setting.devices, setting.classes, rng)


def measure(x: Images, y: Labels, setting: Setting, *, every: int | None = None, until: float = 2.0) -> Outcome:
    """A run to its end: every device has done its rounds, or their mean accuracy has come to `until`. `every`: rounds
    between two points of the curve."""
    data = Data(x, y, setting)
    learner = Learner(x.shape[1], 10, setting.hidden)
    traces = synthetic(setting.devices, setting.seed)
    world = World(traces, learner, setting.recipe, setting.seed, links_down=setting.links_down)
    for part, device in zip(data.parts, world.devices, strict=True):
        device.x, device.y = data.x[part], data.y[part]
    manifest = simulated_manifest(learner, setting.rounds, setting.seed)
    machines = start_consensus(world, manifest, setting.options, graph_of(setting, world))
    outcome, step = Outcome(), max(1, setting.devices // MEASURED)
    every = max(1, setting.rounds // POINTS) if every is None else every

    def mean(some: slice) -> float:
        vectors = [machine.vector for machine in machines[some] if machine.vector is not None]
        return float(np.mean([learner.accuracy(vector, data.test_x, data.test_y) for vector in vectors]))

    while min(machine.round for machine in machines) < setting.rounds:
        world.clock.run(world.clock.now + LOOK_S)
        done = int(statistics.median(machine.round for machine in machines))
        if done >= (outcome.rounds[-1] if outcome.rounds else 0) + every:
            outcome.rounds.append(done)
            outcome.accuracy.append(mean(slice(None, None, step)))
            if outcome.accuracy[-1] >= until:
                return outcome
    world.clock.run(world.clock.now + 10 * setting.options.slot_s)
    vectors = [machine.vector for machine in machines if machine.vector is not None]
    scores = [learner.accuracy(vector, data.test_x, data.test_y) for vector in vectors]
    outcome.final, outcome.worst = float(np.mean(scores)), min(scores)
    merged = np.average(vectors, axis=0, weights=[machine.samples for machine in machines]).astype(np.float32)
    outcome.merged = learner.accuracy(merged, data.test_x, data.test_y)
    outcome.seconds, outcome.bytes = world.clock.now, world.bytes
    return outcome


def centralised(x: Images, y: Labels, setting: Setting) -> float:
    """Accuracy of the same model trained on all data in one place, from the start that the devices agree on and with
    their local momentum, over CENTRAL_EPOCHS along half a cosine: the mean over the last tenth, with the best of
    CENTRAL_CHOICES. That these are chosen on the test images favours it a little."""
    return max(_central(x, y, setting, batch, lr) for batch, lr in CENTRAL_CHOICES)


def _central(x: Images, y: Labels, setting: Setting, batch: int, lr: float) -> float:
    data, pieces = Data(x, y, setting), 50
    learner = Learner(x.shape[1], 10, setting.hidden)
    recipe = replace(setting.recipe, lr=lr, schedule="cosine", rounds=pieces)
    starts = (learner.initial(setting.seed + device) for device in range(setting.devices))
    model, scores = max(starts, key=lambda start: float(np.linalg.norm(start))), []
    for piece in range(1, pieces + 1):
        model = learner.train(
            model,
            data.x,
            data.y,
            steps=round(CENTRAL_EPOCHS * len(data.y) / batch / pieces),
            batch=batch,
            lr=recipe.rate(piece),
            momentum=recipe.momentum,
            seed=piece,
        )
        scores.append(learner.accuracy(model, data.test_x, data.test_y))
    return float(np.mean(scores[-pieces // 10 :]))


def graph_of(setting: Setting, world: World) -> Graph:
    """Who exchanges with whom. Raises ValueError for a graph that is not known."""
    if setting.graph == "ring":
        return circulant(setting.devices, 2)
    if setting.graph == "erdos-renyi":
        return erdos_renyi(setting.devices, RANDOM_DEGREE, Random(setting.seed))
    if setting.graph == "overlay":
        contacts = [device.contact for device in world.devices]
        return overlay_graph(contacts, OVERLAY_APP, setting.options.degree, setting.seed)
    raise ValueError(f"no graph {setting.graph!r}: one of {', '.join(GRAPHS)}")


def without_sync(setting: Setting) -> Setting:
    """Every device begins with a start of its own."""
    return replace(setting, options=replace(setting.options, sync_slots=0))
