"""One device of a sampled application: trainer, aggregator and watchdog. Theory of operation:

    trainer     SampleTrain(k) -> fetch model k-1 -> train -> find an aggregator for k+1 -> SampleUpdate -> SampleAck
                no ack in time, or a refusal: the next aggregator in the order, until one has made a model of it
    aggregator  SampleUpdate(k) -> fetch -> enough, or the time is over -> mean -> sample k+1 -> SampleTrain
                -> first SampleAck of the sample, which holds the model now -> SampleAck to the trainers
    watchdog    nothing new for `watch_s` at two looks in a row, and nobody asked holds a newer model: start again from
                the model held here, with a higher attempt

So nothing that vanishes silently stops the rounds: a lost aggregator costs its trainers one `ack_s`; only when every
trainer of a round is lost, too, does the watchdog have to act, after at most 4 * `watch_s` (two looks, each drawn out
by up to 2 so that devices do not all act at once).

A task is (attempt, round); a device takes only tasks newer than the newest that it has begun. Two aggregators of one
round may make different models of it; the first to arrive counts (the papers' "mostly consistent" samples).

A JOIN is merged only after the next model was sent, so that the newcomer is not in a sample that others have drawn
already. Source: arXiv 2302.13837 and 2503.05509, algorithms 1-3; the watchdog, takeover and weights are ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgefl.learning.effects import LearningEffects, TrainJob, TrainResult
from edgefl.learning.sampled.options import SampledOptions
from edgefl.learning.sampled.order import aggregators, order
from edgefl.learning.sampled.registry import Registry
from edgefl.learning.sampled.sampling import Pace, Sampling
from edgefl.wire import Contact, Message
from edgefl.wire.application import Manifest
from edgefl.wire.blob import BlobRef
from edgefl.wire.learning import RoundKind
from edgefl.wire.sampled import (
    DUTY_ROUNDS,
    Entry,
    SampleAck,
    SampleMembership,
    SamplePing,
    SamplePong,
    SampleTrain,
    SampleUpdate,
    View,
    ViewGet,
    ViewPart,
)

if TYPE_CHECKING:
    from edgefl.learning.effects import Tag, Token
    from edgefl.learning.sampled.average import Average

Task = tuple[int, int]
"""(attempt, round)."""

MAX_ATTEMPT_LEAP = 64
"""How far an attempt may be above the newest known: a liar must not use up all numbers."""

MAX_PENDING = 128
"""Newcomers that wait to be merged."""

RETRY_S = 5.0
"""When nobody at all answers, or a fetch has failed, it is tried again after this."""

TIMERS = ("ack", "aggregate", "watch", "find", "draw", "look")


@dataclass(slots=True)
class Session:
    """The models of one task, at their aggregator."""

    task: Task
    average: Average
    sampled: int
    served: tuple[int, ...]
    senders: dict[int, Contact] = field(default_factory=dict)
    closed: bool = False

    @property
    def next_task(self) -> Task:
        """The task that trains the model made here."""
        return self.task[0], self.task[1] + 1


@dataclass(slots=True)
class Own:
    """This device's part as a trainer of one task."""

    task: Task
    source: Contact | None
    base: BlobRef
    sampled: int
    served: tuple[int, ...] = ()
    data: Any = None
    update: BlobRef | None = None
    samples: int = 0
    asked: set[int] = field(default_factory=set)
    done: bool = False


class SampledDevice:
    """The state machine. Events come in as on_<event>; what it asks for are the effects of learning/effects.py."""

    def __init__(
        self, app: int, manifest: Manifest, options: SampledOptions, registry: Registry, effects: LearningEffects
    ) -> None:
        self.app = app
        self.manifest = manifest
        self.options = options
        self.registry = registry
        self.effects = effects
        self.pace = Pace()
        self.newest: Task = (0, 0)
        self.holds = 0
        self.model: BlobRef | None = None
        self.finished = False
        self.own: Own | None = None
        self.session: Session | None = None
        self.completed: Task = (0, 0)
        self.counters: dict[str, int] = {}
        self._pending: dict[int, Entry] = {}
        self._served: tuple[int, ...] = ()
        self._searches: dict[str, tuple[int, Sampling]] = {}
        self._request = 0
        self._looked: Task | None = None
        self._unconfirmed: Session | None = None
        self._draw: tuple[Task, BlobRef] | None = None
        self._view_asked: Task | None = None
        self._ahead = False

    @property
    def me(self) -> Contact:
        return self.registry.me.contact

    # Life

    def start(self, model: BlobRef, now: float) -> None:
        """Model 0 is held by everybody. Whoever is in the first sample begins, as if a task had come."""
        self.model = model
        self._watch(now)
        first = order(self._key, self.registry.candidates(1), 1)[: self.options.sample]
        if self.me.node_id in (entry.contact.node_id for entry in first):
            self._begin(Own((0, 1), None, model, len(first)), now)

    def announce(self, now: float, *, left: bool) -> None:
        """Tell some others that this device joins, or leaves."""
        entry = self.registry.declare(left=left)
        others = [one.contact for one in self.registry.entries() if one.contact.node_id != self.me.node_id]
        for contact in self.effects.random.sample(others, min(len(others), self.options.sample)):
            self._send(contact, SampleMembership(self.app, entry))
        if left and self.session is not None:
            for sender in self.session.senders.values():
                self._ack(sender, self.session.task, ok=False)

    def stop(self) -> None:
        for name in TIMERS:
            self.effects.cancel_timer(("learning", self.app, name))

    # Messages

    def on_message(self, sender: Contact, message: Message, now: float) -> None:
        if isinstance(message, SamplePing):
            self._on_ping(sender, message, now)
        elif isinstance(message, SamplePong):
            self._on_pong(sender, message, now)
        elif isinstance(message, SampleTrain):
            self._on_train(sender, message, now)
        elif isinstance(message, SampleUpdate):
            self._on_update(sender, message, now)
        elif isinstance(message, SampleAck):
            self._on_ack(sender, message, now)
        elif isinstance(message, SampleMembership):
            self._on_membership(sender, message.me)
        elif isinstance(message, ViewGet):
            view, more = self.registry.part(message.after)
            self._send(sender, ViewPart(self.app, view, more))
        elif isinstance(message, ViewPart):
            self.registry.merge(message.view.entries, limit=self._limit)
            if message.more and message.view.entries:
                self._send(sender, ViewGet(self.app, message.view.entries[-1].contact.node_id))

    def _on_ping(self, sender: Contact, ping: SamplePing, now: float) -> None:
        self._heard((ping.attempt, ping.round), now)
        self._meet(sender, ping.me)
        attempt, round_ = self.newest
        self._send(sender, SamplePong(self.app, ping.request, round_, attempt, self.registry.me, self.holds))
        if self.finished and self.model is not None:  # who still asks does not have it
            self._send_task(sender, (attempt, self.manifest.rounds + 1), self.model, 0)

    def _on_pong(self, sender: Contact, pong: SamplePong, now: float) -> None:
        self._heard((pong.attempt, pong.round), now)
        self._meet(sender, pong.me)
        for name, (request, sampling) in list(self._searches.items()):
            if request == pong.request and sampling.on_answer(sender.node_id, now):
                if name == "look" and self.holds < pong.holds <= self.manifest.rounds:
                    self._ahead = True
                self._step(name, now)

    def _on_train(self, sender: Contact, message: SampleTrain, now: float) -> None:
        task = (message.attempt, message.round)
        if not self._plausible(task) or message.model.size != 4 * self.manifest.parameters:
            return self._count("implausible")
        self._merge_view(sender, message.view, task)
        self._heard(task, now)
        if self.finished or (self.own is not None and task <= self.own.task) or task < self.completed:
            return None
        if message.finished != (message.round > self.manifest.rounds):
            return self._count("implausible")
        self._begin(Own(task, sender, message.model, message.sampled, message.served), now)
        return None

    def _on_update(self, sender: Contact, message: SampleUpdate, now: float) -> None:
        task = (message.attempt, message.round)
        if not self._plausible(task) or message.model.size != 4 * self.manifest.parameters:
            return self._count("implausible")
        self._merge_view(sender, message.view, task)
        self._heard(task, now)
        self.registry.touch(sender.node_id, message.round)
        if self.registry.me.left:
            return self._ack(sender, task, ok=False)
        if task <= self.completed or self.finished:
            self._count("late")
            if self._unconfirmed is not None and self._unconfirmed.task == task:
                self._unconfirmed.senders[sender.node_id] = sender
                return None
            return self._ack(sender, task, ok=True)
        session = self.session
        if session is None or task > session.task:
            from edgefl.learning.sampled.average import Average  # numpy comes with it

            average = Average(self.manifest.parameters, self.manifest.max_samples)
            session = self.session = Session(task, average, message.sampled, message.served)
            self._set_timer("aggregate", now + self.options.timeout_s)
        if task < session.task:
            return self._ack(sender, task, ok=True)
        if sender.node_id not in session.senders and len(session.senders) < 2 * self.options.sample:
            session.senders[sender.node_id] = sender
            token = ("collect", task, sender.node_id, message.samples)
            self.effects.fetch(self.app, token, message.model, (sender,))
        return None

    def _on_ack(self, sender: Contact, ack: SampleAck, now: float) -> None:
        if self._unconfirmed is not None and (ack.attempt, ack.round) == self._unconfirmed.next_task:
            self._confirmed()
            return
        own = self.own
        if own is None or own.task != (ack.attempt, ack.round) or sender.node_id not in own.asked or own.done:
            return
        if ack.ok:
            own.done = True
            self._cancel("ack", "find")
        else:
            self._find_aggregator(now)

    def _on_membership(self, sender: Contact, entry: Entry) -> None:
        """A LEAVE counts at once, a JOIN after the next model was sent. Only a device's own word."""
        if entry.contact.node_id != sender.node_id:
            self._count("implausible")
        elif entry.left:
            self.registry.merge([entry], limit=self._limit)
        elif len(self._pending) < MAX_PENDING:
            self._pending[sender.node_id] = entry

    # Trainer

    def _begin(self, own: Own, now: float) -> None:
        old, self.own = self.own, own
        for blob in (old.update, old.base) if old is not None else ():
            if blob is not None and blob not in (self.model, own.base):
                self.effects.discard(self.app, blob)
        self._cancel("ack", "find")
        self._heard(own.task, now)
        self.registry.touch(self.me.node_id, own.task[1])
        sources = (own.source,) if own.source is not None else ()
        self.effects.fetch(self.app, ("task", own.task), own.base, sources)

    def on_fetched(self, token: Token, blob: BlobRef, data: Any, now: float) -> None:
        if token[0] == "collect":
            self._collected(token, blob, data, now)
            return
        own = self.own
        if own is None or token != ("task", own.task):
            return
        if data is None:
            # Whoever made it is gone, without having acknowledged: its trainers find another, and the task comes again.
            self._count("model lost")
            self.own = None
            return
        own.data = data
        if own.source is not None:
            self._ack(own.source, own.task, ok=True)
        self._hold(own.task[1] - 1, own.base)
        if own.task[1] > self.manifest.rounds:
            self.finished = True
            self._cancel(*TIMERS)
            return
        attempt, round_ = own.task
        self.effects.train(
            self.app, TrainJob((0, round_, attempt), RoundKind.TRAIN, own.base, self.manifest.seed + round_)
        )

    def on_trained(self, tag: Tag, result: TrainResult | None, now: float) -> None:
        own = self.own
        if own is None or (tag[2], tag[1]) != own.task or own.data is None:
            return
        if result is None or result.delta is None or result.diverged or result.samples < 1:
            self._count("diverged")
            return
        from edgefl.learning.sampled.average import trained

        own.samples = result.samples
        self.effects.keep(self.app, ("update", own.task), trained(own.data, result.delta))
        own.data = None

    def on_kept(self, token: Token, blob: BlobRef, now: float) -> None:
        if token[0] == "model":
            self._made(blob, now)
        elif self.own is not None and token == ("update", self.own.task):
            self.own.update = blob
            self._find_aggregator(now)
        else:
            self.effects.discard(self.app, blob)

    def _find_aggregator(self, now: float) -> None:
        own = self.own
        if own is None or own.update is None or own.done:
            return
        target = own.task[1] + 1
        ordered = order(self._key, self.registry.candidates(target), target)
        line = aggregators(ordered, self.options.sample, own.served, by_uplink=self.options.by_uplink)
        fresh = [entry for entry in line if entry.contact.node_id not in own.asked]
        if not fresh:
            own.asked.clear()
            fresh = line
        self._search("find", fresh, self.options.aggregators, now)

    def _found(self, chosen: list[Entry], now: float) -> None:
        own = self.own
        if own is None or own.update is None or own.done:
            return
        attempt, round_ = own.task
        for entry in chosen:
            peer = entry.contact
            own.asked.add(peer.node_id)
            view = self.registry.delta(peer.node_id)
            message = SampleUpdate(self.app, round_, attempt, own.update, own.samples, view, own.sampled, own.served)
            if peer.node_id == self.me.node_id:
                self._on_update(self.me, message, now)
            else:
                self._send(peer, message)
        self._merge_pending()
        if not chosen:
            own.asked.clear()
        self._set_timer("ack", now + (self.options.ack_s if chosen else RETRY_S))

    # Aggregator

    def _collected(self, token: Token, blob: BlobRef, data: Any, now: float) -> None:
        _, task, sender, samples = token
        session = self.session
        own_update = self.own.update if self.own is not None else None
        if session is None or session.task != task or session.closed or not isinstance(samples, int):
            pass
        elif data is None or not session.average.add(data, samples):
            self._count("models lost")
            session.senders.pop(int(str(sender)), None)
        elif session.average.count >= self.options.threshold(session.sampled):
            self._finish(session)
        if data is not None and blob not in (own_update, self.model):
            self.effects.discard(self.app, blob)

    def _finish(self, session: Session) -> None:
        session.closed = True
        self._cancel("aggregate")
        self.effects.keep(self.app, ("model", session.task), session.average.mean())

    def _made(self, blob: BlobRef, now: float) -> None:
        session = self.session
        if session is None or not session.closed:
            return
        self.session = None
        attempt, round_ = self.completed = session.task
        self._count("models")
        self._hold(round_, blob)
        self._unconfirmed = session
        self._served = (*session.served, self.me.node_id)[-DUTY_ROUNDS:]
        self._hand_out((attempt, round_ + 1), blob, now)

    def _confirmed(self) -> None:
        """Somebody else holds the model: from now on it survives this device, so the trainers are let go."""
        session, self._unconfirmed = self._unconfirmed, None
        if session is not None:
            for sender in session.senders.values():
                self._ack(sender, session.task, ok=True)

    def _hand_out(self, task: Task, blob: BlobRef, now: float) -> None:
        """Draw the sample of a task and give it the model."""
        self._heard(task, now)
        self._draw = (task, blob)
        ordered = order(self._key, self.registry.candidates(task[1]), task[1])
        self._search("draw", ordered, self.options.sample, now)

    def _drawn(self, chosen: list[Entry], now: float) -> None:
        if self._draw is None:
            return
        (task, blob), self._draw = self._draw, None
        peers = [entry.contact for entry in chosen]
        self.effects.random.shuffle(peers)
        for peer in peers:
            if peer.node_id != self.me.node_id:
                self._send_task(peer, task, blob, len(peers))
        self._merge_pending()
        if all(peer.node_id == self.me.node_id for peer in peers):
            self._confirmed()
        if task[1] > self.manifest.rounds:
            self.finished = True
            self._cancel(*TIMERS)
        elif any(peer.node_id == self.me.node_id for peer in peers) and (self.own is None or self.own.task < task):
            self._begin(Own(task, None, blob, len(peers), self._served), now)

    def _send_task(self, peer: Contact, task: Task, blob: BlobRef, sampled: int) -> None:
        attempt, round_ = task
        view = self.registry.delta(peer.node_id)
        finished = round_ > self.manifest.rounds
        self._send(peer, SampleTrain(self.app, round_, attempt, blob, view, finished, sampled, self._served))

    # Watchdog

    def _watch(self, now: float) -> None:
        self._set_timer("watch", now + self.options.watch_s * (1 + self.effects.random.random()))

    def _on_watch(self, now: float) -> None:
        self._watch(now)
        if self._looked != self.newest:
            self._looked = self.newest
            return
        self._ahead = False
        others = [one for one in self.registry.candidates(self.newest[1]) if one.contact.node_id != self.me.node_id]
        self.effects.random.shuffle(others)
        self._search("look", others, self.options.sample, now)

    def _seen(self, now: float) -> None:
        """The answers are in: start again, unless somebody knows of progress, or is further and will do it."""
        if self._looked != self.newest or self._ahead or self.model is None:
            return
        self._count("restarts")
        self._hand_out((self.newest[0] + 1, self.holds + 1), self.model, now)

    # Timers and searches

    def on_timer(self, name: str, now: float) -> None:
        if self.finished or self.registry.me.left:
            return
        if name == "watch":
            self._on_watch(now)
        elif name == "ack":
            self._count("takeovers")
            self._find_aggregator(now)
        elif name == "aggregate":
            session = self.session
            if session is not None and session.average.count:
                self._finish(session)
            else:
                self.session = None
        elif name in self._searches:
            self._step(name, now)

    def _search(self, name: str, ordered: list[Entry], want: int, now: float) -> None:
        self._request = (self._request + 1) % 2**32
        self._searches[name] = (self._request, Sampling(ordered, want, self.pace, self.me.node_id))
        self._step(name, now)

    def _step(self, name: str, now: float) -> None:
        request, sampling = self._searches[name]
        attempt, round_ = self.newest
        for entry in sampling.step(now):
            self._send(entry.contact, SamplePing(self.app, request, round_, self.registry.me, attempt))
        if sampling.result is None:
            self._set_timer(name, sampling.deadline)
            return
        del self._searches[name]
        self._cancel(name)
        if name == "find":
            self._found(sampling.result, now)
        elif name == "draw":
            self._drawn(sampling.result, now)
        else:
            self._seen(now)

    # Small parts

    @property
    def _key(self) -> bytes:
        return self.manifest.salt

    @property
    def _limit(self) -> int:
        return self.manifest.rounds + 1

    def _plausible(self, task: Task) -> bool:
        return 1 <= task[1] <= self._limit and task[0] <= self.newest[0] + MAX_ATTEMPT_LEAP

    def _heard(self, task: Task, now: float) -> None:
        if task > self.newest and self._plausible(task):
            self.newest = task

    def _hold(self, round_: int, blob: BlobRef) -> None:
        old = self.model
        self.holds, self.model = round_, blob
        kept = (blob, self.own.base, self.own.update) if self.own is not None else (blob,)
        if old is not None and old not in kept:
            self.effects.discard(self.app, old)

    def _meet(self, sender: Contact, entry: Entry) -> None:
        """What a device says of itself; that it said anything makes it active."""
        if entry.contact.node_id == sender.node_id:
            known = self.registry.get(sender.node_id)
            if known is None or known.counter < entry.counter or known.active < entry.active:
                self.registry.merge([entry], limit=self._limit)
            self.registry.touch(sender.node_id, min(self.newest[1], self._limit))

    def _merge_view(self, sender: Contact, view: View, task: Task) -> None:
        self.registry.merge(view.entries, limit=self._limit)
        self.registry.touch(sender.node_id, task[1])
        if view.digest != self.registry.digest and self._view_asked != task:
            self._view_asked = task
            self._send(sender, ViewGet(self.app, 0))

    def _merge_pending(self) -> None:
        newcomers: Iterable[Entry] = self._pending.values()
        self.registry.merge([*newcomers], limit=self._limit)
        for node_id in self._pending:
            self.registry.touch(node_id, self.newest[1])
        self._pending.clear()

    def _ack(self, to: Contact, task: Task, *, ok: bool) -> None:
        ack = SampleAck(self.app, task[1], task[0], ok)
        if to.node_id == self.me.node_id:
            if self.own is not None and self.own.task == task:
                self.own.done = ok
                self._cancel("ack", "find")
        else:
            self._send(to, ack)

    def _send(self, to: Contact, message: Message) -> None:
        self.effects.send(to, message)

    def _set_timer(self, name: str, at: float) -> None:
        self.effects.set_timer(("learning", self.app, name), at)

    def _cancel(self, *names: str) -> None:
        for name in names:
            self._searches.pop(name, None)
            self.effects.cancel_timer(("learning", self.app, name))

    def _count(self, name: str) -> None:
        self.counters[name] = self.counters.get(name, 0) + 1
