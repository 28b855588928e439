"""One device of a sampled application. Theory of operation:

    trainer     SampleTrain(k) -> get model k-1 -> train -> find an aggregator for k+1 -> SampleUpdate -> SampleAck
                no ack in time, or a refusal: the next aggregator in the order, until one has made a model of it
    aggregator  SampleUpdate(k) -> get -> enough, or the time is over -> mean -> sample k+1 -> SampleTrain
                -> first SampleAck of the sample, which holds the model now -> SampleAck to the trainers
    watchdog    no newer task for `watch_s`, and nobody asked holds a newer model: start again from the newest model
                that can be had, with a higher attempt
    quorum      who finds too few others to go on (`quorum`) waits and looks again: a part that is cut off, or that is
                back before the rest, must not train on by itself and push its model on everybody in the end
    the end     after the last round, or when the target is reached or the owner stops: the next sample only evaluates
                the model; then it is handed out as the final one

Small models are pushed with the word about them, others are fetched (arrivals.py).

So nothing that vanishes silently stops the rounds: a lost aggregator costs its trainers one `ack_s`; only when every
trainer of a round is lost, too, does the watchdog have to act, after 1 to 2 `watch_s` (so that devices do not all act
at once). All waits follow what the last rounds took (`patience_s`).

A task is (attempt, round); a device takes only tasks newer than the newest that it has begun. Two aggregators of one
round may make different models of it; the first to arrive counts (the papers' "mostly consistent" samples).

A JOIN is merged only after the next model was sent, so that the newcomer is not in a sample that others have drawn
already. Source: arXiv 2302.13837 and 2503.05509, algorithms 1-3; the watchdog, takeover, weights and end are ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from edgefl.learning.effects import LearningEffects, TrainResult
from edgefl.learning.history import History
from edgefl.learning.sampled.aggregator import Aggregator, Session
from edgefl.learning.sampled.arrivals import Arrivals
from edgefl.learning.sampled.options import REMEMBERED_ROUNDS, SampledOptions, ack_s, watch_s
from edgefl.learning.sampled.record import reached
from edgefl.learning.sampled.registry import Registry
from edgefl.learning.sampled.searches import Searches
from edgefl.learning.sampled.trainer import Own, Trainer
from edgefl.learning.sampled.watchdog import Watchdog
from edgefl.wire import Contact, Message
from edgefl.wire.application import AppState, Manifest
from edgefl.wire.blob import BlobRef
from edgefl.wire.learning import RoundKind
from edgefl.wire.sampled import (
    Entry,
    SampleAck,
    SampledModel,
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

Task = tuple[int, int]
"""(attempt, round)."""

MAX_ATTEMPT_LEAP = 1 << 20
"""How far an attempt may be above the newest known: a liar must not use up all 2^32 of them."""

MAX_PENDING = 128
"""Newcomers that wait to be merged."""


class Around(Protocol):
    """What is around the machine: the owner's wish, and who wants to hear of progress."""

    @property
    def state(self) -> AppState: ...

    def on_held(self) -> None:
        """Another model is held here: `holds`, `model`, `finished`."""

    def on_made(self) -> None:
        """This device has made the newest model, or has found that it is the final one."""


class SampledDevice:
    """The state machine. Events come in as on_<event>; what it asks for are the effects of learning/effects.py."""

    TIMERS = (*Trainer.TIMERS, *Aggregator.TIMERS, *Watchdog.TIMERS, *Arrivals.TIMERS)

    def __init__(
        self,
        app: int,
        manifest: Manifest,
        options: SampledOptions,
        registry: Registry,
        effects: LearningEffects,
        around: Around,
        history: History | None = None,
    ) -> None:
        self.app = app
        self.manifest = manifest
        self.options = options
        self.registry = registry
        self.effects = effects
        self.around = around
        self.history = history if history is not None else History()
        self.newest: Task = (0, 0)
        self.began: float | None = None
        """When the newest task was first heard of here."""
        self.holds = 0
        self.model: BlobRef | None = None
        self.finished = False
        self.too_few: int | None = None
        """How many devices, this one among them, were there for the next round, if they were no quorum."""
        self.counters: dict[str, int] = {}
        self.searches = Searches(self.me.node_id, self._ping, self._alarm)
        self.arrivals = Arrivals(self)
        self.trainer = Trainer(self)
        self.aggregator = Aggregator(self)
        self.watchdog = Watchdog(self)
        self._pending: dict[int, Entry] = {}
        self._view_asked: Task | None = None

    @property
    def me(self) -> Contact:
        return self.registry.me.contact

    @property
    def key(self) -> bytes:
        """Of the order of devices."""
        return self.manifest.salt

    @property
    def own(self) -> Own | None:
        """The task that this device works on as a trainer."""
        return self.trainer.own

    @property
    def session(self) -> Session | None:
        """The task that this device collects the models of."""
        return self.aggregator.session

    @property
    def patience_s(self) -> float:
        """How long an aggregator waits for models."""
        rounds = self.history.tail(REMEMBERED_ROUNDS)
        return self.options.patience_s([record.seconds for record in rounds if record.participants])

    @property
    def ack_s(self) -> float:
        return ack_s(self.patience_s, self.searches.pace.timeout_s)

    @property
    def watch_s(self) -> float:
        return watch_s(self.patience_s, self.searches.pace.timeout_s)

    @property
    def quorum(self) -> int:
        """Devices without which no round begins."""
        participants = [record.participants for record in self.history.tail(REMEMBERED_ROUNDS) if record.participants]
        members = len(self.registry.candidates(self.newest[1]))
        return self.options.quorum(self.manifest.quorum, participants, members)

    def enough(self, devices: int) -> bool:
        """Whether so many devices may go on; remembers it where not."""
        self.too_few = devices if devices < self.quorum else None
        return self.too_few is None

    # Life

    def start(self, model: BlobRef, now: float, *, holds: int = 0, attempt: int = 0) -> None:
        """Begin with this model: everybody has model 0; after a restart it is the one that was saved."""
        self.model, self.holds = model, holds
        if holds or attempt:
            self.heard((attempt, holds), now)
        self.watchdog.start(now)

    def launch(self, now: float) -> None:
        """The first task of all: once the members have found each other, one of them begins."""
        if self.model is not None and self.newest == (0, 0):
            self.aggregator.hand_out((0, 1), self.model, 0, now)

    def leave(self, now: float) -> None:
        """Tell some others that this device will take part no more."""
        entry = self.registry.declare(left=True)
        others = [one.contact for one in self.registry.entries() if one.contact.node_id != self.me.node_id]
        for contact in self.effects.random.sample(others, min(len(others), self.options.sample)):
            self.effects.send(contact, SampleMembership(self.app, entry))
        self.aggregator.leave(now)
        self.cancel(*self.TIMERS)

    def finish(self) -> None:
        """The model held here is the final one."""
        self.finished = True
        self.cancel(*self.TIMERS)
        self.around.on_held()
        self.around.on_made()

    def on_state(self, now: float) -> None:
        """The owner pauses, resumes or stops the application."""
        self.aggregator.on_state(now)

    def on_news(self, task: Task, model: BlobRef, holder: Contact, now: float) -> None:
        """Somebody holds the model that this task goes on from."""
        if self.plausible(task):
            self.heard(task, now)
            self.watchdog.on_news(task[1] - 1, model, holder)

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
            self.acknowledged(sender, (message.attempt, message.round), ok=message.ok, now=now)
        elif isinstance(message, SampleMembership):
            self._on_membership(sender, message.me)
        elif isinstance(message, ViewGet):
            view, more = self.registry.part(message.after)
            self.effects.send(sender, ViewPart(self.app, view, more))
        elif isinstance(message, ViewPart):
            self.registry.merge(message.view.entries, limit=self._limit)
            if message.more and message.view.entries:
                self.effects.send(sender, ViewGet(self.app, message.view.entries[-1].contact.node_id))

    def _on_ping(self, sender: Contact, ping: SamplePing, now: float) -> None:
        self.heard((ping.attempt, ping.round), now)
        self._meet(sender, ping.me)
        attempt, round_ = self.newest
        pong = SamplePong(
            self.app, ping.request, round_, attempt, self.registry.me, self.holds, self.trainer.training_ms
        )
        self.effects.send(sender, pong)
        if self.finished and self.model is not None:  # who still asks does not have it
            task = (attempt, max(round_, self.holds + 2))
            self.aggregator.give(sender, task, RoundKind.DONE, self.model, self.holds, 0)
        elif ping.aggregate and (ping.attempt, ping.round) == self.newest:
            self.aggregator.foresee(self.newest, now)

    def _on_pong(self, sender: Contact, pong: SamplePong, now: float) -> None:
        self.heard((pong.attempt, pong.round), now)
        self._meet(sender, pong.me)
        name = self.searches.on_answer(sender.node_id, pong.request, now)
        if name == "look":
            self.watchdog.on_answer(pong.holds)
        elif name == "draw":
            self.aggregator.on_answer(sender.node_id, pong.training_ms)
        if name is not None:
            self.searches.step(name, now)

    def _on_train(self, sender: Contact, message: SampleTrain, now: float) -> None:
        task = (message.attempt, message.round)
        fits = message.model.size == 4 * self.manifest.parameters and message.model_round < message.round
        if not self.plausible(task) or not fits:
            return self.count("implausible")
        self.history.merge(message.records)
        self._merge_view(sender, message.view, task)
        self.heard(task, now)
        if self.finished or (self.own is not None and task <= self.own.task) or task < self.aggregator.completed:
            return None
        own = Own(
            task,
            message.kind,
            sender,
            message.model,
            message.model_round,
            message.sampled,
            message.served,
            message.pushed,
        )
        self.trainer.begin(own, now)
        return None

    def _on_update(self, sender: Contact, message: SampleUpdate, now: float) -> None:
        task = (message.attempt, message.round)
        if not self.plausible(task) or message.model.size != 4 * self.manifest.parameters:
            return self.count("implausible")
        if message.kind is RoundKind.DONE:
            return self.count("implausible")
        self._merge_view(sender, message.view, task)
        self.heard(task, now)
        self.registry.touch(sender.node_id, message.round)
        self.aggregator.on_update(sender, message, now)
        return None

    def acknowledge(self, to: Contact, task: Task, *, ok: bool, now: float) -> None:
        """Tell a peer (it may be this device itself) that its task is done with."""
        if to.node_id == self.me.node_id:
            self.trainer.on_ack(to, task, ok=ok, now=now)
        else:
            self.effects.send(to, SampleAck(self.app, task[1], task[0], ok))

    def acknowledged(self, sender: Contact, task: Task, *, ok: bool, now: float) -> None:
        if self.aggregator.awaits(task):
            self.aggregator.on_confirmed(now)
        else:
            self.trainer.on_ack(sender, task, ok=ok, now=now)

    def _on_membership(self, sender: Contact, entry: Entry) -> None:
        """A LEAVE counts at once, a JOIN after the next model was sent. Only a device's own word."""
        if entry.contact.node_id != sender.node_id:
            self.count("implausible")
        elif entry.left:
            self.registry.merge([entry], limit=self._limit)
        elif len(self._pending) < MAX_PENDING:
            self._pending[sender.node_id] = entry

    # Answers of the world

    def on_bulk(self, sender: Contact, message: Message, data: Any, now: float) -> None:
        """A message with a second frame, which is only read, and only now."""
        if isinstance(message, SampledModel):
            self.arrivals.on_model(sender, message, data, now)

    def on_fetched(self, token: Token, blob: BlobRef, data: Any, now: float) -> None:
        if token[0] == "collect":
            self.aggregator.on_collected(token, blob, data, now)
        elif token[0] == "catch up":
            self.watchdog.on_fetched(int(str(token[1])), blob, data, now)
        elif not self.trainer.on_fetched(token, data, now) and data is not None and not self.needs(blob):
            self.effects.discard(self.app, blob)

    def on_trained(self, tag: Tag, result: TrainResult | None, now: float) -> None:
        self.trainer.on_trained(tag, result, now)

    def on_kept(self, token: Token, blob: BlobRef, now: float) -> None:
        if token[0] == "model":
            self.aggregator.on_made(blob, now)
        elif token[0] == "task":
            self.arrivals.on_kept(token, blob, now)
        elif not self.trainer.on_kept(token, blob, now):
            self.effects.discard(self.app, blob)

    def on_timer(self, name: str, now: float) -> None:
        if self.finished or self.registry.me.left:
            return
        if name == "watch":
            self.watchdog.on_watch(now)
        elif name == "ack":
            self.trainer.on_ack_late(now)
        elif name == "aggregate":
            self.aggregator.on_time_over(now)
        elif name == "short":
            self.aggregator.on_short(now)
        elif name == "pushed":
            self.arrivals.on_timer(now)
        elif name in self.searches:
            self.searches.step(name, now)

    # What the parts share

    def next_kind(self, model_round: int) -> RoundKind:
        """What is left to do with this model."""
        stopped = self.around.state is AppState.STOPPED
        enough = reached(self.history.tail(REMEMBERED_ROUNDS), self.manifest.target)
        return RoundKind.EVALUATE if stopped or enough or model_round >= self.manifest.rounds else RoundKind.TRAIN

    def plausible(self, task: Task) -> bool:
        return 1 <= task[1] <= self._limit and task[0] <= self.newest[0] + MAX_ATTEMPT_LEAP

    def heard(self, task: Task, now: float) -> None:
        """There is such a task."""
        if task > self.newest and self.plausible(task):
            self.newest, self.began, self.too_few = task, now, None
            self.watchdog.on_progress(now)

    def hold(self, round_: int, blob: BlobRef) -> None:
        """This device now holds the model of this round, and lets go of the one before."""
        old = self.model
        self.holds, self.model = round_, blob
        if old is not None and not self.needs(old):
            self.effects.discard(self.app, old)
        self.around.on_held()

    def needs(self, blob: BlobRef) -> bool:
        """Whether the blob is held for something."""
        own = self.own
        return blob == self.model or (own is not None and blob in (own.base, own.update))

    def merge_pending(self) -> None:
        """The sample is drawn: newcomers count from now on."""
        newcomers: Iterable[Entry] = self._pending.values()
        self.registry.merge([*newcomers], limit=self._limit)
        for node_id in self._pending:
            self.registry.touch(node_id, self.newest[1])
        self._pending.clear()

    def set_timer(self, name: str, at: float) -> None:
        self.effects.set_timer(("learning", self.app, name), at)

    def cancel(self, *names: str) -> None:
        self.searches.cancel(*names)

    def count(self, name: str) -> None:
        self.counters[name] = self.counters.get(name, 0) + 1

    @property
    def _limit(self) -> int:
        """The highest round of a task: one to evaluate the last model, and one to hand it out."""
        return self.manifest.rounds + 2

    def _ping(self, to: Contact, request: int, search: str) -> None:
        (attempt, round_), aggregate = self.newest, search == Trainer.SEARCH
        self.effects.send(to, SamplePing(self.app, request, round_, self.registry.me, attempt, aggregate))

    def _alarm(self, name: str, at: float | None) -> None:
        if at is None:
            self.effects.cancel_timer(("learning", self.app, name))
        else:
            self.set_timer(name, at)

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
            self.effects.send(sender, ViewGet(self.app, 0))
