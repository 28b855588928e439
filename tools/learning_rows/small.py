"""Small fleets on the shipped digits, for rows that watch single rounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from edgefl.datasets import digits
from edgefl.sim.train.learner import Learner
from edgefl.sim.train.traces import synthetic
from edgefl.sim.train.world import Recipe, World, simulated_manifest
from edgefl.wire.application import Manifest

AnyLearner = TypeVar("AnyLearner", bound=Learner)


def small_world(nodes: int, seed: int, learner: AnyLearner) -> tuple[World, AnyLearner]:
    """Devices that share the digits evenly."""
    x, y = digits()
    world = World(synthetic(nodes, seed), learner, Recipe(lr=0.3), seed)
    order = np.random.default_rng(seed).permutation(len(y))
    for part, device in zip(np.array_split(order, nodes), world.devices, strict=True):
        device.x, device.y = x[part], y[part]
    return world, learner


DEADLINE_S = 60.0


def small_manifest(learner: Learner, seed: int) -> Manifest:
    return simulated_manifest(learner, 1_000_000, seed, deadline_s=DEADLINE_S)


def pass_time(world: World, until: Callable[[], bool], limit_s: float = 3600.0) -> None:
    """Let time pass until the condition holds. Raises RuntimeError when it does not within an hour."""
    end = world.clock.now + limit_s
    while not until():
        if world.clock.now >= end:
            raise RuntimeError("a total stall")
        world.clock.run(world.clock.now + 0.05)
