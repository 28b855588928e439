"""A run of the topology `sampled` on simulated devices.

Whoever makes a model says so along the application's tree, as on devices: who is in no sample for long would take the
silence for a standstill. The tree here is one of FAN_OUT, whole at every moment (on devices it takes seconds to mend);
news carry no records of rounds.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import numpy as np

from edgefl.learning.sampled.device import SampledDevice
from edgefl.learning.sampled.registry import Registry
from edgefl.wire.application import AppState
from edgefl.wire.sampled import Entry, SampleNews

if TYPE_CHECKING:
    from typing import Any

    from edgefl.learning.effects import LearningEffects
    from edgefl.learning.sampled.options import SampledOptions
    from edgefl.sim.train.learner import Vector
    from edgefl.sim.train.world import Device, World
    from edgefl.wire.application import Manifest
    from edgefl.wire.codec import Message
    from edgefl.wire.contact import Contact

FAN_OUT = 4


class Undisturbed:
    """Nobody pauses a simulated application."""

    state = AppState.RUNNING

    def on_held(self) -> None: ...

    def on_made(self) -> None: ...


class Tree:
    """The devices that live, in the order of their index: the children of one are those FAN_OUT times as far behind."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._live: list[Device] = []
        self._place: dict[int, int] = {}

    def neighbours(self, device: Device) -> list[Contact]:
        """Parent and children of a live device."""
        if not self._live or not all(one.alive for one in self._live):
            self._live = [one for one in self._world.devices if one.alive]
            self._place = {one.index: place for place, one in enumerate(self._live)}
        place = self._place[device.index]
        parent = self._live[(place - 1) // FAN_OUT : (place - 1) // FAN_OUT + 1] if place else []
        return [one.contact for one in (*parent, *self._live[FAN_OUT * place + 1 : FAN_OUT * (place + 1) + 1])]


class Member(Undisturbed):
    """A device's machine with its place in the tree: what SampledApplication is on a device."""

    machine: SampledDevice

    def __init__(self, device: Device, tree: Tree, app: int) -> None:
        self._device, self._tree, self._app = device, tree, app
        self._known = (0, 0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.machine, name)  # what the world calls on a machine, but for messages

    def on_made(self) -> None:
        machine = self.machine
        if machine.model is not None:
            me = self._device.contact
            self._tell(SampleNews(self._app, machine.holds, machine.newest[0], machine.model, me), None)

    def on_message(self, sender: Contact, message: Message, now: float) -> None:
        if not isinstance(message, SampleNews):
            self.machine.on_message(sender, message, now)
        elif (message.attempt, message.round) > self._known:
            self.machine.on_news((message.attempt, message.round + 1), message.model, message.holder, now)
            self._tell(message, sender)

    def _tell(self, news: SampleNews, besides: Contact | None) -> None:
        self._known = max(self._known, (news.attempt, news.round))
        for neighbour in self._tree.neighbours(self._device):
            if besides is None or neighbour.node_id != besides.node_id:
                self._device.send(neighbour, news)


def start_sampled(world: World, manifest: Manifest, options: SampledOptions) -> list[SampledDevice]:
    """Give every device its machine, with everybody in its view, and let one of them draw the first sample."""
    entries = [
        Entry(device.contact, 0, 1, False, int(math.log2(device.trace.uplink_bytes_s))) for device in world.devices
    ]
    machines, tree = [], Tree(world)
    initial = world.learner.initial(manifest.seed).astype("<f4").tobytes()
    for device, entry in zip(world.devices, entries, strict=True):
        registry = Registry(device.contact, options.window, uplink=entry.uplink)
        registry.merge(entries)
        member = Member(device, tree, manifest.app_id)
        machine = SampledDevice(manifest.app_id, manifest, options, registry, cast("LearningEffects", device), member)
        member.machine, device.machine = machine, member
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
