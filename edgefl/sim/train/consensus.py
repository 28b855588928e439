"""Runs of the topology `consensus` on simulated devices."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, cast

from edgefl.learning.consensus.device import ConsensusDevice, ConsensusOptions

if TYPE_CHECKING:
    from edgefl.learning.consensus.graph import Graph
    from edgefl.learning.effects import LearningEffects
    from edgefl.sim.train.world import World
    from edgefl.wire import Contact
    from edgefl.wire.application import Manifest


def start_consensus(
    world: World, manifest: Manifest, options: ConsensusOptions, graph: Graph, *, same_start: bool = False
) -> list[ConsensusDevice]:
    """Give every device its machine and begin; every device has a start of its own unless `same_start`."""

    def contacts(index: int, outgoing: bool, round_: int) -> tuple[Contact, ...]:
        edges = graph.outgoing(index, round_) if outgoing else graph.incoming(index, round_)
        return tuple(world.devices[other].contact for other in edges)

    machines = []
    for index, device in enumerate(world.devices):
        machine = ConsensusDevice(
            manifest.app_id,
            manifest,
            options,
            cast("LearningEffects", device),
            partial(contacts, index, True),
            partial(contacts, index, False),
            world.learner.initial,
        )
        device.machine = machine
        machines.append(machine)
    for index, machine in enumerate(machines):
        machine.start(manifest.seed if same_start else manifest.seed + index, world.clock.now)
    return machines
