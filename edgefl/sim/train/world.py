"""Devices under a virtual clock: messages take the delay, blobs queue through uplink and downlink, training takes
steps times the device's own step time. Nothing is faster than that; nothing costs real time but the gradients.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgefl.learning.effects import Progress, TrainJob, TrainResult
from edgefl.sim.clock import Clock
from edgefl.wire import Contact, Message, encode
from edgefl.wire.application import Manifest
from edgefl.wire.blob import BlobRef, ref_of
from edgefl.wire.learning import RoundKind

if TYPE_CHECKING:
    from edgefl.effects import TimerKey
    from edgefl.learning.effects import Tag, Token
    from edgefl.sim.train.learner import Images, Labels, Learner
    from edgefl.sim.train.traces import Trace

FETCH_TIMEOUT_S = 10.0
"""A fetch from a device that is gone fails after this."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How devices train: SGD steps of one local training, batch, rate, momentum."""

    steps: int = 5
    batch: int = 20
    lr: float = 0.1
    momentum: float = 0.0


class Machine(Protocol):
    """A device's protocol state machine, as the world drives it."""

    def on_message(self, sender: Contact, message: Message, now: float) -> None: ...
    def on_timer(self, name: str, now: float) -> None: ...
    def on_fetched(self, token: Token, blob: BlobRef, data: Any, now: float) -> None: ...
    def on_kept(self, token: Token, blob: BlobRef, now: float) -> None: ...
    def on_trained(self, tag: Tag, result: TrainResult | None, now: float) -> None: ...


class World:
    """All devices of one run, and what they have cost."""

    def __init__(self, traces: list[Trace], learner: Learner, recipe: Recipe, seed: int) -> None:
        self.clock = Clock()
        self.learner, self.recipe = learner, recipe
        self.bytes = 0
        self.device_seconds = 0.0
        self.devices = [Device(self, index, trace, seed) for index, trace in enumerate(traces)]
        self.by_id = {device.contact.node_id: device for device in self.devices}


class Device:
    """One device and its effects (the part of LearningEffects that topologies without a tree use)."""

    def __init__(self, world: World, index: int, trace: Trace, seed: int) -> None:
        self.world, self.trace = world, trace
        self.random = Random(f"device {seed} {index}")
        address = f"10.{index >> 16 & 255}.{index >> 8 & 255}.{index & 255}"
        self.contact = Contact(self.random.getrandbits(64), address, 4000)
        self.machine: Machine | None = None
        self.x: Images
        self.y: Labels
        self.alive = True
        self._blobs: OrderedDict[bytes, bytes] = OrderedDict()
        self._timers: dict[TimerKey, int] = {}
        self._serial = 0
        self._uplink_free = self._downlink_free = 0.0
        self._job = 0

    def _later(self, at: float, name: str, *arguments: Any) -> None:
        """Call a method of the machine then, if the device lives."""

        def call() -> None:
            if self.alive and self.machine is not None:
                getattr(self.machine, name)(*arguments, self.world.clock.now)

        self.world.clock.at(at, call)

    def delay_to(self, other: Device) -> float:
        return self.trace.delay_s + other.trace.delay_s

    def send(self, to: Contact, message: Message) -> None:
        self.world.bytes += len(encode(message))
        other = self.world.by_id.get(to.node_id)
        if other is not None and other.alive:
            other._later(self.world.clock.now + self.delay_to(other), "on_message", self.contact, message)

    def set_timer(self, key: TimerKey, at: float) -> None:
        self._serial += 1
        serial = self._timers[key] = self._serial

        def call() -> None:
            if self.alive and self.machine is not None and self._timers.get(key) == serial:
                del self._timers[key]
                self.machine.on_timer(str(key[-1]), self.world.clock.now)

        self.world.clock.at(at, call)

    def cancel_timer(self, key: TimerKey) -> None:
        self._timers.pop(key, None)

    def hold(self, data: bytes) -> BlobRef:
        ref = ref_of(data)
        self._blobs[ref.id] = data
        return ref

    def blob(self, ref: BlobRef) -> bytes | None:
        return self._blobs.get(ref.id)

    def keep(self, app: int, token: Token, data: Any) -> None:
        self._later(self.world.clock.now, "on_kept", token, self.hold(bytes(memoryview(data).cast("B"))))

    def discard(self, app: int, blob: BlobRef) -> None:
        self._blobs.pop(blob.id, None)

    def fetch(
        self, app: int, token: Token, blob: BlobRef, sources: tuple[Contact, ...], *, pushed: bool = False
    ) -> None:
        now = self.world.clock.now
        if blob.id in self._blobs:
            self._later(now, "on_fetched", token, blob, self._blobs[blob.id])
            return
        for source in sources:
            other = self.world.by_id.get(source.node_id)
            data = other._blobs.get(blob.id) if other is not None and other.alive else None
            if other is not None and data is not None:
                self._transfer(other, token, blob, data)
                return
        self._later(now + FETCH_TIMEOUT_S, "on_fetched", token, blob, None)

    def _transfer(self, other: Device, token: Token, blob: BlobRef, data: bytes) -> None:
        """First come, first served, at both ends."""
        now = self.world.clock.now
        begin = max(now + self.delay_to(other), other._uplink_free, self._downlink_free)
        end = begin + blob.size / min(other.trace.uplink_bytes_s, self.trace.downlink_bytes_s)
        other._uplink_free = begin + blob.size / other.trace.uplink_bytes_s
        self._downlink_free = begin + blob.size / self.trace.downlink_bytes_s

        def arrived() -> None:
            if not self.alive or self.machine is None:
                return
            if not other.alive:
                self._later(self.world.clock.now + FETCH_TIMEOUT_S, "on_fetched", token, blob, None)
                return
            self.world.bytes += blob.size
            self._blobs[blob.id] = data
            self.machine.on_fetched(token, blob, data, self.world.clock.now)

        self.world.clock.at(end + self.delay_to(other), arrived)

    def train(self, app: int, job: TrainJob) -> None:
        self._job += 1
        mine, seconds = self._job, self.trace.step_s * self.world.recipe.steps
        self.world.device_seconds += seconds  # at the start: training that a newer task cuts short is paid in full
        model = np.frombuffer(self._blobs[job.model.id], "<f4")

        def done() -> None:
            if not self.alive or self.machine is None or mine != self._job:
                return
            if job.kind is not RoundKind.TRAIN:
                self.machine.on_trained(job.tag, TrainResult(None, 0, ()), self.world.clock.now)
                return
            recipe = self.world.recipe
            trained = self.world.learner.train(
                model,
                self.x,
                self.y,
                steps=recipe.steps,
                batch=recipe.batch,
                lr=recipe.lr,
                momentum=recipe.momentum,
                seed=self.contact.node_id ^ job.seed,
            )
            self.machine.on_trained(job.tag, TrainResult(trained - model, len(self.y), ()), self.world.clock.now)

        self.world.clock.at(self.world.clock.now + seconds, done)

    def uplink_bytes_s(self) -> float | None:
        return self.trace.uplink_bytes_s

    def save(self, app: int, progress: Progress) -> None: ...


def simulated_manifest(learner: Learner, rounds: int, seed: int) -> Manifest:
    """A manifest for simulated devices: no artifacts."""
    return Manifest(
        "sim train", bytes(32), seed.to_bytes(16, "big"), (), "digits", learner.parameters, rounds, seed=seed
    )
