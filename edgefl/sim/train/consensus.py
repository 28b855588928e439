"""Runs of the topology `consensus` on simulated devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from edgefl.learning.consensus.device import ConsensusDevice

if TYPE_CHECKING:
    from edgefl.learning.consensus.graph import Graph
    from edgefl.learning.consensus.options import ConsensusOptions
    from edgefl.learning.effects import LearningEffects
    from edgefl.sim.train.world import World
    from edgefl.wire import Contact
    from edgefl.wire.application import Manifest


class GivenNeighbours:
    """One device's neighbours in a graph that is given. Implements learning.consensus.surroundings.Neighbours."""

    def __init__(self, world: World, graph: Graph, index: int) -> None:
        self.world, self.graph, self.index = world, graph, index
        self._contacts: dict[tuple[int, ...], tuple[Contact, ...]] = {}

    def _contacts_of(self, devices: tuple[int, ...]) -> tuple[Contact, ...]:
        """Remembered for the newest few sets: a fixed graph asks for one again and again."""
        known = self._contacts.get(devices)
        if known is None:
            known = tuple(self.world.devices[other].contact for other in devices)
            self._contacts[devices] = known
            if len(self._contacts) > 4:
                del self._contacts[next(iter(self._contacts))]
        return known

    @property
    def lost(self) -> bool:
        return False  # who has no neighbours in the graph waits for nobody

    def outgoing(self, round_: int) -> tuple[Contact, ...]:
        return self._contacts_of(self.graph.outgoing(self.index, round_))

    def incoming(self, round_: int) -> tuple[Contact, ...]:
        return self._contacts_of(self.graph.incoming(self.index, round_))

    def expects(self, node_id: int, round_: int) -> bool:
        other = self.world.by_id.get(node_id)
        return other is not None and self.index in self.graph.outgoing(other.index, round_)


def start_consensus(
    world: World, manifest: Manifest, options: ConsensusOptions, graph: Graph, *, same_start: bool = False
) -> list[ConsensusDevice]:
    """Give every device its machine and begin; every device has a start of its own unless `same_start`."""
    machines = []
    for index, device in enumerate(world.devices):
        seed = manifest.seed if same_start else manifest.seed + index
        near = GivenNeighbours(world, graph, index)
        effects = cast("LearningEffects", device)
        machine = ConsensusDevice(manifest, options, effects, near, world.learner.initial, seed)
        device.machine = machine
        machines.append(machine)
    for machine in machines:
        machine.begin(world.clock.now)
    return machines
