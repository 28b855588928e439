"""A member's part of a round: take the model, train, add what the children send, pass the sum on.

Every device runs this, the root too (its sum goes to the Coordinator instead of a parent), and helpers, which have no
part of their own. States of an open round:

    state       event                                   next
    COLLECTING  own work done, every child delivered    SEALING
    COLLECTING  budget over                             SEALING    with what is there
    SEALING     every chunk is sealed                   SENDING    the final word is with the parent, or on its way
    SENDING     acknowledged by the parent              CLOSED
    SENDING     another parent                          SENDING    (the rest goes there)
    any         a newer round starts                    replaced
    at the root SENDING is skipped: SEALING -> CLOSED, and the Coordinator takes over
    the end (RoundKind.DONE) has no budget: it stays open until every child has said that it holds the final model

Chunks do not wait for their states: while a round is COLLECTING, inflow.py adds what has come and outflow.py sends on
what is complete.

Rules that keep the average exact: a child counts only while the round is open here, and each device only once in each
chunk (contributors are named, so a chunk that reaches two ancestors over two paths is refused where the paths meet);
what comes late is counted and dropped; what a parent has taken is never sent again.

Deadlines need no clock but the own one: a device with height h gives its children h / (h + 1) of the time that it has
left itself, so a leaf's share is what remains after one share for each level above it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgefl.errors import WireError
from edgefl.learning.aggregate import Accumulator
from edgefl.learning.effects import Tag, Token, TrainJob, TrainResult
from edgefl.learning.forest.inflow import Inflow
from edgefl.learning.forest.outflow import Outflow
from edgefl.learning.forest.round import REMIND_MAX_S, OpenRound, RoundState
from edgefl.learning.groups import GroupedSum
from edgefl.learning.strategies.spec import parse_strategy
from edgefl.wire import Contact
from edgefl.wire.blob import BlobRef
from edgefl.wire.learning import (
    Best,
    Metric,
    RoundKind,
    RoundRecord,
    RoundStart,
    Update,
    UpdateAck,
    UpdateChunk,
    UpdateGet,
    Verdict,
)

if TYPE_CHECKING:
    from edgefl.learning.forest.application import ForestApplication

REFETCH_S = 1.0
"""A model that nobody could give is asked for again while the round is open."""

ORPHAN_GRACE_S = 2.0
"""When an interior child dies, its children look for a new parent: the round waits this long for them."""

BYTES_METRIC = "bytes"
"""Payload bytes that the devices of a subtree received in this round (a sum: it has no weight)."""


class Worker:
    """The round that is open at this device, if any, and the newest round it has seen."""

    TIMERS = ("budget", "resend", "refetch", "grace", "remind", "seal")

    def __init__(self, app: ForestApplication) -> None:
        self.app = app
        self.open: OpenRound | None = None
        self.newest: Tag = (0, 0, 0)
        self.inflow = Inflow(app, self._advance)
        self._outflow: Outflow | None = None
        self._early: tuple[Contact, RoundStart] | None = None  # of a new parent whose acceptance is still on the way

    def on_round_start(self, sender: Contact, message: RoundStart, now: float) -> None:
        app = self.app
        tag = (message.epoch, message.round, message.attempt)
        parent = app.parent
        if parent is None or sender.node_id != parent.node_id:
            app.count("round_not_from_parent")
            self._early = (sender, message)
            return
        if message.round < 1 or not app.credible(message.epoch, message.round - 1, message.model):
            app.count("round_invalid")
            return
        app.ledger.history.merge(message.records)
        if self.open is not None and (tag, message.model) == (self.open.tag, self.open.model):
            self._report(now)  # a new parent in the same round
            return
        if tag <= self.newest or message.epoch < app.ledger.epoch:
            app.count("round_fenced")
            app.objections.raise_to(parent)
            return
        if app.objections.apply_to(message) and app.objections.may_raise(message.epoch):
            app.objections.raise_to(parent)
            return
        app.coordinator.on_superseded()
        budget_s = min(max(message.budget_s, 0.0), app.manifest.deadline_s)
        best = message.best
        if best is not None and not app.credible(message.epoch, best.round, best.model):
            best = None
        self.begin(
            tag, message.kind, message.model, budget_s, message.records, now, mine=False, source=parent, best=best
        )

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
        best: Best | None = None,
    ) -> OpenRound:
        """Open a round here, pass it on to the children and start on this device's own part."""
        app = self.app
        self.close_silently()
        self.newest = tag
        app.ledger.epoch = max(app.ledger.epoch, tag[0])
        works = app.trains and kind is not RoundKind.DONE
        round_ = OpenRound(
            tag=tag,
            kind=kind,
            model=model,
            records=records,
            started=now,
            closes=now + budget_s,
            sum=self._new_sum(mine),
            mine=mine,
            own_pending=works,
            best=best,
        )
        self.open = round_
        self._outflow = Outflow(app, round_)
        if kind is not RoundKind.DONE:
            app.set_timer("budget", round_.closes)
            # Not until our own share of the time is over: the round goes on above, and the next one follows.
            app.forest.watch_tree(app.id, now + app.manifest.deadline_s, now)
        if works:
            round_.sum.expect(app.me.node_id)
        if kind is RoundKind.TRAIN and not app.observer and not mine:
            round_.memory_pending = app.feedback.recall(round_.tag)
        if app.trains:
            round_.kept_pending = app.kept.begin(round_.tag)
        for child in app.children():
            self._invite(child.contact, child.observer, now)
        if works or app.helper or kind is not RoundKind.TRAIN:  # an observer waits for the final model
            self._fetch_model(round_, (source,) if source is not None else ())
        self._advance(round_, now)
        return round_

    def _new_sum(self, mine: bool) -> Accumulator:
        app = self.app
        trim = parse_strategy(app.manifest.strategy).trim
        if mine and trim:
            return GroupedSum(app.travelling, app.manifest.max_samples, trim)
        return Accumulator(app.travelling, app.manifest.max_samples)

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
        message = RoundStart(
            self.app.id, epoch, number, attempt, round_.kind, round_.model, share_s, round_.records, round_.best
        )
        self.app.effects.send(child, message)

    def _remind(self, round_: OpenRound, now: float) -> None:
        """Tell the children that are still waited for, and of whom nothing has come, once more."""
        silent = round_.waiting - set(round_.streams)
        for child in self.app.children():
            if child.contact.node_id in silent:
                self._send_start(round_, child.contact, now)
        if round_.waiting:
            round_.remind_s = min(2 * round_.remind_s, REMIND_MAX_S)
            self.app.set_timer("remind", now + round_.remind_s)

    def close_silently(self) -> None:
        """Forget the open round: a newer one replaces it, or the application stops."""
        round_, outflow = self.open, self._outflow
        if round_ is None:
            return
        if outflow is not None and outflow.ready and round_.state is not RoundState.CLOSED:
            self.app.feedback.forget()
            self.app.kept.on_lost()
        self.open = self._outflow = None
        for name in self.TIMERS:
            self.app.cancel_timer(name)

    def _fetch_model(self, round_: OpenRound, sources: tuple[Contact, ...]) -> None:
        self.app.effects.fetch(self.app.id, ("start", round_.tag), round_.model, sources, pushed=True)

    def _on_model(self, token: Token, blob: BlobRef, data: Any, now: float) -> None:
        app, round_ = self.app, self.open
        if round_ is None or token[1] != round_.tag:
            if blob not in app.ledger.blobs() and (round_ is None or round_.model != blob):
                app.effects.discard(app.id, blob)
            return
        if data is None:
            app.count("model_not_fetched")
            app.set_timer("refetch", now + REFETCH_S)
            return
        if blob != round_.model:
            round_.received_bytes += blob.size
            self._end(round_, now)
            return
        if not round_.mine and blob != app.ledger.model:
            round_.received_bytes += blob.size
        round_.model_data = data
        finished = round_.kind is RoundKind.DONE
        app.advance(round_.tag[1] - 1, blob, finished=finished)
        if not finished:
            self._train(round_)
        elif round_.best is None or round_.best.model in app.ledger.blobs():
            self._end(round_, now)
        else:
            app.effects.save(app.id, app.ledger.progress())
            self._fetch_best(round_)

    def _fetch_best(self, round_: OpenRound) -> None:
        """The final model is here; the best one follows it."""
        parent = self.app.parent
        if round_.best is not None:
            sources = (parent,) if parent is not None else ()
            self.app.effects.fetch(self.app.id, ("start", round_.tag), round_.best.model, sources)

    def _end(self, round_: OpenRound, now: float) -> None:
        """This device has all that it will ever have of the application."""
        app = self.app
        if app.ledger.model is not None:
            app.advance(app.ledger.round, app.ledger.model, finished=True, best=round_.best)
        round_.ended = True
        app.effects.save(app.id, app.ledger.progress())
        self._report(now)

    def _train(self, round_: OpenRound) -> None:
        """Start this device's own work, once the model and what the last round left are both here."""
        app = self.app
        if round_.own_pending and round_.model_data is not None and not round_.kept_pending:
            seed = self._seed(round_.tag)
            job = TrainJob(round_.tag, round_.kind, round_.model, seed, app.kept.held, round_.closes)
            app.effects.train(app.id, job)

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
        declined = result is not None and result.declined
        if result is not None and not (result.diverged or declined):
            self.app.kept.on_trained(tag, result.kept)
        if declined:
            self.app.count("training_declined")
        elif result is None or result.diverged:
            self.app.count("training_failed")
        elif round_.state is RoundState.COLLECTING:
            try:
                round_.sum.add_own(result.delta, result.samples, result.metrics)
            except WireError:
                self.app.count("training_failed")
                self.app.kept.on_lost()
            if round_.kind is RoundKind.EVALUATE:
                round_.evaluated += 1
        else:
            self.app.kept.on_lost()
        self._advance(round_, now)

    def on_kept_recalled(self, tag: Tag, data: Any, now: float) -> None:
        """What earlier rounds left on this device is here again (or nothing was)."""
        round_ = self.open
        if round_ is not None and round_.kept_pending and tag == round_.tag:
            self.app.kept.on_recalled(data)
            round_.kept_pending = False
            self._train(round_)

    def on_recalled(self, tag: Tag, data: Any, now: float) -> None:
        """What earlier rounds left out is here again (or lost)."""
        round_ = self.open
        if round_ is not None and round_.memory_pending and tag == round_.tag:
            self.app.feedback.on_recalled(data)
            round_.memory_pending = False
            self._advance(round_, now)

    # Children

    def on_update(self, sender: Contact, message: Update, now: float) -> None:
        round_ = self.open
        tag = (message.epoch, message.round, message.attempt)
        is_child = any(child.contact.node_id == sender.node_id for child in self.app.children())
        if round_ is None or tag != round_.tag or not is_child:
            self.inflow.acknowledge(sender, message, Verdict.LATE)
        else:
            self.inflow.on_update(round_, sender, message, now)

    def on_chunk(self, sender: Contact, message: UpdateChunk, data: Any, now: float) -> None:
        round_ = self.open
        if round_ is not None and (message.epoch, message.round, message.attempt) == round_.tag:
            self.inflow.on_chunk(round_, sender, message, data, now)
        else:
            self.app.count("chunk_late")

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

    def _end_grace(self, round_: OpenRound, now: float) -> None:
        round_.waiting &= {child.contact.node_id for child in self.app.children()}
        self._advance(round_, now)

    # From collecting to closed

    def _advance(self, round_: OpenRound, now: float) -> None:
        """Seal what is complete, and close the round when everything is."""
        outflow = self._outflow
        if round_ is not self.open or outflow is None or round_.state in (RoundState.SENDING, RoundState.CLOSED):
            return
        if round_.state is RoundState.COLLECTING and round_.complete() and not round_.memory_pending:
            self._stop_collecting(round_)
        if self._sums(round_) and not outflow.seal(self._ready(round_), now):
            self.app.set_timer("seal", now)
        elif round_.state is RoundState.SEALING:
            self._close(round_, now)

    def _sums(self, round_: OpenRound) -> bool:
        return round_.kind is RoundKind.TRAIN and not self.app.observer and not round_.sum.empty

    def _ready(self, round_: OpenRound) -> int:
        """Chunks to which nothing will be added any more."""
        if round_.memory_pending:
            return 0
        if round_.state is RoundState.SEALING:
            return round_.sum.chunks
        if round_.own_pending:
            return 0
        streams = (round_.streams.get(child) for child in round_.waiting)
        return min((0 if stream is None else stream.next for stream in streams), default=round_.sum.chunks)

    def _stop_collecting(self, round_: OpenRound) -> None:
        for name in ("budget", "grace", "refetch", "remind"):
            self.app.cancel_timer(name)
        round_.state = RoundState.SEALING
        for node_id, stream in round_.streams.items():
            if node_id in round_.waiting and stream.update is not None:
                self.inflow.acknowledge(stream.sender, stream.update, Verdict.LATE)
        if round_.memory_pending:
            self.app.feedback.forget()
            round_.memory_pending = False

    def _close(self, round_: OpenRound, now: float) -> None:
        app, outflow = self.app, self._outflow
        if round_.kind is RoundKind.DONE or app.observer or outflow is None:
            round_.state = RoundState.CLOSED
            if round_.kind is RoundKind.DONE:
                app.forest.watch_tree(app.id, now, now)
            return
        round_.add_metrics(Metric(BYTES_METRIC, float(round_.received_bytes), 0.0))
        if round_.mine:
            round_.state = RoundState.CLOSED
            if round_.kind is RoundKind.TRAIN:
                # The root sends nothing up, but what its children send is what it would send.
                app.forest.on_round_over(app.id, round_.sum.chunks * app.encoding.chunk_bytes, 0.0, now)
            app.coordinator.on_closed(round_, now)
        else:
            round_.state = RoundState.SENDING
            outflow.offer(now)

    # The parent

    def _report(self, now: float) -> None:
        """Tell the parent of this moment what it has to know of this round."""
        round_, outflow, parent = self.open, self._outflow, self.app.parent
        if round_ is None or parent is None or outflow is None or round_.mine:
            return
        ended = round_.ended if round_.kind is RoundKind.DONE else round_.state is RoundState.CLOSED
        if ended:
            epoch, number, attempt = round_.tag
            self.app.effects.send(parent, Update(self.app.id, epoch, number, attempt, final=True))
        elif round_.kind is not RoundKind.DONE:
            outflow.on_parent(now)

    def on_parent(self, now: float) -> None:
        round_, early, parent = self.open, self._early, self.app.parent
        self._early = None
        if early is not None and parent is not None and early[0].node_id == parent.node_id:
            self.on_round_start(*early, now)
        elif round_ is not None and round_.state is not RoundState.CLOSED:
            self._report(now)

    def on_update_get(self, sender: Contact, message: UpdateGet, now: float) -> None:
        if self._outflow is not None and self._is_answer(sender, message):
            self._outflow.on_get(message, now)

    def on_update_ack(self, sender: Contact, message: UpdateAck, now: float) -> None:
        round_ = self.open
        if round_ is None or not self._is_answer(sender, message):
            return
        accepted = message.verdict is Verdict.ACCEPTED
        if round_.state is not RoundState.SENDING and accepted:
            return
        if accepted:
            self.app.feedback.commit()
            self._tell_game(now)
        else:
            self.app.count(f"own_update_{message.verdict.name.lower()}")
            self.app.feedback.forget()
            self.app.kept.on_lost()
        round_.state = RoundState.CLOSED
        for name in self.TIMERS:
            self.app.cancel_timer(name)

    def _tell_game(self, now: float) -> None:
        """The round is over for this device: it may change its parent now."""
        outflow = self._outflow
        if outflow is not None and outflow.ready:
            self.app.forest.on_round_over(self.app.id, outflow.sent_bytes, outflow.waited_s(now), now)

    def _is_answer(self, sender: Contact, message: UpdateGet | UpdateAck) -> bool:
        round_, parent = self.open, self.app.parent
        tag = (message.epoch, message.round, message.attempt)
        if round_ is None or round_.mine or tag != round_.tag or round_.state is RoundState.CLOSED:
            return False
        return parent is not None and sender.node_id == parent.node_id

    # Events that have names

    def on_timer(self, name: str, now: float) -> None:
        round_, outflow = self.open, self._outflow
        if round_ is None or outflow is None:
            return
        if name == "budget" and round_.state is RoundState.COLLECTING:
            if not round_.complete():
                self.app.count("round_out_of_time")
            self._stop_collecting(round_)
            self._advance(round_, now)
        elif name == "seal":
            self._advance(round_, now)
        elif name == "resend":
            outflow.on_resend(now)
        elif name == "grace":
            self._end_grace(round_, now)
        elif name == "remind":
            self._remind(round_, now)
        elif name == "refetch" and round_.model_data is None:
            parent = self.app.parent
            self._fetch_model(round_, (parent,) if parent is not None else ())
        elif name == "refetch" and round_.kind is RoundKind.DONE:
            self._fetch_best(round_)

    def on_fetched(self, token: Token, blob: BlobRef, data: Any, now: float) -> None:
        if token[0] == "start":
            self._on_model(token, blob, data, now)
