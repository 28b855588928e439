"""A run of the topology `sampled` on simulated devices."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import numpy as np

from edgefl.learning.sampled.device import SampledDevice
from edgefl.learning.sampled.registry import Registry
from edgefl.wire.application import AppState
from edgefl.wire.sampled import Entry

if TYPE_CHECKING:
    from edgefl.learning.effects import LearningEffects
    from edgefl.learning.sampled.options import SampledOptions
    from edgefl.sim.train.learner import Vector
    from edgefl.sim.train.world import World
    from edgefl.wire.application import Manifest


class Undisturbed:
    """Nobody pauses a simulated application, and nobody watches it through its tree."""

    state = AppState.RUNNING

    def on_held(self) -> None: ...

    def on_made(self) -> None: ...


def start_sampled(world: World, manifest: Manifest, options: SampledOptions) -> list[SampledDevice]:
    """Give every device its machine, with everybody in its view, and let one of them draw the first sample."""
    entries = [
        Entry(device.contact, 0, 1, False, int(math.log2(device.trace.uplink_bytes_s))) for device in world.devices
    ]
    machines = []
    initial = world.learner.initial(manifest.seed).astype("<f4").tobytes()
    for device, entry in zip(world.devices, entries, strict=True):
        registry = Registry(device.contact, options.window, uplink=entry.uplink)
        registry.merge(entries)
        machine = SampledDevice(
            manifest.app_id, manifest, options, registry, cast("LearningEffects", device), Undisturbed()
        )
        device.machine = machine
        machines.append(machine)
    for device, machine in zip(world.devices, machines, strict=True):
        machine.start(device.hold(initial), world.clock.now)
    machines[0].launch(world.clock.now)
    return machines


def newest_model(world: World, machines: list[SampledDevice]) -> tuple[int, Vector]:
    """(round, model): what the live device that is furthest holds."""
    live = [
        (machine.holds, index)
        for index, machine in enumerate(machines)
        if world.devices[index].alive and machine.model is not None
    ]
    round_, index = max(live)
    model = machines[index].model
    data = world.devices[index].blob(model) if model is not None else None
    if data is None:
        raise RuntimeError("a device no longer holds the model that it says it holds")
    return round_, np.frombuffer(data, "<f4")
