"""A baseline: federated averaging with a server that costs nothing.

The server has a link and a processor without limit, stands in the middle of the network, knows at no cost whom it can
reach, asks another device at once when a link breaks, and always starts the next round at once. Devices are the same
as everywhere: their own links, speeds and data. This is the best that any scheme with the same sample sizes could do,
not a system that could be built; none of it ships.

Source: the baseline `FL` of the Plexus paper, arXiv 2503.05509.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from edgefl.learning.effects import TrainJob, TrainResult
from edgefl.learning.groups import trimmed_mean
from edgefl.learning.metrics import means, merge
from edgefl.learning.strategies.server import Facts, State, step_with_buffers, strategy_of
from edgefl.learning.strategies.spec import parse_strategy
from edgefl.sim.train.curve import Run
from edgefl.sim.train.learner import initial_model
from edgefl.wire import Contact, Message
from edgefl.wire.blob import BlobRef, ref_of
from edgefl.wire.learning import RoundKind

if TYPE_CHECKING:
    from edgefl.learning.effects import Tag, Token
    from edgefl.learning.sampled.options import SampledOptions
    from edgefl.sim.train.learner import Vector
    from edgefl.sim.train.world import Device, World
    from edgefl.wire.application import Manifest

SERVER = -1
"""The server's index among the links."""


class Served:
    """A device of the server: it trains what it is given, and sends back what it has learned."""

    def __init__(self, server: FreeServer, device: Device) -> None:
        self.server, self.device = server, device

    def on_trained(self, tag: Tag, result: TrainResult | None, now: float) -> None:
        device, server = self.device, self.server
        begin = max(now, device.uplink_free)
        device.uplink_free = end = begin + server.size / device.trace.uplink_bytes_s
        if result is not None:
            server.world.clock.at(end + device.trace.delay_s, server.on_update, device, tag[1], result, now)

    def on_message(self, sender: Contact, message: Message, now: float) -> None: ...
    def on_timer(self, name: str, now: float) -> None: ...
    def on_fetched(self, token: Token, blob: BlobRef, data: Any, now: float) -> None: ...
    def on_kept(self, token: Token, blob: BlobRef, now: float) -> None: ...


class FreeServer:
    """Rounds of `sample` devices drawn at random; a round ends with the models of the share `success`, or after
    `timeout_s` with those that are there."""

    def __init__(self, world: World, manifest: Manifest, options: SampledOptions) -> None:
        self.world, self.manifest, self.options = world, manifest, options
        self.model: Vector = initial_model(world.learner, manifest)
        self.size = 4 * len(self.model)
        self.round = 0
        self._random = Random(f"server {manifest.seed}")
        self._strategy = strategy_of(manifest.strategy)
        self._state: State = ()
        self._trim = parse_strategy(manifest.strategy).trim
        self._kept: dict[int, Any] = {}
        """What training has left on each device."""
        self._came: list[TrainResult] = []
        self._wanted = 0
        self._asked: set[int] = set()
        for device in world.devices:
            device.machine = Served(self, device)

    def begin(self) -> None:
        """Draw a sample, and send it the model."""
        self._came = []
        now, number = self.world.clock.now, self.round + 1
        self._asked.clear()
        self._wanted = self.options.threshold(self._ask(number, self.options.sample))
        self.world.clock.at(now + self.options.timeout_s, self._time_is_over, number)

    def _ask(self, number: int, count: int) -> int:
        """Send the model to so many more devices; to how many there were."""
        now = self.world.clock.now
        reachable = [
            device
            for device in self.world.devices
            if device.alive and device.index not in self._asked and self._link_held(device, now)
        ]
        data = self.model.astype("<f4").tobytes()
        blob = ref_of(data)
        chosen = self._random.sample(reachable, min(len(reachable), count))
        for device in chosen:
            self._asked.add(device.index)
            begin = max(now, device.downlink_free)
            device.downlink_free = end = begin + self.size / device.trace.downlink_bytes_s
            self.world.clock.at(end + device.trace.delay_s, self._delivered, device, number, blob, data, now)
        return len(chosen)

    def _delivered(self, device: Device, number: int, blob: BlobRef, data: bytes, sent: float) -> None:
        self.world.bytes += self.size
        if number != self.round + 1:
            return
        if not device.alive or not self._link_held(device, sent):
            self._ask(number, 1)
            return
        device.hold(data, blob)
        kept = self._kept.get(device.index)
        device.train(0, TrainJob((0, number, 0), RoundKind.TRAIN, blob, self.manifest.seed + number, kept))
        device.discard(0, blob)

    def on_update(self, device: Device, number: int, result: TrainResult, sent: float) -> None:
        """A device's update has arrived."""
        self.world.bytes += self.size
        if number != self.round + 1 or result.delta is None or result.diverged:
            return
        if not self._link_held(device, sent):
            self._ask(number, 1)
            return
        self._came.append(result)
        self._kept[device.index] = result.kept
        if len(self._came) >= self._wanted:
            self._finish()

    def _link_held(self, device: Device, since: float) -> bool:
        return self.world.links.stays_up(SERVER, device.index, since, self.world.clock.now)

    def _time_is_over(self, number: int) -> None:
        if number == self.round + 1:
            self._finish()

    def _finish(self) -> None:
        if self._came:
            weights = np.array([result.samples for result in self._came], np.float32)
            deltas = np.array([result.delta for result in self._came], np.float32)
            if self._trim:
                mean = trimmed_mean(deltas, weights, self._trim)
            else:
                mean = np.average(deltas, axis=0, weights=weights).astype(np.float32)
            told = means(merge(*(result.metrics for result in self._came)))
            facts = Facts(len(self._came) / len(self.world.devices), told)
            learner = self.world.learner
            buffers = slice(learner.trained, learner.parameters)
            self.model, self._state = step_with_buffers(self._strategy, self.model, mean, self._state, facts, buffers)
            self.round += 1
        self.begin()


def start_server(world: World, manifest: Manifest, options: SampledOptions) -> Run:
    """Begin the first round."""
    server = FreeServer(world, manifest, options)
    server.begin()
    return Run(lambda: server.round, lambda: [server.model[: world.learner.parameters]])
