"""One learning curve for each topology: the same devices, data, model and seeds.

Accuracy is on data that no device has: of the newest model for `sampled`, the mean over MEASURED devices where every
device has a model of its own. `bytes` and `device_seconds` (of training) are totals up to that time.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from edgefl.datasets import digits
from edgefl.datasets.partition import dirichlet
from edgefl.errors import UsageError
from edgefl.learning.consensus.device import ConsensusOptions
from edgefl.learning.consensus.graph import Gossip, Graph, OnePeerExponential, erdos_renyi, regular
from edgefl.learning.sampled.options import SampledOptions
from edgefl.sim.train.consensus import start_consensus
from edgefl.sim.train.learner import Images, Labels, Learner
from edgefl.sim.train.sampled import newest_model, start_sampled
from edgefl.sim.train.traces import Trace
from edgefl.sim.train.world import Recipe, World, simulated_manifest

TEST_SHARE = 0.2
MEASURED = 20
UNENDING = 1_000_000
"""Rounds: time ends a run."""

GOSSIP_PERIOD_S = 60.0
"""Between two messages of a gossiping device, as in the Plexus paper."""

TOPOLOGIES = ("sampled", "consensus", "d-psgd-one-peer", "d-psgd-regular", "gossip")


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
    """Data and devices that all topologies share."""

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
        self.learner = Learner(x.shape[1], 10, hidden)

    def world(self) -> World:
        world = World(self._traces, self.learner, self._recipe, self._seed, links_down=self._links_down)
        for part, device in zip(self._parts, world.devices, strict=True):
            device.x, device.y = self._x[part], self._y[part]
        return world

    def curve(
        self, topology: str, *, seconds: float, points: int, target: float | None, options: SampledOptions
    ) -> dict[str, Any]:
        """One curve; it ends early once `target` accuracy is reached."""
        world = self.world()
        manifest = simulated_manifest(self.learner, UNENDING, self._seed)
        accuracy: Callable[[], float]
        if topology == "sampled":
            sampled = start_sampled(world, manifest, options)

            def accuracy() -> float:
                return self.learner.accuracy(newest_model(world, sampled)[1], self.test_x, self.test_y)
        else:
            graph, consensus_options = _consensus(topology, len(world.devices), self._seed)
            peers = start_consensus(world, manifest, consensus_options, graph, same_start=topology != "consensus")
            step = max(1, len(peers) // MEASURED)

            def accuracy() -> float:
                vectors = [peer.vector for peer in peers[::step] if peer.vector is not None]
                return float(np.mean([self.learner.accuracy(one, self.test_x, self.test_y) for one in vectors]))

        curve: dict[str, Any] = {"topology": topology, "strategy": "fedavg" if topology == "sampled" else "none"}
        columns: dict[str, list[float]] = {"time_s": [], "accuracy": [], "bytes": [], "device_seconds": []}
        for point in range(1, points + 1):
            world.clock.run(seconds * point / points)
            row = (world.clock.now, accuracy(), world.bytes, world.device_seconds)
            for column, value in zip(columns.values(), row, strict=True):
                column.append(round(value, 4))
            if target is not None and row[1] >= target:
                break
        return {**curve, **columns}


def _consensus(topology: str, devices: int, seed: int) -> tuple[Graph, ConsensusOptions]:
    if topology == "consensus":
        return erdos_renyi(devices, min(6, devices - 1), Random(seed)), ConsensusOptions()
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
