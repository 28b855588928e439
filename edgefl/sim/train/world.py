"""Devices under a virtual clock: messages take the delay, blobs queue through uplink and downlink, training takes
steps times the device's own step time. Nothing is faster than that; nothing costs real time but the gradients.
A message over a link that is down is lost; a transfer that its link does not survive fails, and was paid for.

Blobs travel whole: a device passes one on once it has all of it (the transport passes chunks of 256 KiB on as they
come; models here are about as large as one chunk).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgefl.learning.effects import Prepared, Progress, TrainJob, TrainResult
from edgefl.learning.strategies.local import Outcome, local_part
from edgefl.learning.strategies.rates import learning_rate
from edgefl.sim.clock import Clock
from edgefl.sim.train.learner import initial_model
from edgefl.sim.train.links import Links
from edgefl.sim.train.traces import capacity_of
from edgefl.wire import Contact, Message, encode
from edgefl.wire.application import Manifest
from edgefl.wire.blob import BlobRef, ref_of
from edgefl.wire.learning import RoundKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgefl.effects import TimerKey
    from edgefl.learning.effects import Tag, Token
    from edgefl.sim.train.learner import Images, Labels, LocalTraining, Vector
    from edgefl.sim.train.traces import Trace

FETCH_TIMEOUT_S = 10.0
"""A fetch from a device that is gone, or over a link that is down, fails after this."""

PUSH_PATIENCE_S = 10.0
"""A device that waits for its parent to push a blob asks for it after this."""

MAX_PUSHED = 4
"""Blobs that a parent has pushed and that nobody here has asked for yet."""

EVALUATION_STEPS = 1
"""An evaluation takes as long as so many steps of training."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How devices train: SGD steps of one local training, batch, rate, momentum, their part of a strategy, and the
    rate's course."""

    steps: int = 5
    batch: int = 20
    lr: float = 0.1
    momentum: float = 0.0
    strategy: str = "fedavg"
    schedule: str = "constant"
    rounds: int = 1

    def rate(self, round_: int) -> float:
        """The learning rate of a round: `schedule` as in a manifest, over so many `rounds`."""
        return learning_rate(self.schedule, self.lr, round_, self.rounds)


class Machine(Protocol):
    """A device's protocol state machine, as the world drives it. A machine that uses the effects of the forest also has
    on_bulk(sender, message, data, now), on_prepared(prepared, now) and on_recalled(token, data, now)."""

    def on_message(self, sender: Contact, message: Message, now: float) -> None: ...
    def on_timer(self, name: str, now: float) -> None: ...
    def on_fetched(self, token: Token, blob: BlobRef, data: Any, now: float) -> None: ...
    def on_kept(self, token: Token, blob: BlobRef, now: float) -> None: ...
    def on_trained(self, tag: Tag, result: TrainResult | None, now: float) -> None: ...


class World:
    """All devices of one run, and what they have cost."""

    def __init__(
        self, traces: list[Trace], learner: LocalTraining, recipe: Recipe, seed: int, *, links_down: float = 0.0
    ) -> None:
        self.clock = Clock()
        self.links = Links(links_down, seed)
        self.learner, self.recipe = learner, recipe
        self.bytes = 0
        self.device_seconds = 0.0
        self.devices = [Device(self, index, trace, seed) for index, trace in enumerate(traces)]
        self.by_id = {device.contact.node_id: device for device in self.devices}
        self._random = Random(f"failures {seed}")

    def fail(self, share: float) -> list[Device]:
        """Switch off this share of the devices that live, without a word. Who was switched off."""
        live = [device for device in self.devices if device.alive]
        lost = self._random.sample(live, round(share * len(live)))
        for device in lost:
            device.alive = False
        return lost


class Device:
    """One device and its effects: implements LearningEffects."""

    def __init__(self, world: World, index: int, trace: Trace, seed: int) -> None:
        self.world, self.index, self.trace = world, index, trace
        self.random = Random(f"device {seed} {index}")
        address = f"10.{index >> 16 & 255}.{index >> 8 & 255}.{index & 255}"
        self.contact = Contact(self.random.getrandbits(64), address, 4000, capacity=capacity_of(trace))
        self.machine: Machine | None = None
        self.x: Images
        self.y: Labels
        self.alive = True
        self._blobs: OrderedDict[bytes, bytes] = OrderedDict()
        self._timers: dict[TimerKey, int] = {}
        self._serial = 0
        self.uplink_free = self.downlink_free = 0.0
        self._job = 0
        self._parent: Device | None = None
        self._children: dict[int, Device] = {}
        self._coming: set[bytes] = set()
        self._waiting: dict[bytes, list[tuple[Token, tuple[Contact, ...]]]] = {}
        self._pushed: OrderedDict[bytes, None] = OrderedDict()
        self._memories: dict[str, bytes] = {}

    def _later(self, at: float, name: str, *arguments: Any) -> None:
        """Call a method of the machine then, if the device lives."""

        def call() -> None:
            if self.alive and self.machine is not None:
                getattr(self.machine, name)(*arguments, self.world.clock.now)

        self.world.clock.at(at, call)

    def delay_to(self, other: Device) -> float:
        return self.trace.delay_s + other.trace.delay_s

    def reaches(self, other: Device) -> bool:
        """Whether the other device lives and the link to it works."""
        return other.alive and self.world.links.is_up(self.index, other.index, self.world.clock.now)

    # Messages and timers

    def send(self, to: Contact, message: Message) -> None:
        self.world.bytes += len(encode(message))
        other = self.world.by_id.get(to.node_id)
        if other is not None and self.reaches(other):
            other._later(self.world.clock.now + self.delay_to(other), "on_message", self.contact, message)

    def send_bulk(self, app: int, to: Contact, message: Message, data: Any) -> None:
        other = self.world.by_id.get(to.node_id)
        if other is None or not self.reaches(other):
            return
        payload, now = bytes(data), self.world.clock.now
        size = len(encode(message)) + len(payload)
        end = self._occupy(other, size)

        def arrived() -> None:
            self.world.bytes += size
            if self.alive and self.world.links.stays_up(self.index, other.index, now, end):
                other._later(self.world.clock.now, "on_bulk", self.contact, message, payload)

        self.world.clock.at(end + self.delay_to(other), arrived)

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

    # Blobs

    def hold(self, data: bytes, ref: BlobRef | None = None) -> BlobRef:
        """Have a blob from now on; `ref` where its name is known already."""
        ref = ref or ref_of(data)
        self._blobs[ref.id] = data
        return ref

    def blob(self, ref: BlobRef) -> bytes | None:
        return self._blobs.get(ref.id)

    def keep(self, app: int, token: Token, data: Any) -> None:
        self._later(self.world.clock.now, "on_kept", token, self.hold(bytes(memoryview(data).cast("B"))))

    def renew(self, app: int, token: Token, start: BlobRef, model: Any, mean: Any) -> None:
        raise NotImplementedError("simulated manifests name no policies")

    def discard(self, app: int, blob: BlobRef) -> None:
        self._blobs.pop(blob.id, None)

    def fetch(
        self, app: int, token: Token, blob: BlobRef, sources: tuple[Contact, ...], *, pushed: bool = False
    ) -> None:
        now = self.world.clock.now
        self._pushed.pop(blob.id, None)
        if blob.id in self._blobs:
            self._deliver(token, blob, self._blobs[blob.id])
            return
        if blob.id in self._coming or (pushed and self._parent is not None and self.reaches(self._parent)):
            self._waiting.setdefault(blob.id, []).append((token, sources))
            self.world.clock.at(now + PUSH_PATIENCE_S, self._ask_instead, token, blob)
            if blob.id in self._coming or self._parent is None or blob.id not in self._parent._blobs:
                return
            self._pull(self._parent, blob, self._parent._blobs[blob.id])
            return
        self._ask(token, blob, sources)

    def _deliver(self, token: Token, blob: BlobRef, data: bytes) -> None:
        """A blob that is waited for is held until it is handed over, whoever discards it in between."""

        def call() -> None:
            if self.alive and self.machine is not None:
                self._blobs[blob.id] = data
                self.machine.on_fetched(token, blob, data, self.world.clock.now)

        self.world.clock.at(self.world.clock.now, call)

    def _ask(self, token: Token, blob: BlobRef, sources: tuple[Contact, ...]) -> None:
        for source in sources:
            other = self.world.by_id.get(source.node_id)
            data = other._blobs.get(blob.id) if other is not None and self.reaches(other) else None
            if other is not None and data is not None:
                self._transfer(other, token, blob, data)
                return
        self._later(self.world.clock.now + FETCH_TIMEOUT_S, "on_fetched", token, blob, None)

    def _ask_instead(self, token: Token, blob: BlobRef) -> None:
        """What the parent should have pushed has not come (or comes slowly, then waiting goes on)."""
        if blob.id in self._coming:
            self.world.clock.at(self.world.clock.now + PUSH_PATIENCE_S, self._ask_instead, token, blob)
            return
        waiting = self._waiting.get(blob.id, [])
        for entry in [entry for entry in waiting if entry[0] == token]:
            waiting.remove(entry)
            self._ask(token, blob, entry[1])

    def _occupy(self, other: Device, size: int) -> float:
        """When the last byte from here to the other device has left. First come, first served, at both ends."""
        now = self.world.clock.now
        begin = max(now, self.uplink_free, other.downlink_free)
        self.uplink_free = begin + size / self.trace.uplink_bytes_s
        other.downlink_free = begin + size / other.trace.downlink_bytes_s
        return max(self.uplink_free, other.downlink_free)

    def _transfer(self, other: Device, token: Token, blob: BlobRef, data: bytes) -> None:
        """Ask for a blob, and have it, or not."""

        def over(arrived: bool) -> None:
            if arrived:
                self._deliver(token, blob, data)
            else:
                self._later(self.world.clock.now + FETCH_TIMEOUT_S, "on_fetched", token, blob, None)

        self.world.clock.at(self.world.clock.now + self.delay_to(other), self._carry, other, blob, data, over)

    def _carry(self, other: Device, blob: BlobRef, data: bytes, over: Callable[[bool], None]) -> None:
        """A blob from the other device to this one."""
        if not other.alive:
            over(False)
            return
        now = self.world.clock.now
        end = other._occupy(self, blob.size)

        def arrived() -> None:
            self.world.bytes += blob.size
            whole = other.alive and self.world.links.stays_up(self.index, other.index, now, end)
            if self.alive and whole:
                self._blobs[blob.id] = data
            over(whole)

        self.world.clock.at(end + self.delay_to(other), arrived)

    # Pushing down a tree

    def subscribe(self, app: int, parent: Contact) -> None:
        self.unsubscribe(app)
        self._parent = self.world.by_id[parent.node_id]
        self._parent._children[self.index] = self

    def unsubscribe(self, app: int) -> None:
        if self._parent is not None:
            self._parent._children.pop(self.index, None)
        self._parent = None

    def broadcast(self, app: int, blob: BlobRef) -> None:
        for child in list(self._children.values()):
            child._pull(self, blob, self._blobs[blob.id])

    def _pull(self, parent: Device, blob: BlobRef, data: bytes) -> None:
        """Take in what the parent pushes, and push it on."""
        if blob.id in self._blobs or blob.id in self._coming or not parent.reaches(self):
            return
        self._coming.add(blob.id)

        def over(arrived: bool) -> None:
            self._coming.discard(blob.id)
            if not arrived or not self.alive:
                return
            waiting = self._waiting.pop(blob.id, [])
            for token, _ in waiting:
                self._deliver(token, blob, data)
            if not waiting:
                self._pushed[blob.id] = None
                while len(self._pushed) > MAX_PUSHED:
                    self._blobs.pop(self._pushed.popitem(last=False)[0], None)
            self.broadcast(0, blob)

        self._carry(parent, blob, data, over)

    # Training and memory

    def prepare(self, app: int, manifest: Manifest, sources: tuple[Contact, ...], *, observer: bool) -> None:
        initial = initial_model(self.world.learner, manifest).tobytes()
        self._later(
            self.world.clock.now, "on_prepared", Prepared(self.hold(initial), trained=self.world.learner.trained)
        )

    def release(self, app: int) -> None: ...

    def train(self, app: int, job: TrainJob) -> None:
        self._job += 1
        steps = self.world.recipe.steps if job.kind is RoundKind.TRAIN else EVALUATION_STEPS
        mine, seconds = self._job, self.trace.step_s * steps
        if job.kind is RoundKind.TRAIN:
            self.world.device_seconds += seconds  # at the start: training that a newer task cuts short is paid in full
        given = np.frombuffer(self._blobs[job.model.id], "<f4")

        def done() -> None:
            if not self.alive or self.machine is None or mine != self._job:
                return
            if job.kind is not RoundKind.TRAIN:
                self.machine.on_trained(job.tag, TrainResult(None, 0, ()), self.world.clock.now)
                return
            self.machine.on_trained(job.tag, self._learn(job, given), self.world.clock.now)

        self.world.clock.at(self.world.clock.now + seconds, done)

    def _learn(self, job: TrainJob, given: Vector) -> TrainResult:
        """Real gradients, between the two halves of the devices' part of the strategy, which ship."""
        recipe, learner, samples = self.world.recipe, self.world.learner, len(self.y)
        part = local_part(recipe.strategy)
        kept = None if job.kept is None else np.frombuffer(job.kept, "<f4")
        plan = part.plan(given, kept)
        lr = recipe.rate(job.tag[1])
        trained = learner.train(
            plan.weights,
            self.x,
            self.y,
            steps=recipe.steps,
            batch=recipe.batch,
            lr=lr,
            momentum=recipe.momentum,
            proximal=plan.proximal,
            shift=plan.shift,
            seed=self.contact.node_id ^ job.seed,
        )
        loss = learner.loss(plan.weights, self.x, self.y) if plan.wants_loss else 0.0
        steps = learner.gradients(recipe.steps, recipe.momentum)
        outcome = Outcome(trained - plan.weights, samples, steps, lr, loss)
        report = part.report(given, kept, outcome, learner.trained)
        return TrainResult(report.vector, samples, report.metrics, report.kept)

    def uplink_bytes_s(self) -> float | None:
        return self.trace.uplink_bytes_s

    def save(self, app: int, progress: Progress) -> None: ...

    def remember(self, app: int, data: Any, name: str = "feedback") -> None:
        self._memories[name] = bytes(data)

    def recall(self, app: int, token: Token) -> None:
        self._later(self.world.clock.now, "on_recalled", token, self._memories.get(str(token[0])))


def simulated_manifest(learner: LocalTraining, rounds: int, seed: int, **changes: Any) -> Manifest:
    """A manifest for simulated devices: no artifacts. `changes` are further fields."""
    return Manifest(
        "sim train",
        bytes(32),
        seed.to_bytes(16, "big"),
        (),
        "digits",
        learner.parameters,
        rounds,
        seed=seed,
        **changes,
    )
