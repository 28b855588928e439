"""A device's part as a trainer of a task: get the model, train or evaluate it, find an aggregator for the result.

The search begins with the training, so that its round trips cost no time.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any

from edgefl.declared import dataclass
from edgefl.learning.effects import TrainJob, TrainResult
from edgefl.learning.sampled.order import aggregators, order
from edgefl.wire import Contact
from edgefl.wire.blob import BlobRef
from edgefl.wire.learning import Metric, RoundKind
from edgefl.wire.sampled import Entry, SampleUpdate

if TYPE_CHECKING:
    from edgefl.learning.effects import Tag, Token
    from edgefl.learning.sampled.device import SampledDevice, Task

RETRY_S = 5.0
"""When nobody at all answers, it is tried again after this."""

MAX_TRAINING_MS = 2**32 - 1

FRESH_S = 10.0
"""Who answered longer ago than this may be gone: it is asked again."""


@dataclass(slots=True)
class Own:
    """What this device does for one task. `source` is None when the base is its own making."""

    task: Task
    kind: RoundKind
    source: Contact | None
    base: BlobRef
    base_round: int
    sampled: int
    served: tuple[int, ...] = ()
    pushed: bool = False
    """Whether the base is on its way."""
    data: Any = None
    update: BlobRef | None = None
    made: Any = None
    """What the update is made of, as long as it may have to be pushed."""
    samples: int = 0
    metrics: tuple[Metric, ...] = ()
    asked: set[int] = field(default_factory=set)
    found: tuple[float, list[Entry]] | None = None
    """Who shall aggregate, and when they answered: until they are sent the update."""
    done: bool = False


class Trainer:
    """One task at a time: a newer one takes the place of the one before."""

    SEARCH = "find"
    TIMERS = ("ack", SEARCH)

    def __init__(self, device: SampledDevice) -> None:
        self.device = device
        self.own: Own | None = None
        self.training_ms = 0
        """What the last training took; 0 before the first."""
        self._began = 0.0

    def begin(self, own: Own, now: float) -> None:
        device = self.device
        old, self.own = self.own, own
        if old is not None and old.data is not None and old.kind is RoundKind.TRAIN:  # cut short: it takes longer
            self._took(now, at_least=self.training_ms)
        for blob in (old.update, old.base) if old is not None else ():
            if blob is not None and blob not in (device.model, own.base):
                device.effects.discard(device.app, blob)
        device.cancel(*self.TIMERS)
        device.heard(own.task, now)
        device.registry.touch(device.me.node_id, own.task[1])
        device.arrivals.get(
            ("task", own.task), own.base, own.source, now, pushed=own.pushed, models=max(1, own.sampled)
        )

    def on_fetched(self, token: Token, data: Any, now: float) -> bool:
        """False when the model belongs to no task of this device any more."""
        own, device = self.own, self.device
        if own is None or token != ("task", own.task):
            return False
        if data is None:
            # Whoever made it is gone, without having acknowledged: its trainers find another, and the task comes again.
            device.count("model_lost")
            self.own = None
            return True
        own.data = data
        if own.source is not None:
            device.acknowledge(own.source, own.task, ok=True, now=now)
        device.hold(own.base_round, own.base)
        if own.kind is RoundKind.DONE:
            device.finish()
            return True
        attempt, round_ = own.task
        job = TrainJob((0, round_, attempt), own.kind, own.base, device.manifest.seed + round_)
        self._began = now
        device.effects.train(device.app, job)
        self._look(own, now)
        return True

    def on_trained(self, tag: Tag, result: TrainResult | None, now: float) -> None:
        own, device = self.own, self.device
        if own is None or (tag[2], tag[1]) != own.task or own.data is None:
            return
        if result is not None and result.declined:
            own.data = None
            device.count("training_declined")
            return
        if result is None or result.diverged or (own.kind is RoundKind.TRAIN) != (result.delta is not None):
            own.data = None
            device.count("training_failed")
            return
        own.metrics = result.metrics
        if result.delta is None:
            own.update, own.data = own.base, None
            self.find_aggregator(now)
        elif result.samples >= 1:
            from edgefl.learning.sampled.average import trained  # numpy comes with it

            self._took(now)
            own.samples = result.samples
            own.data, made = None, trained(own.data, result.delta)
            own.made = made if device.arrivals.are_small else None
            device.effects.keep(device.app, ("update", own.task), made)

    def _took(self, now: float, *, at_least: int = 1) -> None:
        self.training_ms = min(MAX_TRAINING_MS, max(at_least, 1, round(1000 * (now - self._began))))

    def on_kept(self, token: Token, blob: BlobRef, now: float) -> bool:
        """False when the blob belongs to no task of this device any more."""
        if self.own is None or token != ("update", self.own.task):
            return False
        self.own.update = blob
        self.find_aggregator(now)
        return True

    def find_aggregator(self, now: float) -> None:
        """Send the update to whoever makes the next model; look for somebody if nobody is known."""
        own = self.own
        if own is None or own.update is None or own.done:
            return
        found, own.found = own.found, None
        if found is not None and now <= found[0] + FRESH_S:
            self._offer(own, own.update, found[1], now)
        elif self.SEARCH not in self.device.searches:
            self._look(own, now)

    def _look(self, own: Own, now: float) -> None:
        """Somebody of the next sample who was not asked yet."""
        device, target = self.device, own.task[1] + 1
        ordered = order(device.key, device.registry.candidates(target), target)
        line = aggregators(ordered, device.options.sample, own.served, by_uplink=device.options.by_uplink)
        fresh = [entry for entry in line if entry.contact.node_id not in own.asked]
        if not fresh:
            own.asked.clear()
            fresh = line
        device.searches.start(self.SEARCH, fresh, device.options.aggregators, self._found, now)

    def _found(self, chosen: list[Entry], now: float) -> None:
        own = self.own
        if own is not None and not own.done:
            own.found = (now, chosen)
            self.find_aggregator(now)

    def _offer(self, own: Own, update: BlobRef, chosen: list[Entry], now: float) -> None:
        device = self.device
        attempt, round_ = own.task
        for entry in chosen:
            peer = entry.contact
            own.asked.add(peer.node_id)
            view = device.registry.delta(peer.node_id)
            message = SampleUpdate(
                device.app,
                round_,
                attempt,
                update,
                own.samples,
                view,
                own.sampled,
                own.served,
                own.kind,
                own.metrics,
                own.made is not None and peer.node_id != device.me.node_id,
            )
            if peer.node_id == device.me.node_id:
                device.aggregator.on_update(device.me, message, now)
                continue
            device.effects.send(peer, message)
            if own.made is not None:
                device.arrivals.push(peer, update, own.made)
        device.merge_pending()
        if not chosen:
            own.asked.clear()
        device.set_timer("ack", now + (device.ack_s if chosen else RETRY_S))

    def on_ack_late(self, now: float) -> None:
        """The aggregator has not said anything for too long."""
        self.device.count("takeovers")
        self.find_aggregator(now)

    def on_ack(self, sender: Contact, task: Task, *, ok: bool, now: float) -> None:
        own = self.own
        if own is None or own.task != task or own.done:
            return
        if sender.node_id not in own.asked and sender.node_id != self.device.me.node_id:
            return
        if ok:
            own.done, own.made = True, None
            self.device.cancel(*self.TIMERS)
        else:
            self.find_aggregator(now)
