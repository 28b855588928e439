"""A device's part as an aggregator: collect the models of one task, make the next one, hand it to the next sample.

The next sample is drawn when the trainers look for somebody to send their models to, or else while models are coming
in, so that its round trips cost no time.
"""

from __future__ import annotations

from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING, Any

from edgefl.declared import dataclass
from edgefl.learning.metrics import merge
from edgefl.learning.sampled.arrivals import FLOAT_BYTES
from edgefl.learning.sampled.options import AGAIN_S
from edgefl.learning.sampled.order import handed_out, order
from edgefl.learning.sampled.record import evaluated, trained_record
from edgefl.learning.sampled.trainer import FRESH_S, Own
from edgefl.wire import Contact
from edgefl.wire.application import AppState
from edgefl.wire.blob import BlobRef
from edgefl.wire.learning import Metric, RoundKind
from edgefl.wire.sampled import DUTY_ROUNDS, Entry, SampleTrain, SampleUpdate

if TYPE_CHECKING:
    from edgefl.learning.effects import Token
    from edgefl.learning.sampled.average import Average
    from edgefl.learning.sampled.device import SampledDevice, Task

ROUND_RECORDS = 2
"""Records with each task: the round just done, and the one before, completed by its evaluation."""


@dataclass(slots=True)
class Session:
    """The models of one task, at their aggregator. `offers`: samples and metrics that came with each."""

    task: Task
    kind: RoundKind
    average: Average
    sampled: int
    served: tuple[int, ...]
    senders: dict[int, Contact] = field(default_factory=dict)
    offers: dict[int, tuple[int, tuple[Metric, ...]]] = field(default_factory=dict)
    metrics: tuple[Metric, ...] = ()
    evaluated: int = 0
    model: BlobRef | None = None
    """What was evaluated."""
    mean: Any = None
    """The new model, until it has a name."""
    closed: bool = False

    @property
    def count(self) -> int:
        return self.evaluated if self.kind is RoundKind.EVALUATE else self.average.count

    @property
    def next_task(self) -> Task:
        """The task that goes on from here."""
        return self.task[0], self.task[1] + 1


@dataclass(frozen=True, slots=True)
class Draw:
    """A model that waits for its sample; `last` when there is nothing left to do with it. `data`: what it is made of,
    where it shall be pushed."""

    task: Task
    model: BlobRef
    model_round: int
    last: bool
    data: Any = None


@dataclass(frozen=True, slots=True)
class Sample:
    """Who answered for a task, and when the last of them did."""

    task: Task
    chosen: list[Entry]
    at: float


class Aggregator:
    """One session at a time: that of the newest task."""

    TIMERS = ("aggregate", "draw", "short")

    def __init__(self, device: SampledDevice) -> None:
        self.device = device
        self.session: Session | None = None
        self.completed: Task = (0, 0)
        self._unconfirmed: Session | None = None
        self._served: tuple[int, ...] = ()
        self._draw: Draw | None = None
        self._sample: Sample | None = None
        self._sampling: Task | None = None
        self._training_s: dict[int, float] = {}
        """What those who answered the last search take to train."""

    @property
    def waiting(self) -> bool:
        """Whether a model made here waits for its sample, or for the owner to go on."""
        return self._draw is not None

    def on_update(self, sender: Contact, message: SampleUpdate, now: float) -> None:
        device, task = self.device, (message.attempt, message.round)
        if device.registry.me.left:
            return device.acknowledge(sender, task, ok=False, now=now)
        if task <= self.completed or device.finished:
            device.count("late")
            if self._unconfirmed is not None and self._unconfirmed.task == task:
                self._unconfirmed.senders[sender.node_id] = sender
                return None
            return device.acknowledge(sender, task, ok=True, now=now)
        session = self.session
        if session is None or task > session.task:
            session = self.session = self._open(message, now)
        if task < session.task or message.kind is not session.kind:
            return device.acknowledge(sender, task, ok=True, now=now)
        if sender.node_id not in session.senders and len(session.senders) < 2 * device.options.sample:
            session.senders[sender.node_id] = sender
            session.offers[sender.node_id] = (message.samples, message.metrics)
            token = ("collect", task, sender.node_id)
            device.arrivals.get(token, message.model, sender, now, pushed=message.pushed)
        return None

    def _open(self, message: SampleUpdate, now: float) -> Session:
        from edgefl.learning.sampled.average import Average  # numpy comes with it

        device = self.device
        device.set_timer("aggregate", now + device.patience_s)
        average = Average(device.manifest.parameters, device.manifest.max_samples)
        task = (message.attempt, message.round)
        session = Session(task, message.kind, average, message.sampled, message.served)
        self._look_ahead(session.next_task, now)
        return session

    def foresee(self, task: Task, now: float) -> None:
        """A trainer of this task has asked whether this device is there: it may be the one to aggregate."""
        if task > self.completed and self.session is None and not self.device.registry.me.left:
            self._look_ahead((task[0], task[1] + 1), now)

    def _look_ahead(self, task: Task, now: float) -> None:
        """Draw the sample of a task whose model is not there yet: once, and one after the other."""
        sample = self._sample
        known = sample is not None and sample.task == task and now <= sample.at + FRESH_S
        if self._draw is None and not known and "draw" not in self.device.searches:
            self._look(task, now)

    def on_collected(self, token: Token, blob: BlobRef, data: Any, now: float) -> None:
        _, task, sender = token
        device, session = self.device, self.session
        current = session is not None and session.task == task and not session.closed
        taken = False
        if session is not None and current and isinstance(sender, int) and sender in session.offers:
            samples, metrics = session.offers.pop(sender)
            taken = self._take(session, blob, data, samples)
            if taken:
                session.metrics = merge(session.metrics, metrics)
            else:
                device.count("models_lost")
                session.senders.pop(sender, None)
        if data is not None and not device.needs(blob) and (session is None or blob != session.model):
            device.effects.discard(device.app, blob)  # before the mean is kept: that of one model is the same blob
        if session is not None and taken and session.count >= device.options.threshold(session.sampled):
            self._close(session, now)

    def _take(self, session: Session, blob: BlobRef, data: Any, samples: int) -> bool:
        if session.kind is RoundKind.TRAIN:
            return data is not None and session.average.add(data, samples)
        if data is None or session.model not in (None, blob):
            return False
        session.model = blob
        session.evaluated += 1
        return True

    def on_time_over(self, now: float) -> None:
        """Go on with what is here."""
        session = self.session
        if session is not None and session.count:
            self._close(session, now)
        else:
            self.session = None

    def _close(self, session: Session, now: float) -> None:
        device = self.device
        session.closed = True
        device.effects.cancel_timer(("learning", device.app, "aggregate"))
        if session.model is not None:
            self.on_made(session.model, now)
        else:
            session.mean = session.average.mean()
            device.effects.keep(device.app, ("model", session.task), session.mean)

    def on_made(self, blob: BlobRef, now: float) -> None:
        """The model of the closed session has a name."""
        device, session = self.device, self.session
        if session is None or not session.closed:
            return
        self.session = None
        attempt, round_ = self.completed = session.task
        device.count("models")
        last = session.kind is RoundKind.EVALUATE
        evaluated(device.history, attempt, round_ - 1, session.metrics)
        if not last:
            seconds = now - device.began if device.began is not None else 0.0
            model_bytes = 4 * device.manifest.parameters
            moved = model_bytes * (session.average.count + session.sampled)
            trained_record(device.history, attempt, round_, session.average, seconds, session.metrics, moved)
        device.hold(round_ - 1 if last else round_, blob)
        self._unconfirmed = session
        self._served = (*session.served, device.me.node_id)[-DUTY_ROUNDS:]
        device.around.on_made()
        self.hand_out((attempt, round_ + 1), blob, device.holds, now, last=last, data=session.mean)

    def on_confirmed(self, now: float) -> None:
        """Somebody else holds the model: from now on it survives this device, so the trainers are let go."""
        session, self._unconfirmed = self._unconfirmed, None
        if session is not None:
            for sender in session.senders.values():
                self.device.acknowledge(sender, session.task, ok=True, now=now)

    def awaits(self, task: Task) -> bool:
        """Whether a word about this task is what the made model waits for."""
        return self._unconfirmed is not None and self._unconfirmed.next_task == task

    def hand_out(
        self, task: Task, model: BlobRef, model_round: int, now: float, *, last: bool = False, data: Any = None
    ) -> None:
        """Draw the sample of a task and give it the model; when the owner has paused, not before it goes on."""
        device = self.device
        device.heard(task, now)
        pushed = device.arrivals.are_small and device.options.aggregators == 1  # of several, one is heard in vain
        self._draw = Draw(task, model, model_round, last, data if pushed else None)
        self.on_state(now)

    def on_state(self, now: float) -> None:
        device, draw, sample = self.device, self._draw, self._sample
        if draw is None or device.around.state is AppState.PAUSED:
            return
        if sample is not None and sample.task == draw.task and now <= sample.at + FRESH_S:
            self._sample = None
            self._drawn(sample.chosen, now)
        elif "draw" not in device.searches or self._sampling != draw.task:
            self._look(draw.task, now)

    def on_short(self, now: float) -> None:
        """The sample was too small for a quorum: draw it again, unless the others have gone on by themselves."""
        if self._draw is not None and self._draw.task < self.device.newest:
            self._draw = None
            self.on_confirmed(now)
        else:
            self.on_state(now)

    def _look(self, task: Task, now: float) -> None:
        device = self.device
        self._sampling = task
        self._training_s.clear()
        ordered = order(device.key, device.registry.candidates(task[1]), task[1])
        device.searches.start("draw", ordered, device.options.sample, partial(self._answered, task), now)

    def on_answer(self, node_id: int, training_ms: int) -> None:
        """Somebody who may be in the next sample says what its last training took."""
        if training_ms:
            self._training_s[node_id] = training_ms / 1000

    def _answered(self, task: Task, chosen: list[Entry], now: float) -> None:
        self._sample = Sample(task, chosen, now)
        self.on_state(now)

    def _drawn(self, chosen: list[Entry], now: float) -> None:
        device, draw = self.device, self._draw
        if draw is None:
            return
        if not draw.last and not device.enough(len(chosen)):
            device.set_timer("short", now + AGAIN_S)
            return
        self._draw = None
        kind = RoundKind.DONE if draw.last else device.next_kind(draw.model_round)
        peers = self._in_turn(chosen)
        others = [peer for peer in peers if peer.node_id != device.me.node_id]
        for peer in others:
            self.give(peer, draw.task, kind, draw.model, draw.model_round, len(peers), draw.data)
        device.merge_pending()
        if not others:
            self.on_confirmed(now)
        if kind is RoundKind.DONE:
            device.finish()
        elif len(others) < len(peers) and (device.own is None or device.own.task < draw.task):
            own = Own(draw.task, kind, None, draw.model, draw.model_round, len(peers), self._served)
            device.trainer.begin(own, now)

    def _in_turn(self, chosen: list[Entry]) -> list[Contact]:
        """The sample as it is served: see order.handed_out. Where nothing is known of anybody, at random."""
        device, model_bytes = self.device, FLOAT_BYTES * self.device.manifest.parameters
        self.on_answer(device.me.node_id, device.trainer.training_ms)
        seconds = {}
        for entry in chosen:
            training_s = self._training_s.get(entry.contact.node_id)
            if training_s is not None:
                seconds[entry.contact.node_id] = training_s + (model_bytes / 2.0**entry.uplink if entry.uplink else 0.0)
        contacts = {entry.contact.node_id: entry.contact for entry in chosen}
        shuffled = [*contacts]
        device.effects.random.shuffle(shuffled)
        return [contacts[node_id] for node_id in handed_out(shuffled, seconds, device.options.threshold(len(chosen)))]

    def give(
        self,
        peer: Contact,
        task: Task,
        kind: RoundKind,
        model: BlobRef,
        model_round: int,
        sampled: int,
        data: Any = None,
    ) -> None:
        """Hand a model to one device; with `data`, without being asked for it."""
        device, (attempt, round_) = self.device, task
        view = device.registry.delta(peer.node_id)
        records = device.history.tail(ROUND_RECORDS)
        message = SampleTrain(
            device.app,
            round_,
            attempt,
            model,
            view,
            kind,
            sampled,
            self._served,
            model_round,
            records,
            data is not None,
        )
        device.effects.send(peer, message)
        if data is not None:
            device.arrivals.push(peer, model, data)

    def leave(self, now: float) -> None:
        """This device goes: the trainers of an open session shall find another one."""
        if self.session is not None:
            for sender in self.session.senders.values():
                self.device.acknowledge(sender, self.session.task, ok=False, now=now)
