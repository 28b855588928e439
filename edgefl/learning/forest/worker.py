"""A member's part of a round: take the model, train, add what the children send, pass the sum on.

Every device runs this, the root too (its sum goes to the Coordinator instead of a parent), and helpers, which have no
part of their own. States of an open round:

    state       event                                   next
    COLLECTING  own part in, every child delivered      SEALING    (at the root, if it selects: enough devices are in)
    COLLECTING  budget over                             SEALING    with what is there
    SEALING     every chunk is sealed                   SENDING    the final word is with the parent, or on its way
    SENDING     acknowledged by the parent              CLOSED
    SENDING     another parent                          SENDING    (the rest goes there)
    any         a newer round starts                    replaced
    at the root SENDING is skipped: SEALING -> CLOSED, and the Coordinator takes over
    the end (RoundKind.DONE) has no budget: it stays open until every child has said that it holds the final model

Which rounds this device has an own part in, and which of them wait for it, is said in local.py. Where zones deliver to
the root apart from each other (direct.py), "parent" is whom this device delivers to.

Chunks do not wait for their states: while a round is COLLECTING, inflow.py adds what has come and outflow.py sends on
what is complete.

Rules that keep the average exact: a child counts only while the round is open here, and each device only once in each
chunk (contributors are named, so a chunk that reaches two ancestors over two paths is refused where the paths meet);
what comes late is counted and dropped; what a parent has taken is never sent again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgefl.learning.aggregate import Accumulator
from edgefl.learning.effects import Tag, Token, TrainResult
from edgefl.learning.forest.direct import admit_guest, delivers_to_root, excuse, upstream
from edgefl.learning.forest.inflow import Inflow
from edgefl.learning.forest.invitations import Invitations
from edgefl.learning.forest.local import LocalTraining
from edgefl.learning.forest.models import RoundModels
from edgefl.learning.forest.outflow import Outflow
from edgefl.learning.forest.round import OpenRound, RoundState
from edgefl.learning.groups import GroupedSum
from edgefl.learning.strategies.spec import parse_strategy
from edgefl.wire import Contact
from edgefl.wire.blob import BlobRef
from edgefl.wire.learning import (
    Metric,
    RoundKind,
    RoundStart,
    Update,
    UpdateAck,
    UpdateChunk,
    UpdateGet,
    Verdict,
)

if TYPE_CHECKING:
    from edgefl.learning.forest.application import ForestApplication

ORPHAN_GRACE_S = 2.0
"""When an interior child dies, its children look for a new parent: the round waits this long for them."""

BYTES_METRIC = "bytes"
"""Payload bytes that the devices of a subtree received in this round (a sum: it has no weight)."""


class Worker:
    """The round that is open at this device, if any, and the newest round it has seen."""

    TIMERS = ("budget", "resend", "refetch", "grace", "remind", "seal", "own")

    def __init__(self, app: ForestApplication) -> None:
        self.app = app
        self.open: OpenRound | None = None
        self.newest: Tag = (0, 0, 0)
        self.inflow = Inflow(app, self._advance)
        self.local = LocalTraining(app)
        self._strategy = parse_strategy(app.manifest.strategy)
        self._invitations = Invitations(app)
        self._models = RoundModels(app)
        self._outflow: Outflow | None = None
        self._early: tuple[Contact, RoundStart] | None = None  # of a new parent whose acceptance is still on the way

    def on_round_start(self, sender: Contact, message: RoundStart, now: float) -> None:
        app = self.app
        tag = (message.epoch, message.round, message.attempt)
        parent = app.parent
        if parent is None or sender.node_id != parent.node_id:
            app.count("round_not_from_parent")
            self._early = (sender, message)
            app.forest.disown(app.id, sender, now)
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
        if message.best is not None and not app.credible(message.epoch, message.best.round, message.best.model):
            message = replace(message, best=None)
        self.begin(message, now, source=parent)

    def begin(self, start: RoundStart, now: float, *, source: Contact | None, enough: int = 0) -> OpenRound:
        """Open a round here, pass it on to the children and start on this device's own part. Without a `source`, it is
        the root's own; `enough`: see OpenRound."""
        app, kind, mine = self.app, start.kind, source is None
        self.close_silently()
        self.newest = (start.epoch, start.round, start.attempt)
        app.ledger.epoch = max(app.ledger.epoch, start.epoch)
        round_ = OpenRound(
            tag=self.newest,
            kind=kind,
            model=start.model,
            records=start.records,
            started=now,
            closes=now + min(max(start.budget_s, 0.0), app.manifest.deadline_s),
            sum=self._new_sum(mine),
            mine=mine,
            best=start.best,
            threshold=start.threshold,
            own_s=start.own_s,
            pushed=app.pushes(self.newest),
            need=start.need,
            root=start.root if self._strategy.by_zone else None,
            enough=enough,
        )
        self.open = round_
        self._outflow = Outflow(app, round_)
        if kind is not RoundKind.DONE:
            app.set_timer("budget", round_.closes)
            # Not until our own share of the time is over: the round goes on above, and the next one follows.
            app.forest.watch_tree(app.id, now + app.manifest.deadline_s, now)
        self.local.open(round_, now)
        if kind is RoundKind.TRAIN and not app.observer and not mine:
            round_.memory_pending = app.feedback.recall(round_.tag)
        if app.trains:
            round_.kept_pending = app.kept.begin(round_.tag)
        if delivers_to_root(app, round_):
            excuse(app, round_)
        if round_.pushed:
            self._invitations.send_all(round_, now)
        if not app.observer or kind is not RoundKind.TRAIN:  # an observer waits for the final model
            self._models.fetch(round_, (source,) if source is not None else ())
        self._advance(round_, now)
        self._look_for_work(now)
        return round_

    def _new_sum(self, mine: bool) -> Accumulator:
        app = self.app
        max_samples, strategy = app.manifest.max_samples * self.local.unit, self._strategy
        if mine and strategy.trim:
            own_group = app.me.zone if strategy.by_zone else None
            return GroupedSum(app.travelling, max_samples, strategy.trim, own_group)
        return Accumulator(app.travelling, max_samples)

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

    def on_trained(self, tag: Tag, result: TrainResult | None, now: float) -> None:
        round_ = self.open
        if self.local.on_trained(round_, tag, result, now) and round_ is not None:
            self._advance(round_, now)
        self._look_for_work(now)

    def _look_for_work(self, now: float) -> None:
        """If this device has nothing to do for the application any more, another one may have its turn."""
        if self.app.together is not None:
            self.app.together.on_idle(now)

    def on_own_done(self, round_: OpenRound, now: float) -> None:
        """This device's own part of the open round is in, or will not come."""
        round_.own_pending = False
        self._advance(round_, now)

    def on_kept_recalled(self, tag: Tag, data: Any, now: float) -> None:
        """What earlier rounds left on this device is here again (or nothing was)."""
        round_ = self.open
        if round_ is not None and round_.kept_pending and tag == round_.tag:
            self.app.kept.on_recalled(data)
            round_.kept_pending = False
            self.local.on_ready(round_, now)

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
        if round_ is None or tag != round_.tag:
            self.inflow.acknowledge(sender, message, Verdict.LATE)
        elif is_child or admit_guest(self.app, round_, sender):
            self.inflow.on_update(round_, sender, message, now)
        elif round_.root is None or sender.zone == self.app.me.zone:
            # It was taken for dead, or its edge was lost: it asks for its place again, and then offers this again.
            self.app.count("update_not_from_child")
            self.app.forest.disown(self.app.id, sender, now)
        else:
            self.inflow.acknowledge(sender, message, Verdict.LATE)

    def on_chunk(self, sender: Contact, message: UpdateChunk, data: Any, now: float) -> None:
        round_ = self.open
        if round_ is not None and (message.epoch, message.round, message.attempt) == round_.tag:
            self.inflow.on_chunk(round_, sender, message, data, now)
        else:
            self.app.count("chunk_late")

    def on_child(self, child: Contact, observer: bool, now: float) -> None:
        """A newcomer takes part in the round that is open, or gets the final model."""
        round_ = self.open
        if round_ is None or not round_.begun:
            return
        if round_.state is RoundState.COLLECTING or round_.kind is RoundKind.DONE:
            self._invitations.send(round_, child, observer, now)

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
        if round_.own_pending or not round_.begun or (round_.mine and round_.root is not None):
            return 0
        streams = (round_.streams.get(child) for child in round_.waiting)
        return min((0 if stream is None else stream.next for stream in streams), default=round_.sum.chunks)

    def _stop_collecting(self, round_: OpenRound) -> None:
        for name in ("budget", "grace", "refetch", "remind", "own"):
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
        self.local.report(round_, now)
        round_.whole_at = now
        if round_.mine:
            round_.state = RoundState.CLOSED
            if round_.kind is RoundKind.TRAIN:
                # The root sends nothing up, but what a child sends is what it would send.
                # (The last chunk is seldom full: an update is no larger than the model.)
                size_bytes = min(round_.sum.chunks * app.encoding.chunk_bytes, round_.model.size)
                app.forest.on_round_over(app.id, size_bytes, 0.0, now)
            app.coordinator.on_closed(round_, now)
        else:
            round_.state = RoundState.SENDING
            outflow.offer(now)

    # The parent

    def _report(self, now: float, *, moved: bool = False) -> None:
        """Tell the parent of this moment what it has to know of this round. `moved`: it is another one."""
        round_, outflow, parent = self.open, self._outflow, self.app.parent
        if round_ is None or parent is None or outflow is None or round_.mine:
            return
        ended = round_.ended if round_.kind is RoundKind.DONE else round_.state is RoundState.CLOSED
        if ended:  # also as the head of a zone: whom the root has it from waits for nobody
            epoch, number, attempt = round_.tag
            self.app.effects.send(parent, Update(self.app.id, epoch, number, attempt, final=True))
        elif delivers_to_root(self.app, round_):
            excuse(self.app, round_)
            if moved:
                outflow.on_parent(now)
        elif round_.kind is not RoundKind.DONE:
            outflow.on_parent(now)

    def on_parent(self, now: float) -> None:
        round_, early, parent = self.open, self._early, self.app.parent
        self._early = None
        if early is not None and parent is not None and early[0].node_id == parent.node_id:
            self.on_round_start(*early, now)
        elif round_ is not None and round_.state is not RoundState.CLOSED:
            self._report(now, moved=True)

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
            if self._outflow is not None and self._outflow.ready:
                self.local.on_sent(now - round_.whole_at)
        else:
            self.app.count(f"own_update_{message.verdict.name.lower()}")
            self.app.feedback.forget()
            self.app.kept.on_lost()
        round_.state = RoundState.CLOSED
        for name in self.TIMERS:
            self.app.cancel_timer(name)

    def _tell_game(self, now: float) -> None:
        """The round is over for this device: it may change its parent now."""
        outflow, round_ = self._outflow, self.open
        if outflow is not None and outflow.ready and round_ is not None and not delivers_to_root(self.app, round_):
            self.app.forest.on_round_over(self.app.id, outflow.sent_bytes, outflow.waited_s(now), now)

    def _is_answer(self, sender: Contact, message: UpdateGet | UpdateAck) -> bool:
        round_ = self.open
        tag = (message.epoch, message.round, message.attempt)
        if round_ is None or round_.mine or tag != round_.tag or round_.state is RoundState.CLOSED:
            return False
        parent = upstream(self.app, round_)
        return parent is not None and sender.node_id == parent.node_id

    # Events that have names

    def on_timer(self, name: str, now: float) -> None:
        round_, outflow = self.open, self._outflow
        if round_ is None or outflow is None:
            return
        if name == "budget" and round_.state is RoundState.COLLECTING:
            if self.local.pace.measured:
                self.local.on_time_over(round_)
            if not round_.complete():
                self.app.count("round_out_of_time")
            self._stop_collecting(round_)
            self._advance(round_, now)
            self._look_for_work(now)
        elif name == "seal":
            self._advance(round_, now)
        elif name == "resend":
            outflow.on_resend(now)
        elif name == "grace":
            self._end_grace(round_, now)
        elif name == "remind":
            self._invitations.remind(round_, now)
        elif name == "own" and round_.state is RoundState.COLLECTING:
            self.local.on_time_over(round_)
            self._advance(round_, now)
            self._look_for_work(now)
        elif name == "refetch":
            self._models.fetch_again(round_)

    def on_fetched(self, token: Token, blob: BlobRef, data: Any, now: float) -> None:
        round_ = self.open
        if token[0] == "start" and self._models.on_fetched(round_, token, blob, data, now) and round_ is not None:
            if not round_.pushed:
                self._invitations.send_all(round_, now)
            if round_.ended:
                self._report(now)
            else:
                self.local.on_ready(round_, now)
