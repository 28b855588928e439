"""A member's part of a round: take the model, train, add what the children send, pass the sum on.

Every device runs this, the root too (its sum goes to the Coordinator instead of a parent). States of an open round:

    state       event                                   next
    COLLECTING  own work done, every child reported     KEEPING    (nothing to send up: SENDING)
    COLLECTING  budget over                             KEEPING    with what is there
    KEEPING     the sum has a name (blob)               SENDING
    SENDING     acknowledged by the parent              CLOSED
    SENDING     another parent                          SENDING    (sent again, there)
    any         a newer round starts                    replaced
    at the root KEEPING and SENDING are skipped: COLLECTING -> CLOSED, and the Coordinator takes over
    the end (RoundKind.DONE) has no budget: it stays open until every child has said that it holds the final model

Rules that keep the average exact: a child counts only while the round is open here and only once (contributors are
named, so an update that reaches two ancestors over two paths is refused where the paths meet); what comes late is
counted and dropped; an update that was acknowledged is never sent again.

Deadlines need no clock but the own one: a device with height h gives its children h / (h + 1) of the time that it has
left itself, so a leaf's share is what remains after one share for each level above it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from edgefl.errors import WireError
from edgefl.learning.aggregate import FLOAT_BYTES, Accumulator
from edgefl.learning.effects import Tag, Token, TrainJob, TrainResult
from edgefl.learning.epoch import made_by
from edgefl.learning.metrics import merge
from edgefl.wire import Contact
from edgefl.wire.blob import BlobRef
from edgefl.wire.learning import (
    MAX_CONTRIBUTORS,
    Metric,
    Replica,
    ReplicaAck,
    RoundKind,
    RoundRecord,
    RoundStart,
    Update,
    UpdateAck,
    Verdict,
)

if TYPE_CHECKING:
    from edgefl.learning.application import Application

MAX_INBOUND_BYTES = 32 * 1024 * 1024
"""Children's updates in flight or waiting to be added at one device; at least one, whatever its size."""

RESEND_S = 3.0
"""An update that the parent has neither fetched nor acknowledged is offered again."""

REMIND_S, REMIND_MAX_S = 3.0, 60.0
"""Children that have not answered hear of the round again (the first word may have gone into a link that was dead
already), then after twice as long each time: a child that only trains for long is hardly disturbed."""

REFETCH_S = 1.0
"""A model that nobody could give is asked for again while the round is open."""

ORPHAN_GRACE_S = 2.0
"""When an interior child dies, its children look for a new parent: the round waits this long for them."""

MAX_OBJECTIONS = 3
"""How often a device tells one root that it holds a later model, before it follows: the model may be out of reach."""

BYTES_METRIC = "bytes"
"""Payload bytes that the devices of a subtree received in this round (a sum: it has no weight)."""


class RoundState(Enum):
    COLLECTING = "collecting"
    KEEPING = "keeping"
    SENDING = "sending"
    CLOSED = "closed"


@dataclass(slots=True)
class OpenRound:
    """One round at one device."""

    tag: Tag
    kind: RoundKind
    model: BlobRef
    records: tuple[RoundRecord, ...]
    started: float
    closes: float
    sum: Accumulator
    mine: bool
    """Started by this device as the root."""
    own_pending: bool
    state: RoundState = RoundState.COLLECTING
    model_data: Any = None
    waiting: set[int] = field(default_factory=set)
    delivered: set[int] = field(default_factory=set)
    fetching: dict[int, Update] = field(default_factory=dict)
    queue: deque[tuple[Contact, Update]] = field(default_factory=deque)
    received_bytes: int = 0
    update: Update | None = None
    remind_s: float = REMIND_S

    def complete(self) -> bool:
        return not (self.own_pending or self.waiting or self.fetching or self.queue)


class Worker:
    """The round that is open at this device, if any, and the newest round it has seen."""

    TIMERS = ("budget", "resend", "refetch", "grace", "remind")

    def __init__(self, app: Application) -> None:
        self.app = app
        self.open: OpenRound | None = None
        self.newest: Tag = (0, 0, 0)
        self._objections = (0, 0)  # epoch of the root, how often it was told that it is behind

    def on_round_start(self, sender: Contact, message: RoundStart, now: float) -> None:
        app = self.app
        tag = (message.epoch, message.round, message.attempt)
        parent = app.parent
        if parent is None or sender.node_id != parent.node_id:
            app.count("round_not_from_parent")
            return
        if message.round < 1 or not app.credible(message.epoch, message.round - 1, message.model):
            app.count("round_invalid")
            return
        app.ledger.history.merge(message.records)
        if self.open is not None and (tag, message.model) == (self.open.tag, self.open.model):
            self._offer(now)  # a new parent in the same round
            return
        if tag <= self.newest or message.epoch < app.ledger.epoch:
            app.count("round_fenced")
            self._object(parent)
            return
        if self._is_behind(message) and self._may_object(message.epoch):
            self._object(parent)
            return
        app.coordinator.on_superseded()
        budget_s = min(max(message.budget_s, 0.0), app.manifest.deadline_s)
        self.begin(tag, message.kind, message.model, budget_s, message.records, now, mine=False, source=parent)

    def _is_behind(self, message: RoundStart) -> bool:
        """Whether the round would start from an earlier model than this device holds."""
        ledger, from_model = self.app.ledger, message.round - 1
        ended = ledger.finished and message.kind is RoundKind.TRAIN
        return from_model < ledger.round or (from_model == ledger.round and ended)

    def _may_object(self, epoch: int) -> bool:
        told, times = self._objections
        times = times + 1 if told == epoch else 1
        self._objections = (epoch, times)
        self.app.count("round_backwards")
        return times <= MAX_OBJECTIONS

    def _object(self, parent: Contact) -> None:
        """Let the root know how far this device is: it goes on from there, in a higher epoch."""
        standing = self.app.standing()
        if standing is not None:
            self.app.effects.send(parent, standing)

    def begin(
        self,
        tag: Tag,
        kind: RoundKind,
        model: BlobRef,
        budget_s: float,
        records: tuple[RoundRecord, ...],
        now: float,
        *,
        mine: bool,
        source: Contact | None,
    ) -> OpenRound:
        """Open a round here, pass it on to the children and start on this device's own part."""
        app = self.app
        self.close_silently()
        self.newest = tag
        app.ledger.epoch = max(app.ledger.epoch, tag[0])
        works = not app.observer and kind is not RoundKind.DONE
        round_ = OpenRound(
            tag=tag,
            kind=kind,
            model=model,
            records=records,
            started=now,
            closes=now + budget_s,
            sum=Accumulator(app.manifest.parameters, app.manifest.max_samples),
            mine=mine,
            own_pending=works,
        )
        self.open = round_
        if kind is not RoundKind.DONE:
            app.set_timer("budget", round_.closes)
            # Not until our own share of the time is over: the round goes on above, and the next one follows.
            app.forest.watch_tree(app.id, now + app.manifest.deadline_s, now)
        for child in app.children():
            self._invite(child.contact, child.observer, now)
        if works or kind is not RoundKind.TRAIN:  # an observer waits for the final model
            self._fetch_model(round_, (source,) if source is not None else ())
        self._close_if_complete(now)
        return round_

    def _invite(self, child: Contact, observer: bool, now: float) -> None:
        round_ = self.open
        if round_ is None:
            return
        if not observer or round_.kind is RoundKind.DONE:
            round_.waiting.add(child.node_id)
            self.app.set_timer("remind", now + round_.remind_s)
        self._send_start(round_, child, now)

    def _send_start(self, round_: OpenRound, child: Contact, now: float) -> None:
        tree = self.app.tree
        height = max(1, tree.height) if tree is not None else 1
        share_s = max(0.0, round_.closes - now) * height / (height + 1)
        epoch, number, attempt = round_.tag
        message = RoundStart(self.app.id, epoch, number, attempt, round_.kind, round_.model, share_s, round_.records)
        self.app.effects.send(child, message)

    def _remind(self, round_: OpenRound, now: float) -> None:
        """Tell the children that are still waited for, and of whom nothing has come, once more."""
        silent = round_.waiting - set(round_.fetching) - {sender.node_id for sender, _ in round_.queue}
        for child in self.app.children():
            if child.contact.node_id in silent:
                self._send_start(round_, child.contact, now)
        if round_.waiting:
            round_.remind_s = min(2 * round_.remind_s, REMIND_MAX_S)
            self.app.set_timer("remind", now + round_.remind_s)

    def close_silently(self) -> None:
        """Forget the open round: a newer one replaces it, or the application stops."""
        round_ = self.open
        if round_ is None:
            return
        self.open = None
        for name in self.TIMERS:
            self.app.cancel_timer(name)
        self._drop_blobs(round_)

    def _drop_blobs(self, round_: OpenRound) -> None:
        if round_.update is not None and round_.update.blob is not None:
            self.app.effects.discard(self.app.id, round_.update.blob)
        for update in round_.fetching.values():
            if update.blob is not None:
                self.app.effects.discard(self.app.id, update.blob)

    def _fetch_model(self, round_: OpenRound, sources: tuple[Contact, ...]) -> None:
        self.app.effects.fetch(self.app.id, ("start", round_.tag), round_.model, sources, pushed=True)

    def _on_model(self, token: Token, blob: BlobRef, data: Any, now: float) -> None:
        app, round_ = self.app, self.open
        if round_ is None or token[1] != round_.tag:
            if blob != app.ledger.model and (round_ is None or round_.model != blob):
                app.effects.discard(app.id, blob)
            return
        if data is None:
            app.count("model_not_fetched")
            app.set_timer("refetch", now + REFETCH_S)
            return
        if not round_.mine and blob != app.ledger.model:
            round_.received_bytes += blob.size
        round_.model_data = data
        finished = round_.kind is RoundKind.DONE
        app.advance(round_.tag[1] - 1, blob, finished=finished)
        if finished:
            app.effects.save(app.id, app.ledger.progress())
            self._offer(now)
        elif round_.own_pending:
            app.effects.train(app.id, TrainJob(round_.tag, round_.kind, blob, self._seed(round_.tag)))

    def _seed(self, tag: Tag) -> int:
        """Different for every device and round, the same when a round is replayed."""
        epoch, number, attempt = tag
        mixed = self.app.manifest.seed * 0x9E3779B97F4A7C15 + self.app.me.node_id
        return (mixed ^ (epoch << 48) ^ (attempt << 40) ^ number) & (2**63 - 1)

    def on_trained(self, tag: Tag, result: TrainResult | None, now: float) -> None:
        round_ = self.open
        if round_ is None or tag != round_.tag or not round_.own_pending:
            return
        round_.own_pending = False
        if result is None:
            self.app.count("training_failed")
        elif round_.state is RoundState.COLLECTING:
            try:
                round_.sum.add_own(self.app.me.node_id, result.delta, result.samples, result.metrics)
            except WireError:
                self.app.count("training_failed")
            if round_.kind is RoundKind.EVALUATE:
                round_.sum.participants += 1
        self._close_if_complete(now)

    def on_update(self, sender: Contact, message: Update, now: float) -> None:
        app, round_ = self.app, self.open
        tag = (message.epoch, message.round, message.attempt)
        is_child = any(child.contact.node_id == sender.node_id for child in app.children())
        if round_ is None or tag != round_.tag or not is_child:
            self._acknowledge(sender, message, Verdict.LATE)
            return
        if round_.kind is RoundKind.DONE:
            round_.waiting.discard(sender.node_id)
            self._close_if_complete(now)
            return
        if sender.node_id in round_.delivered:
            self._acknowledge(sender, message, Verdict.ACCEPTED)
            return
        if round_.state is not RoundState.COLLECTING:
            self._acknowledge(sender, message, Verdict.LATE)
            return
        if sender.node_id in round_.fetching or any(queued.node_id == sender.node_id for queued, _ in round_.queue):
            return
        if message.blob is None:
            self._add_metrics(round_, message)
            self._delivered(round_, sender, message, now)
        elif self._plausible(round_, message, message.blob):
            round_.queue.append((sender, message))
            self._fetch_updates(round_)
        else:
            self._refuse(round_, sender, message, Verdict.INVALID, now)

    def _plausible(self, round_: OpenRound, message: Update, blob: BlobRef) -> bool:
        """What can be judged before megabytes are fetched."""
        if round_.kind is not RoundKind.TRAIN or blob.size != self.app.manifest.parameters * FLOAT_BYTES:
            return False
        try:
            round_.sum.check_claim(message.samples, message.participants, set(message.contributors))
        except WireError:
            return False
        return True

    def _add_metrics(self, round_: OpenRound, message: Update) -> None:
        """An update without a blob: the metrics of an evaluation, or nothing (delivered to an earlier parent)."""
        if round_.kind is RoundKind.EVALUATE:
            round_.sum.participants += message.participants
            round_.sum.metrics = merge(round_.sum.metrics, message.metrics)

    def _fetch_updates(self, round_: OpenRound) -> None:
        limit = max(1, MAX_INBOUND_BYTES // (self.app.manifest.parameters * FLOAT_BYTES))
        while round_.queue and len(round_.fetching) < limit:
            sender, message = round_.queue.popleft()
            if message.blob is not None:
                round_.fetching[sender.node_id] = message
                self.app.effects.fetch(self.app.id, ("update", round_.tag, sender), message.blob, (sender,))

    def _on_update_data(self, token: Token, blob: BlobRef, data: Any, now: float) -> None:
        app, round_ = self.app, self.open
        app.effects.discard(app.id, blob)
        sender = token[2]
        if not isinstance(sender, Contact) or round_ is None or token[1] != round_.tag:
            return
        message = round_.fetching.pop(sender.node_id, None)
        if message is None:
            return
        if data is None:
            app.count("update_not_fetched")  # the child offers it again
        elif round_.state is not RoundState.COLLECTING:
            self._acknowledge(sender, message, Verdict.LATE)
        else:
            try:
                round_.sum.add_subtree(
                    data, message.samples, message.participants, message.contributors, message.metrics
                )
            except WireError:
                twice = not round_.sum.contributors.isdisjoint(message.contributors)
                self._refuse(round_, sender, message, Verdict.DUPLICATE if twice else Verdict.INVALID, now)
            else:
                round_.received_bytes += blob.size
                self._delivered(round_, sender, message, now)
        self._fetch_updates(round_)
        self._close_if_complete(now)

    def _delivered(self, round_: OpenRound, sender: Contact, message: Update, now: float) -> None:
        round_.delivered.add(sender.node_id)
        round_.waiting.discard(sender.node_id)
        self._acknowledge(sender, message, Verdict.ACCEPTED)
        self._close_if_complete(now)

    def _refuse(self, round_: OpenRound, sender: Contact, message: Update, verdict: Verdict, now: float) -> None:
        round_.waiting.discard(sender.node_id)
        self._acknowledge(sender, message, verdict)
        self._close_if_complete(now)

    def _acknowledge(self, sender: Contact, message: Update, verdict: Verdict) -> None:
        if verdict is not Verdict.ACCEPTED:
            self.app.count(f"update_{verdict.name.lower()}")
        ack = UpdateAck(self.app.id, message.epoch, message.round, message.attempt, verdict)
        self.app.effects.send(sender, ack)

    def _close_if_complete(self, now: float) -> None:
        round_ = self.open
        if round_ is not None and round_.state is RoundState.COLLECTING and round_.complete():
            self._close(round_, now)

    def _close(self, round_: OpenRound, now: float) -> None:
        app = self.app
        app.cancel_timer("budget")
        app.cancel_timer("grace")
        app.cancel_timer("refetch")
        app.cancel_timer("remind")
        if round_.kind is RoundKind.DONE or app.observer:
            round_.state = RoundState.CLOSED
            if round_.kind is RoundKind.DONE:
                app.forest.watch_tree(app.id, now, now)
            return
        round_.sum.metrics = merge(round_.sum.metrics, (Metric(BYTES_METRIC, float(round_.received_bytes), 0.0),))
        if round_.mine:
            round_.state = RoundState.CLOSED
            app.coordinator.on_closed(round_, now)
        elif round_.sum.total is None:
            self._set_update(round_, None, now)
        else:
            round_.state = RoundState.KEEPING
            app.effects.keep(app.id, ("update", round_.tag), round_.sum.total)

    def on_kept(self, token: Token, blob: BlobRef, now: float) -> None:
        round_ = self.open
        if round_ is None or token[1] != round_.tag or round_.state is not RoundState.KEEPING:
            self.app.effects.discard(self.app.id, blob)
            return
        self._set_update(round_, blob, now)

    def _set_update(self, round_: OpenRound, blob: BlobRef | None, now: float) -> None:
        epoch, number, attempt = round_.tag
        collected = round_.sum
        names = sorted(collected.contributors) if len(collected.contributors) <= MAX_CONTRIBUTORS else []
        round_.update = Update(
            self.app.id,
            epoch,
            number,
            attempt,
            collected.samples,
            blob,
            tuple(names),
            collected.participants,
            collected.metrics,
        )
        round_.state = RoundState.SENDING
        self._offer(now)

    def _offer(self, now: float) -> None:
        """Send the update to the parent of this moment; again later if nothing comes back."""
        round_, parent = self.open, self.app.parent
        if round_ is None or parent is None:
            return
        ended = round_.model_data is not None if round_.kind is RoundKind.DONE else round_.state is RoundState.CLOSED
        if round_.state is RoundState.SENDING and round_.update is not None:
            self.app.effects.send(parent, round_.update)
            self.app.set_timer("resend", now + RESEND_S)
        elif ended and not round_.mine:
            epoch, number, attempt = round_.tag
            self.app.effects.send(parent, Update(self.app.id, epoch, number, attempt))

    def on_update_ack(self, sender: Contact, message: UpdateAck, now: float) -> None:
        round_, parent = self.open, self.app.parent
        tag = (message.epoch, message.round, message.attempt)
        if round_ is None or tag != round_.tag or round_.state is not RoundState.SENDING:
            return
        if parent is None or sender.node_id != parent.node_id:
            return
        if message.verdict is not Verdict.ACCEPTED:
            self.app.count(f"own_update_{message.verdict.name.lower()}")
        round_.state = RoundState.CLOSED
        self.app.cancel_timer("resend")
        self._drop_blobs(round_)

    def on_parent(self, now: float) -> None:
        round_ = self.open
        if round_ is not None and round_.state is RoundState.SENDING:
            self._offer(now)

    def on_child(self, child: Contact, observer: bool, now: float) -> None:
        """A newcomer takes part in the round that is open, or gets the final model."""
        round_ = self.open
        if round_ is not None and (round_.state is RoundState.COLLECTING or round_.kind is RoundKind.DONE):
            self._invite(child, observer, now)

    def on_child_gone(self, child: int, now: float) -> None:
        round_ = self.open
        if round_ is None or round_.state is not RoundState.COLLECTING or child not in round_.waiting:
            return
        self.app.set_timer("grace", min(now + ORPHAN_GRACE_S, round_.closes))

    def _end_grace(self, now: float) -> None:
        round_ = self.open
        if round_ is not None:
            present = {child.contact.node_id for child in self.app.children()}
            round_.waiting &= present
            round_.queue = deque(item for item in round_.queue if item[0].node_id in present)
            self._close_if_complete(now)

    def on_timer(self, name: str, now: float) -> None:
        round_ = self.open
        if round_ is None:
            return
        if name == "budget" and round_.state is RoundState.COLLECTING:
            if round_.own_pending or round_.waiting:
                self.app.count("round_out_of_time")
            self._close(round_, now)
        elif name == "resend":
            self._offer(now)
        elif name == "grace":
            self._end_grace(now)
        elif name == "remind":
            self._remind(round_, now)
        elif name == "refetch" and round_.model_data is None:
            parent = self.app.parent
            self._fetch_model(round_, (parent,) if parent is not None else ())

    def on_replica(self, sender: Contact, message: Replica, now: float) -> None:
        """The root wants this device to hold its newest model."""
        app, tree = self.app, self.app.tree
        # A dethroned root that finishes its round is no longer the root of the tree, but still that of the epoch.
        finishes = message.epoch == self.newest[0] and made_by(message.epoch, sender.node_id)
        if app.observer or tree is None or not (sender.node_id == tree.root or finishes):
            app.count("replica_not_from_root")
            return
        if message.epoch < app.ledger.epoch or not app.credible(message.epoch, message.round, message.model):
            app.count("replica_fenced")
            return
        if message.round < app.ledger.round and self._may_object(message.epoch):
            self._object(sender)
            return
        app.effects.fetch(app.id, ("replica", sender, message), message.model, (sender,), pushed=True)

    def _on_replica_data(self, token: Token, blob: BlobRef, data: Any, now: float) -> None:
        app = self.app
        sender, message = token[1], token[2]
        if data is None or not isinstance(sender, Contact) or not isinstance(message, Replica):
            app.count("replica_not_fetched")
            return
        ledger = app.ledger
        ledger.history.merge(message.records)
        late = ledger.finished and message.round == ledger.round  # sent before the end, which it does not undo
        if (message.epoch, message.round) >= (ledger.epoch, ledger.round) and not late:
            ledger.epoch = message.epoch
            app.advance(message.round, blob, finished=message.finished)
            app.effects.save(app.id, ledger.progress())
        app.effects.send(sender, ReplicaAck(app.id, message.epoch, message.round))

    def on_fetched(self, token: Token, blob: BlobRef, data: Any, now: float) -> None:
        if token[0] == "start":
            self._on_model(token, blob, data, now)
        elif token[0] == "update":
            self._on_update_data(token, blob, data, now)
        elif token[0] == "replica":
            self._on_replica_data(token, blob, data, now)
