"""One learning curve for each topology and strategy: the same devices, data, model and seeds.

Accuracy is on data that no device has: of the newest model, or the mean over MEASURED devices where every device has a
model of its own. `bytes` and `device_seconds` (of training) are totals up to that time.
"""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np

from edgefl.datasets import digits
from edgefl.datasets.partition import dirichlet
from edgefl.errors import UsageError
from edgefl.learning.compatible import check_compatible
from edgefl.learning.consensus.graph import Gossip, Graph, OnePeerExponential, circulant, erdos_renyi, regular
from edgefl.learning.consensus.options import ConsensusOptions
from edgefl.learning.sampled.options import SampledOptions
from edgefl.sim.train.consensus import start_consensus
from edgefl.sim.train.curve import Curve, Failure, Run, follow
from edgefl.sim.train.forest import start_forest
from edgefl.sim.train.learner import Images, Labels, Learner, LocalTraining, Vector
from edgefl.sim.train.overlay_graph import overlay_graph
from edgefl.sim.train.sampled import newest_model, start_sampled
from edgefl.sim.train.server import start_server
from edgefl.sim.train.traces import Trace
from edgefl.sim.train.world import Recipe, World, simulated_manifest
from edgefl.wire.application import Manifest

TEST_SHARE = 0.2
MEASURED = 20
UNENDING = 1_000_000
"""Rounds: time ends a run."""

GOSSIP_PERIOD_S = 60.0
"""Between two messages of a gossiping device, as in the Plexus paper."""

FOREST_DEADLINE_S = 120.0

TOPOLOGIES = ("forest", "sampled", "consensus", "d-psgd-one-peer", "d-psgd-regular", "gossip", "fedavg-server")

GRAPHS = ("erdos-renyi", "ring", "overlay")
"""Of the topology `consensus`: a random graph of mean degree 8, a ring, or the neighbours that the shipped overlay
finds."""

WITH_STRATEGY = frozenset({"forest", "fedavg-server"})
"""Where one device makes the next model, by whatever strategy; elsewhere models are averaged."""


def load(path: Path | None) -> tuple[Images, Labels]:
    """The shipped digits, or a directory with MNIST's test files (IDX, gzip). Raises UsageError."""
    if path is None:
        return digits()
    try:
        with gzip.open(path / "t10k-images-idx3-ubyte.gz") as file:
            x = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 784).astype(np.float32) / np.float32(255)
        with gzip.open(path / "t10k-labels-idx1-ubyte.gz") as file:
            y = np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int64)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot read {path}: {error}", hint="give a directory with t10k-images-idx3-ubyte.gz and its labels"
        ) from None
    return x.astype(np.float32), y


class Bench:
    """Data and devices that all topologies share. `learner`: how they train; by default NumPy, `hidden` units. `graph`:
    who exchanges with whom in `consensus`, one of GRAPHS."""

    def __init__(
        self,
        traces: list[Trace],
        x: Images,
        y: Labels,
        *,
        hidden: int,
        recipe: Recipe,
        alpha: float,
        seed: int,
        links_down: float = 0.0,
        learner: LocalTraining | None = None,
        graph: str = "erdos-renyi",
    ) -> None:
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(y))
        test = int(TEST_SHARE * len(y))
        self.test_x, self.test_y = x[order[:test]], y[order[:test]]
        self._x, self._y = x[order[test:]], y[order[test:]]
        if len(self._y) < len(traces):
            raise UsageError(f"{len(self._y)} images for {len(traces)} devices", hint="use fewer --nodes, or --data")
        self._parts = dirichlet(self._y, len(traces), alpha, rng, minimum=1)
        self._traces, self._recipe, self._seed, self._links_down = traces, recipe, seed, links_down
        self._graph = graph
        self.learner: LocalTraining = learner or Learner(x.shape[1], 10, hidden)

    def world(self, strategy: str = "fedavg") -> World:
        """Fresh devices with their data, under a clock at 0."""
        recipe = replace(self._recipe, strategy=strategy)
        world = World(self._traces, self.learner, recipe, self._seed, links_down=self._links_down)
        for part, device in zip(self._parts, world.devices, strict=True):
            device.x, device.y = self._x[part], self._y[part]
        return world

    def curve(
        self,
        topology: str,
        *,
        seconds: float,
        points: int,
        target: float | None,
        options: SampledOptions,
        strategy: str = "fedavg",
        pace: str = "sync",
        failures: tuple[Failure, ...] = (),
        rounds: int | None = None,
        steady: int = 1,
    ) -> Curve:
        """One curve; it ends early once `target` accuracy or that many rounds are reached, see follow. `pace` is the
        forest's. Raises UsageError, ManifestError."""
        world = self.world(strategy)
        run = self.start(world, topology, options, strategy, pace)
        named = strategy if topology in WITH_STRATEGY or topology == "sampled" else "none"
        curve = Curve(topology, named if pace == "sync" else f"{named} {pace}")

        def accuracy() -> float:
            scores = [self.learner.accuracy(model, self.test_x, self.test_y) for model in run.models()]
            return float(np.mean(scores)) if scores else 0.0

        follow(
            curve,
            world,
            run,
            accuracy,
            seconds=seconds,
            points=points,
            target=target,
            failures=failures,
            rounds=rounds,
            steady=steady,
        )
        return curve

    def start(
        self, world: World, topology: str, options: SampledOptions, strategy: str = "fedavg", pace: str = "sync"
    ) -> Run:
        """The topology begins on these devices. Raises UsageError, ManifestError."""
        manifest = simulated_manifest(
            self.learner, UNENDING, self._seed, strategy=strategy, deadline_s=FOREST_DEADLINE_S, quorum=0.5, pace=pace
        )
        check_compatible(manifest)
        if topology == "forest":
            return start_forest(world, manifest)
        if topology == "fedavg-server":
            return start_server(world, manifest, options)
        if topology == "sampled":
            sampled = start_sampled(world, manifest, options)
            return Run(
                lambda: newest_model(world, sampled)[0] if any(device.alive for device in world.devices) else 0,
                lambda: [newest_model(world, sampled)[1]],
            )
        graph, consensus_options = _consensus(topology, self._graph, world, manifest, self._seed)
        peers = start_consensus(world, manifest, consensus_options, graph, same_start=topology != "consensus")

        def measured() -> list[Vector]:
            live = [peer for peer, device in zip(peers, world.devices, strict=True) if device.alive]
            chosen = live[:: max(1, len(live) // MEASURED)]
            return [peer.vector for peer in chosen if peer.vector is not None]

        def round_() -> int:
            live = [peer.round for peer, device in zip(peers, world.devices, strict=True) if device.alive]
            return max(0, int(np.median(live)) - 1) if live else 0  # the last one is still going on

        return Run(round_, measured)


def _consensus(
    topology: str, graph: str, world: World, manifest: Manifest, seed: int
) -> tuple[Graph, ConsensusOptions]:
    devices = len(world.devices)
    if topology == "consensus":
        options = ConsensusOptions()
        if graph == "overlay":
            contacts = [device.contact for device in world.devices]
            return overlay_graph(contacts, manifest.app_id, options.degree, seed), options
        if graph == "ring":
            if devices < 3:
                raise UsageError("a ring needs 3 devices", hint="use more --nodes")
            return circulant(devices, 2), options
        return erdos_renyi(devices, min(6, devices - 1), Random(seed)), options
    if topology == "d-psgd-one-peer":
        return OnePeerExponential(devices), ConsensusOptions(mixing="equal", sync_slots=0)
    if topology == "d-psgd-regular":
        degree = min(10, (devices - 1) // 2 * 2)
        if degree < 2:
            raise UsageError("a regular graph needs 3 devices", hint="use more --nodes")
        return regular(devices, degree, Random(seed)), ConsensusOptions(mixing="equal", sync_slots=0)
    if topology == "gossip":
        return Gossip(devices, seed), ConsensusOptions(mixing="equal", sync_slots=0, pace_s=GOSSIP_PERIOD_S)
    raise UsageError(f"no topology {topology!r} to simulate", hint=f"one of {', '.join(TOPOLOGIES)}")
