"""A small world for the learning layer: scripted trees, virtual time, a network that can lose and cut, and a stand-in
for the trainer whose right answer is known in closed form.

Each device pulls the model half-way (`pull`) to its own target: delta = (target - model) / 2. FedAvg of such devices
moves the model half-way to the weighted mean of their targets, whatever the tree, which makes every round checkable.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import numpy as np

from edgefl.learning.application import Application
from edgefl.learning.effects import DECLINED, Prepared, Progress, TrainJob, TrainResult
from edgefl.learning.forest.application import ForestApplication
from edgefl.learning.manifest import REQUIRED_ARTIFACTS, travelling
from edgefl.learning.node import Decision, Learning, Part
from edgefl.sim import stand_in
from edgefl.wire import Contact, Message, decode, encode
from edgefl.wire.application import Advert, AppState, Artifact, Manifest
from edgefl.wire.blob import BlobRef, ref_of
from edgefl.wire.codec import encode_record

PARAMETERS = 5
LATENCY_S = 0.01


def make_manifest(**changes: Any) -> Manifest:
    """A valid manifest; `changes` override single fields."""
    artifacts = tuple(Artifact(name, BlobRef(bytes(32), 10)) for name in sorted(REQUIRED_ARTIFACTS))
    values: dict[str, Any] = {
        "name": "digits",
        "owner": bytes(32),
        "salt": bytes(16),
        "artifacts": artifacts,
        "data": "digits",
        "parameters": PARAMETERS,
        "rounds": 3,
        "deadline_s": 60.0,
        "seed": 1,
    }
    return Manifest(**{**values, **changes})


def small_chunks() -> ExitStack:
    """Chunks of two values and a credit of two, so that five values are three chunks and much can happen in between."""
    stack = ExitStack()
    for module in ("aggregate", "forest.feedback"):
        stack.enter_context(patch(f"edgefl.learning.{module}.CHUNK_PARAMETERS", 2))
    stack.enter_context(patch("edgefl.learning.forest.inflow.MAX_CREDIT", 2))
    return stack


def make_advert(manifest: Manifest, *, version: int = 1, state: AppState = AppState.RUNNING) -> Advert:
    return Advert(encode_record(manifest), version, state, bytes(64), make_contact(1))


def make_contact(number: int) -> Contact:
    return Contact(number, f"10.0.{number // 256}.{number % 256}", 4000)


@dataclass
class ScriptedChild:
    contact: Contact
    observer: bool
    members: int


@dataclass
class ScriptedTree:
    is_root: bool
    parent: Contact | None
    children: tuple[ScriptedChild, ...]
    height: int
    members: int
    root: int


@dataclass
class Device:
    """One device: its learning layer, what it trains on, and what the world did for it."""

    world: World
    contact: Contact
    target: np.ndarray
    samples: int
    learning: Learning = field(init=False)
    random: random.Random = field(init=False)
    blobs: dict[bytes, bytes] = field(default_factory=dict)
    timers: dict[Any, int] = field(default_factory=dict)
    saved: dict[int, Progress] = field(default_factory=dict)
    durable: dict[bytes, bytes] = field(default_factory=dict)
    memories: dict[tuple[int, str], bytes] = field(default_factory=dict)
    broadcasts: list[BlobRef] = field(default_factory=list)
    adverts: list[Advert] = field(default_factory=list)
    jobs: list[TrainJob] = field(default_factory=list)
    released: list[int] = field(default_factory=list)
    parents: dict[int, int] = field(default_factory=dict)
    joined: dict[int, bool] = field(default_factory=dict)
    watched: dict[int, float] = field(default_factory=dict)
    rounds_over: list[tuple[int, int]] = field(default_factory=list)
    disowned: list[int] = field(default_factory=list)
    alive: bool = True
    train_s: float = 1.0
    steps: int = 1
    broken: bool = False
    declines: bool = False
    prepared: Prepared | None = None
    aggregate: Callable[[np.ndarray, np.ndarray], np.ndarray | None] | None = None
    """The owner's policy; None: it fails."""
    decision: Decision = field(default_factory=lambda: Decision(Part.JOIN))

    def __post_init__(self) -> None:
        self.random = random.Random(self.contact.node_id)
        self.learning = Learning(self, self, lambda manifest: self.decision)

    @property
    def app(self) -> ForestApplication:
        app = self.any_app
        assert isinstance(app, ForestApplication)
        return app

    @property
    def any_app(self) -> Application:
        """The application, whatever its topology."""
        return next(iter(self.learning.applications.values()))

    # The overlay, scripted

    def tree(self, app: int) -> ScriptedTree | None:
        return self.world.tree_of(self, app)

    def top_ranked(self, app: int, count: int) -> tuple[Contact, ...]:
        others = [d for d in self.world.members(app) if d.alive and d is not self and not d.any_app.observer]
        return tuple(d.contact for d in sorted(others, key=lambda d: d.contact.node_id)[:count])

    def join_tree(
        self, app: int, now: float, *, observer: bool = False, helper: bool = False, scope: Any = None
    ) -> None:
        self.joined[app] = observer

    def leave_tree(self, app: int, now: float) -> None:
        self.joined.pop(app, None)

    def disown(self, app: int, sender: Contact, now: float) -> None:
        self.disowned.append(sender.node_id)

    def watch_tree(self, app: int, until: float, now: float) -> None:
        self.watched[app] = until

    def epsilon_sums(self, app: int) -> tuple[float, float]:
        return 0.0, 0.0

    def on_round_over(self, app: int, size_bytes: int, waited_s: float, now: float) -> None:
        self.rounds_over.append((app, size_bytes))

    def publish(self, advert: Advert, now: float) -> None:
        self.adverts.append(advert)

    # Effects

    def send(self, to: Contact, message: Message) -> None:
        decoded = decode(encode(message))
        assert decoded == message, "the message does not survive the wire"
        self.world.post(self, to.node_id, message)

    def send_bulk(self, app: int, to: Contact, message: Message, data: Any) -> None:
        assert decode(encode(message)) == message, "the message does not survive the wire"
        self.world.post(self, to.node_id, message, bytes(data))

    def uplink_bytes_s(self) -> float | None:
        return None

    def remember(self, app: int, data: Any, name: str = "feedback") -> None:
        self.memories[app, name] = bytes(data)

    def recall(self, app: int, token: Any) -> None:
        self.later(lambda now: self.learning.on_recalled(app, token, self.memories.get((app, token[0])), now))

    def set_timer(self, key: Any, at: float) -> None:
        self.timers[key] = self.timers.get(key, 0) + 1
        serial = self.timers[key]
        self.world.at(at, lambda now: self._fire(key, serial, now))

    def cancel_timer(self, key: Any) -> None:
        self.timers[key] = self.timers.get(key, 0) + 1

    def _fire(self, key: Any, serial: int, now: float) -> None:
        if self.alive and self.timers.get(key) == serial:
            self.learning.on_timer(key, now)

    def prepare(self, app: int, manifest: Manifest, sources: tuple[Contact, ...], *, observer: bool) -> None:
        data = np.zeros(travelling(manifest), np.float32).tobytes()
        ref = self.hold(data)
        result = self.prepared or Prepared(ref)
        self.later(lambda now: self.learning.on_prepared(app, result, now))

    def release(self, app: int) -> None:
        self.released.append(app)

    def subscribe(self, app: int, parent: Contact) -> None:
        self.parents[app] = parent.node_id

    def unsubscribe(self, app: int) -> None:
        self.parents.pop(app, None)

    def broadcast(self, app: int, blob: BlobRef) -> None:
        self.broadcasts.append(blob)

    def fetch(self, app: int, token: Any, blob: BlobRef, sources: tuple[Contact, ...], *, pushed: bool = False) -> None:
        def arrive(now: float) -> None:
            data = self.blobs.get(blob.id)
            for source in sources:
                holder = self.world.devices.get(source.node_id)
                if data is None and holder is not None and holder.alive and self.world.connected(self, holder):
                    data = holder.blobs.get(blob.id)
            if data is not None:
                self.blobs[blob.id] = data
            self.learning.on_fetched(app, token, blob, data, now)

        self.later(arrive, 2 * LATENCY_S)

    def keep(self, app: int, token: Any, data: Any) -> None:
        ref = self.hold(bytes(memoryview(data).cast("B")))
        self.later(lambda now: self.learning.on_kept(app, token, ref, now))

    def renew(self, app: int, token: Any, start: BlobRef, model: Any, mean: Any) -> None:
        assert ref_of(bytes(model)) == start
        made = self.aggregate(np.frombuffer(model, "<f4"), mean) if self.aggregate is not None else None
        if made is None:
            self.later(lambda now: self.learning.on_not_kept(app, token, "the policy failed", now))
        else:
            ref = self.hold(made.astype("<f4").tobytes())
            self.later(lambda now: self.learning.on_kept(app, token, ref, now))

    def discard(self, app: int, blob: BlobRef) -> None:
        self.blobs.pop(blob.id, None)

    def train(self, app: int, job: TrainJob) -> None:
        self.jobs.append(job)
        strategy, model = self.world.manifest.strategy, self.blobs[job.model.id]
        result: TrainResult | None = stand_in.train(
            strategy, job, model, self.target, self.samples, lr=self.world.pull, steps=self.steps
        )
        if self.broken:
            result = None
        if self.declines:
            self.later(lambda now: self.learning.on_trained(app, job.tag, DECLINED, now))
            return
        self.later(lambda now: self.learning.on_trained(app, job.tag, result, now), self.train_s)

    def save(self, app: int, progress: Progress) -> None:
        for blob in progress.blobs():
            assert blob.id in self.blobs, "saved progress names a blob that this device does not hold"
        earlier = self.saved.get(app)
        assert earlier is None or progress.epoch >= earlier.epoch, "epochs go backwards"
        self.saved[app] = progress
        self.durable = {blob.id: self.blobs[blob.id] for blob in progress.blobs()}

    # Helpers

    def hold(self, data: bytes) -> BlobRef:
        ref = ref_of(data)
        self.blobs[ref.id] = data
        return ref

    def later(self, call: Callable[[float], None], delay_s: float = 0.001) -> None:
        self.world.at(self.world.now + delay_s, lambda now: call(now) if self.alive else None)


class World:
    """Devices, one scripted tree, virtual time. `links_down` holds pairs that cannot talk."""

    def __init__(
        self,
        devices: int,
        *,
        seed: int = 0,
        loss: float = 0.0,
        manifest: Manifest | None = None,
        zones: dict[int, int] | None = None,
    ) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self.loss = loss
        self.jitter_s = 0.0
        self.pull = 0.5
        self._last: dict[tuple[int, int], float] = {}
        self.manifest = manifest or make_manifest()
        self.advert = make_advert(self.manifest)
        self._heap: list[tuple[float, int, Callable[[float], None]]] = []
        self._serial = 0
        self.parent_of: dict[int, int] = {}
        self.root: int | None = None
        self.links_down: set[frozenset[int]] = set()
        self.tap: Callable[[int, int, Message], bool | Message] | None = None
        """Decides on each message: it passes, it is lost, or another takes its place."""
        generator = np.random.default_rng(seed)
        self.devices = {
            number: Device(
                self,
                replace(make_contact(number), zone=(zones or {}).get(number, 0)),
                generator.normal(size=self.manifest.parameters).astype(np.float32),
                int(generator.integers(1, 50)),
            )
            for number in range(1, devices + 1)
        }

    # Time

    def at(self, when: float, call: Callable[[float], None]) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (when, self._serial, call))

    def run(self, until: Callable[[], bool], limit_s: float = 600.0) -> None:
        """Run events until the condition holds; fails when it does not within `limit_s` virtual seconds."""
        deadline = self.now + limit_s
        while not until():
            assert self._heap, "nothing will ever happen again"
            when, _, call = heapq.heappop(self._heap)
            assert when <= deadline, f"still not so after {limit_s} virtual seconds"
            self.now = max(self.now, when)
            call(self.now)

    def run_for(self, seconds: float) -> None:
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            when, _, call = heapq.heappop(self._heap)
            self.now = max(self.now, when)
            call(self.now)
        self.now = end

    # Network

    def post(self, sender: Device, to: int, message: Message, data: bytes | None = None) -> None:
        receiver = self.devices.get(to)
        if receiver is None or self.random.random() < self.loss or not self.connected(sender, receiver):
            return
        if self.tap is not None:
            passed = self.tap(sender.contact.node_id, to, message)
            if not passed:
                return
            message = message if passed is True else passed

        def arrive(now: float) -> None:
            if not receiver.alive:
                return
            if data is None:
                receiver.learning.on_message(sender.contact, message, now)
            else:
                receiver.learning.on_bulk(sender.contact, message, memoryview(data), now)

        when = self.now + LATENCY_S + self.jitter_s * self.random.random()
        if data is None:  # what is large may come through another connection
            pair = (sender.contact.node_id, to)
            when = self._last[pair] = max(self._last.get(pair, 0.0), when)
        self.at(when, arrive)

    def connected(self, a: Device, b: Device) -> bool:
        return frozenset((a.contact.node_id, b.contact.node_id)) not in self.links_down

    # The tree

    def start(self, parents: dict[int, int], *, observers: Iterable[int] = ()) -> None:
        """Everybody takes part; then the tree forms as scripted (child -> parent; who is missing is the root)."""
        observers = set(observers)
        for number, device in self.devices.items():
            device.learning.take_part(self.advert, self.now, observer=number in observers)
        self.run_for(0.01)
        root = next(number for number in self.devices if number not in parents)
        self.root = root
        self.devices[root].learning.on_root(self.app_id, self.now)
        for child in sorted(parents, key=lambda number: self._depth(number, parents)):
            self.attach(child, parents[child])

    def _depth(self, number: int, parents: dict[int, int]) -> int:
        return 0 if number not in parents else 1 + self._depth(parents[number], parents)

    @property
    def app_id(self) -> int:
        return self.manifest.app_id

    def attach(self, child: int, parent: int) -> None:
        """`child` hangs below `parent` from now on, and both learning layers hear of it."""
        self.detach(child)
        self.parent_of[child] = parent
        if self.root == child:
            self.root = None
        c, p = self.devices[child], self.devices[parent]
        if p.alive:
            p.learning.on_child(self.app_id, c.contact, c.any_app.observer, self.now)
        if c.alive:
            c.learning.on_parent(self.app_id, p.contact, self.now)

    def detach(self, child: int) -> None:
        parent = self.parent_of.pop(child, None)
        if parent is not None and self.devices[parent].alive:
            self.devices[parent].learning.on_child_gone(self.app_id, child, self.now)

    def crown(self, number: int) -> None:
        """`number` is the root from now on."""
        self.detach(number)
        self.root = number
        self.devices[number].learning.on_root(self.app_id, self.now)

    def kill(self, number: int) -> None:
        """The device is gone, and the overlay notices at once."""
        self.devices[number].alive = False
        self.detach(number)
        for child in [c for c, p in self.parent_of.items() if p == number]:
            del self.parent_of[child]
            if self.devices[child].alive:
                self.devices[child].learning.on_orphaned(self.app_id, self.now)
        if self.root == number:
            self.root = None

    def members(self, app: int) -> list[Device]:
        return [device for device in self.devices.values() if app in device.learning.applications]

    def tree_of(self, device: Device, app: int) -> ScriptedTree:
        number = device.contact.node_id
        children = [c for c, p in self.parent_of.items() if p == number and self.devices[c].alive]
        parent = self.parent_of.get(number)
        return ScriptedTree(
            is_root=self.root == number,
            parent=self.devices[parent].contact if parent is not None else None,
            children=tuple(
                ScriptedChild(self.devices[c].contact, self.devices[c].any_app.observer, self._members(c))
                for c in children
            ),
            height=self._height(number),
            members=self._members(number),
            root=self._top(number),
        )

    def _top(self, number: int) -> int:
        while number in self.parent_of:
            number = self.parent_of[number]
        return number

    def _height(self, number: int) -> int:
        return max((1 + self._height(c) for c, p in self.parent_of.items() if p == number), default=0)

    def _members(self, number: int) -> int:
        own = 0 if self.devices[number].any_app.observer else 1
        return own + sum(self._members(c) for c, p in self.parent_of.items() if p == number)

    # What must come out

    def expected_model(self, rounds: int, participants: Iterable[int] | None = None) -> np.ndarray:
        """The model after `rounds` rounds in which the same devices took part, in closed form (float64)."""
        chosen = [self.devices[n] for n in participants] if participants is not None else list(self.devices.values())
        samples = np.array([d.samples for d in chosen], np.float64)
        mean = np.average([d.target for d in chosen], axis=0, weights=samples)
        return (1 - 0.5**rounds) * mean

    def model_of(self, number: int) -> np.ndarray:
        device = self.devices[number]
        assert device.any_app.ledger.model is not None
        return np.frombuffer(device.blobs[device.any_app.ledger.model.id], "<f4")

    def finished(self, *numbers: int) -> bool:
        chosen = numbers or tuple(n for n, d in self.devices.items() if d.alive)
        return all(self.devices[n].app.ledger.finished for n in chosen)

    # Failures, with an overlay that repairs the tree: a smaller number outranks a larger one

    def heal(self) -> None:
        """Orphans attach below a random device that outranks them; the highest-ranked becomes the root."""
        alive = sorted(number for number, device in self.devices.items() if device.alive)
        if self.root != alive[0]:
            self.crown(alive[0])
        for number in alive[1:]:
            if number not in self.parent_of:
                self.attach(number, self.random.choice([other for other in alive if other < number]))

    def restart(self, number: int) -> None:
        """The device comes back with what it had made durable, and finds its place in the tree."""
        old = self.devices[number]
        assert not old.alive
        fresh = Device(self, old.contact, old.target, old.samples)
        fresh.train_s = old.train_s
        fresh.steps = old.steps
        fresh.saved = dict(old.saved)
        progress = old.saved.get(self.app_id)
        fresh.durable = dict(old.durable)
        fresh.memories = dict(old.memories)
        fresh.blobs = dict(old.durable)
        self.devices[number] = fresh
        fresh.learning.take_part(self.advert, self.now, progress=progress)
        self.run_for(0.01)

    def cut_power(self, number: int) -> None:
        """For a moment, which the overlay does not notice: the device goes on from what it has saved."""
        device = self.devices[number]
        progress = device.saved.get(self.app_id)
        device.blobs = dict(device.durable)
        device.timers = {key: serial + 1 for key, serial in device.timers.items()}
        device.learning.applications.clear()
        device.learning.take_part(self.advert, self.now, progress=progress)


def lying(world: World, *numbers: int, factor: float = -1000.0) -> None:
    """These devices send their delta many times over, the wrong way."""
    for number in numbers:
        device = world.devices[number]
        trained = device.learning.on_trained

        def lie(app: int, tag: Any, result: TrainResult | None, now: float, trained: Any = trained) -> None:
            if result is not None and result.delta is not None:
                result = TrainResult(result.delta * np.float32(factor), result.samples, result.metrics)
            trained(app, tag, result, now)

        device.learning.on_trained = lie  # type: ignore[method-assign]
