"""The root's part: start rounds, turn sums into models, replicate, and take over or hand over without losing a round.

The root of an application is its highest-ranked member: nobody elects it, the overlay only says "you are the root now".
What it needs to go on is on the other devices, since each of them holds the model that the last round began with.

    phase        event                                        next
    MEMBER       this device is the root now                  RECOVERING
    RECOVERING   children have told how far they are          (fetch the furthest model)  GATHERING or FINISHED
    RECOVERING   a dethroned root is still busy               RECOVERING   until it reports again
    GATHERING    number of members stable (at first: enough)  RUNNING
    GATHERING    paused by the owner                          GATHERING
    RUNNING      the round closed with a quorum               KEEPING
    RUNNING      the round closed without                     GATHERING    next attempt, after a pause
    RUNNING      final evaluation closed                      FINISHED
    RUNNING      somebody is further than this root           RECOVERING
    KEEPING      the next model has a name (blob), and so     REPLICATING
                 has what the strategy remembers with it
    REPLICATING  a runner-up holds it (or none exists)        RUNNING, the next round; or MEMBER, see below
    any          a higher-ranked member is the root           MEMBER; if busy, only at the round's end

Invariants: a round counts as done only when a second device holds its model (if there is a second device), so rounds
never go backwards when one device dies. Every root starts with an epoch above all that it has heard of, saved before it
is used, and members ignore lower epochs (fencing).
"""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING, Any

from edgefl.learning.effects import Token
from edgefl.learning.forest.epoch import next_epoch
from edgefl.learning.forest.next_model import NextModel
from edgefl.learning.forest.round import OpenRound
from edgefl.learning.forest.worker import BYTES_METRIC
from edgefl.learning.ledger import Position, position
from edgefl.learning.metrics import TRAIN_PREFIX, mean, merge
from edgefl.wire import Contact
from edgefl.wire.application import AppState
from edgefl.wire.blob import BlobRef
from edgefl.wire.learning import Metric, Replica, ReplicaAck, RoundKind, RoundRecord, Standing

if TYPE_CHECKING:
    from edgefl.learning.forest.application import ForestApplication

RECOVER_S = 1.0
"""A new root listens this long for how far its children are, before it goes on."""

SETTLE_S = 1.0
"""The first round starts when the number of members has not changed for this long."""

GATHER_S = 0.25
"""How often a gathering root looks at the number of its members."""

RETRY_MIN_S, RETRY_MAX_S = 1.0, 60.0
"""Pause before a round is tried again; doubles from attempt to attempt."""

REPLICA_RESEND_S = 1.0
REPLICA_WIDEN_S = 2.0
"""Runners-up that are silent for this long may be dead without anybody knowing yet: the children are asked as well."""

REPLICA_TIMEOUT_S = 10.0
"""A root whose runners-up do not answer for this long goes on alone, and counts it."""

BUSY_REPORT_S = 5.0
"""A dethroned root that still finishes its round says so this often; after three silences its successor goes on."""

MAX_EVALUATIONS = 6
"""Attempts at a final evaluation with a quorum: half a minute, longer than two trees of one application live side by
side. Then the application ends with those who are there."""

RUNNERS_UP = 2
MAX_STANDINGS = 64
"""How many reports of children a recovering root remembers; the furthest are kept."""

ROUND_RECORDS = 2
"""Records in each RoundStart: the round just done and the one before, completed by its evaluation."""


EPSILON_METRIC = "train_epsilon"
"""What devices could still gain by other parents, as a share of what their uplinks cost (edgefl/overlay/game)."""


class Phase(Enum):
    MEMBER = "member"
    RECOVERING = "recovering"
    GATHERING = "gathering"
    RUNNING = "running"
    KEEPING = "keeping"
    REPLICATING = "replicating"
    FINISHED = "finished"


BUSY = frozenset({Phase.RUNNING, Phase.KEEPING, Phase.REPLICATING})


def _extras(report: Standing) -> tuple[int, bool]:
    """How much a device has that belongs to its model."""
    return len(report.state), report.best is not None


def _blobs(report: Standing) -> tuple[BlobRef, ...]:
    best = () if report.best is None else (report.best.model,)
    return (report.model, *report.state, *best)


class Coordinator:
    """Does nothing until the overlay makes this device the root."""

    TIMERS = ("settle", "gather", "replicate", "busy")

    def __init__(self, app: ForestApplication) -> None:
        self.app = app
        self.phase = Phase.MEMBER
        self.attempt = 1
        self.problem = ""
        self._dethroned = False
        self._standings: dict[int, Standing] = {}
        self._heard = 0  # the highest epoch in any report, also of one whose model could not be had
        self._reported: Position = (0, False, 0)
        self._reported_extras = False
        self._wait_for_busy_until = 0.0
        self._members_seen = (0, 0.0)  # how many, and since when
        self._not_before = 0.0
        self._expected = 1
        self._target_reached = False
        self._next: tuple[int, tuple[BlobRef, ...], float] | None = None  # model and state to commit, and since when
        self._asked: set[int] = set()
        self._fetched: set[BlobRef] = set()  # of the device whose model is to be adopted
        self.next_model = NextModel(app)

    def on_root(self, now: float) -> None:
        self._dethroned = False
        if self.phase is Phase.MEMBER:
            self._recover(now, RECOVER_S)

    def on_parent(self, now: float) -> None:
        """This device has a parent: it is not the root (any more). A round in flight is finished first."""
        self._reported, self._reported_extras = (0, False, 0), False
        if self.phase in BUSY:
            self._dethroned = True
            self._report_busy(now)
        else:
            self._become_member()
            self._report(busy=False)

    def on_superseded(self) -> None:
        """The new root has started a round without waiting for the one that this device was finishing."""
        if self.phase is not Phase.MEMBER:
            self.app.count("round_superseded")
            self._become_member()

    def _become_member(self) -> None:
        self.phase = Phase.MEMBER
        self._dethroned = False
        self._next = None
        self.next_model.drop()
        self._standings.clear()
        for name in self.TIMERS:
            self.app.cancel_timer(name)

    def _report_busy(self, now: float) -> None:
        self._report(busy=True)
        self.app.set_timer("busy", now + BUSY_REPORT_S)

    def _report(self, *, busy: bool) -> None:
        parent, standing = self.app.parent, self.app.standing(busy=busy)
        if parent is not None and standing is not None:
            self.app.effects.send(parent, standing)

    def _recover(self, now: float, wait_s: float) -> None:
        self.phase = Phase.RECOVERING
        self.app.set_timer("settle", now + wait_s)

    def on_standing(self, sender: Contact, message: Standing, now: float) -> None:
        app = self.app
        if not any(child.contact.node_id == sender.node_id for child in app.children()):
            app.count("standing_not_from_child")
            return
        if not app.credible(message.epoch, message.round, *_blobs(message)):
            app.count("standing_invalid")
            return
        app.ledger.history.merge(message.records)
        theirs = position(message)
        if self.phase is Phase.MEMBER:
            news = message.busy or theirs > max(self._reported, app.ledger.position()) or self._completes(message)
            if app.parent is not None and news:
                self._reported = max(self._reported, theirs)
                self._reported_extras |= message.state != () or message.best is not None
                app.effects.send(app.parent, message)
            return
        self._heard = max(self._heard, message.epoch)
        before = self._standings.get(message.holder.node_id)
        self._standings[message.holder.node_id] = message
        if len(self._standings) > MAX_STANDINGS:
            least = min(self._standings.values(), key=position)
            del self._standings[least.holder.node_id]
        if self.phase is Phase.RECOVERING:
            if message.busy:
                self._wait_for_busy_until = now + 3 * BUSY_REPORT_S
            elif before is not None and before.busy:
                app.set_timer("settle", now)
        elif (message.epoch > app.ledger.epoch or theirs > app.ledger.position()) and not self._own_making(message):
            app.count("root_was_behind")
            app.worker.close_silently()
            self._recover(now, 0.0)

    def on_child_gone(self, child: int, now: float) -> None:
        """Nobody waits for a dethroned root that has died."""
        standing = self._standings.get(child)
        if standing is not None and standing.busy:
            del self._standings[child]
            if self.phase is Phase.RECOVERING:
                self.app.set_timer("settle", now)

    def _own_making(self, message: Standing) -> bool:
        """A runner-up that holds the model which this root is about to commit is not ahead of it."""
        return message.epoch == self.app.ledger.epoch and message.round <= self.app.ledger.round + 1

    def _settle(self, now: float) -> None:
        busy = any(standing.busy for standing in self._standings.values())
        if busy and now < self._wait_for_busy_until:
            self.app.set_timer("settle", min(self._wait_for_busy_until, now + RECOVER_S))
            return
        best = self._furthest()
        if best is None:
            self._take_over(now)
        else:
            self._fetch_missing(best, now)

    def _completes(self, message: Standing) -> bool:
        """Whether it comes from a device that holds what this device's own model lacks."""
        ledger = self.app.ledger
        more = _extras(message) > (len(ledger.state), ledger.best is not None)
        return more and not self._reported_extras and message.model == ledger.model

    def _furthest(self) -> Standing | None:
        """Who to go on from: the furthest of those who are further than this device, with what belongs to the model
        (the strategy's state, the best model so far) if possible; or who has more of that for this device's own model;
        or nobody."""
        ledger, standings = self.app.ledger, self._standings.values()
        model, extras = ledger.model, (len(ledger.state), ledger.best is not None)
        best = max(standings, key=position, default=None)
        if best is not None and position(best) > ledger.position():
            model, extras = best.model, _extras(best)
        else:
            best = None
        complete = [one for one in standings if one.model == model and _extras(one) > extras]
        return max(complete, key=lambda one: (_extras(one), position(one)), default=best)

    def _fetch_missing(self, best: Standing, now: float) -> None:
        """Get the next blob that this device lacks to go on from there; adopt it all when it lacks none."""
        held = self.app.ledger.blobs() | self._fetched
        for blob in _blobs(best):
            if blob not in held:
                self.app.effects.fetch(self.app.id, ("recover", best.holder.node_id), blob, (best.holder,))
                return
        self._adopt(best, now)

    def on_recovered(self, token: Token, blob: BlobRef, data: Any, now: float) -> None:
        holder = token[1]
        if holder == "state":
            if self.next_model.on_loaded(token, blob, data) and self.phase is Phase.RECOVERING:
                self._take_over(now)
            return
        best = self._standings.get(holder) if isinstance(holder, int) else None
        if self.phase is not Phase.RECOVERING or best is None or blob not in _blobs(best):
            if data is not None and blob not in self.app.ledger.blobs():
                self.app.effects.discard(self.app.id, blob)
        elif data is None:
            self.app.count("recovery_failed")
            del self._standings[best.holder.node_id]
            self._settle(now)
        else:
            self._fetched.add(blob)
            self._fetch_missing(best, now)

    def _adopt(self, best: Standing, now: float) -> None:
        app = self.app
        app.ledger.epoch = max(app.ledger.epoch, best.epoch)
        better = best.best if app.best.is_better(best.best, app.ledger.best) else None
        app.advance(best.round, best.model, finished=best.finished, state=best.state or None, best=better)
        self._take_over(now)

    def _take_over(self, now: float) -> None:
        app = self.app
        for blob in self._fetched - app.ledger.blobs():
            app.effects.discard(app.id, blob)
        self._fetched.clear()
        if not self.next_model.loaded:
            self.next_model.load()
        if not self.next_model.loaded:
            return  # until it is read
        app.ledger.epoch = next_epoch([app.ledger.epoch, app.worker.newest[0], self._heard], app.me.node_id)
        app.effects.save(app.id, app.ledger.progress())
        self._standings.clear()
        self._next = None
        self.attempt = 1
        if app.ledger.finished:
            self._announce_end(now)
        else:
            self._gather(now)

    def _gather(self, now: float) -> None:
        self.phase = Phase.GATHERING
        self._members_seen = (0, now)
        self.app.set_timer("gather", now)

    def on_advert(self, now: float) -> None:
        if self.phase is Phase.GATHERING:
            self.app.set_timer("gather", now)

    def _look_around(self, now: float) -> None:
        tree = self.app.tree
        members = tree.members if tree is not None else 1
        count, since = self._members_seen
        if members != count:
            self._members_seen = (members, now)
            since = now
        state = self.app.advert.state
        stopping = state is AppState.STOPPED
        if state is AppState.PAUSED:
            self.problem = "paused by its owner"
        elif members < self.app.manifest.min_members and not self.app.ledger.round and not stopping:
            self.problem = f"waiting for members: {members} of {self.app.manifest.min_members}"
        elif now >= self._not_before and (now - since >= SETTLE_S or stopping):
            self._start_round(now)
            return
        self.app.set_timer("gather", now + GATHER_S)

    def _start_round(self, now: float) -> None:
        app = self.app
        self.phase = Phase.RUNNING
        self.problem = ""
        self._expected = self._members()
        enough = self._target_reached or app.best.exhausted or app.ledger.round >= app.manifest.rounds
        last = enough or app.advert.state is AppState.STOPPED
        kind = RoundKind.EVALUATE if last else RoundKind.TRAIN
        self._begin(kind, now)

    def _begin(self, kind: RoundKind, now: float) -> None:
        app = self.app
        if app.ledger.model is None:
            raise ValueError("a root holds a model")
        tag = (app.ledger.epoch, app.ledger.round + 1, self.attempt)
        records = app.ledger.history.tail(ROUND_RECORDS)
        best = app.ledger.best if kind is RoundKind.DONE else None
        budget_s = app.manifest.deadline_s
        app.worker.begin(tag, kind, app.ledger.model, budget_s, records, now, mine=True, source=None, best=best)

    def on_closed(self, round_: OpenRound, now: float) -> None:
        """The root's own open round is complete, or its time is over."""
        if self.phase is not Phase.RUNNING:
            return
        self._record_evaluation(round_.sum.metrics)
        # A subtree that moved as the round began was counted at both its parents for a moment.
        self._expected = min(self._expected, self._members())
        participants, quorum = round_.participants, self._quorum()
        if participants >= quorum:
            self.app.best.on_evaluated(round_.sum.metrics)
        if round_.kind is RoundKind.EVALUATE:
            if participants < quorum and self.attempt < MAX_EVALUATIONS:
                self._try_again(f"{participants} of {self._expected} devices evaluated it, {quorum} are needed", now)
                return
            self._finish()
            self.attempt += 1
            if self._dethroned:
                self._hand_over()
            else:
                self._announce_end(now)
            return
        if participants < quorum or round_.model_data is None or round_.sum.total is None:
            self._try_again(f"{participants} of {self._expected} devices delivered, {quorum} are needed", now)
            return
        if not self.next_model.make(round_, min(1.0, participants / self._expected)):
            self._try_again("the strategy's step leads to weights that are not finite: lower its lr", now)
            return
        self._record_training(round_, now)
        self.phase = Phase.KEEPING

    def _members(self) -> int:
        """Devices that are in the tree now, or were in the last round."""
        tree = self.app.tree
        return max(1, tree.members if tree is not None else 1, self._took_part_last())

    def _took_part_last(self) -> int:
        """Participants of the newest round that is done. A part of the fleet that is cut off from the rest must not
        train on by itself as if it were the whole: the quorum counts those who were there before, too."""
        record = self.app.ledger.history.get(self.app.ledger.round)
        return record.participants if record is not None else 0

    def _quorum(self) -> int:
        return max(1, math.ceil(self.app.manifest.quorum * self._expected - 1e-9))

    def _try_again(self, problem: str, now: float) -> None:
        self.app.count("round_failed")
        if self._dethroned:
            self._hand_over()
            return
        self._not_before = now + min(RETRY_MAX_S, RETRY_MIN_S * 2 ** min(self.attempt - 1, 10))
        self.attempt += 1
        self._gather(now)
        self.problem = f"round {self.app.ledger.round + 1}: {problem}"

    def _record_evaluation(self, metrics: tuple[Metric, ...]) -> None:
        """Complete the record of the model that the round began with."""
        app = self.app
        evaluation = [m for m in metrics if not m.name.startswith(TRAIN_PREFIX) and m.name != BYTES_METRIC]
        if not evaluation:
            return
        number = app.ledger.round
        record = app.ledger.history.get(number) or RoundRecord(number, app.ledger.epoch, 0, 0, 0.0)
        training = [m for m in record.metrics if m.name.startswith(TRAIN_PREFIX)]
        app.ledger.history.merge(
            [
                RoundRecord(
                    number,
                    app.ledger.epoch,
                    record.participants,
                    record.samples,
                    record.seconds,
                    merge(training, evaluation),
                    record.bytes,
                    record.attempts,
                )
            ]
        )
        target = app.manifest.target
        if target is not None:
            reached = mean(evaluation, target.metric)
            self._target_reached |= reached is not None and reached >= target.value

    def _record_training(self, round_: OpenRound, now: float) -> None:
        training = [m for m in round_.sum.metrics if m.name.startswith(TRAIN_PREFIX)]
        training.append(Metric(EPSILON_METRIC, *self.app.forest.epsilon_sums(self.app.id)))
        received = sum(m.total for m in round_.sum.metrics if m.name == BYTES_METRIC)
        self.app.ledger.history.merge(
            [
                RoundRecord(
                    self.app.ledger.round + 1,
                    self.app.ledger.epoch,
                    round_.sum.participants,
                    round_.sum.samples,
                    now - round_.started,
                    merge(training),
                    int(received),
                    self.attempt,
                )
            ]
        )

    def on_kept(self, token: Token, blob: BlobRef, now: float) -> None:
        app = self.app
        made = self.next_model.on_kept(token, blob)
        if made is None or self.phase is not Phase.KEEPING:
            return
        self.phase = Phase.REPLICATING
        app.effects.broadcast(app.id, made[0])
        self._next = (app.ledger.round + 1, made, now)
        self._replicate(now)

    def _replicate(self, now: float) -> None:
        if self._next is None:
            return
        app = self.app
        number, (model, *state), since = self._next
        holders = {contact.node_id: contact for contact in app.forest.top_ranked(app.id, RUNNERS_UP)}
        if now >= since + REPLICA_WIDEN_S:
            holders.update({c.contact.node_id: c.contact for c in app.children() if not c.observer})
        if not holders or now >= since + REPLICA_TIMEOUT_S:
            if holders:
                app.count("replica_unanswered")
            self._commit(now)
            return
        records = app.ledger.history.tail(ROUND_RECORDS)
        message = Replica(app.id, app.ledger.epoch, number, model, False, records, tuple(state), app.ledger.best)
        self._asked = set(holders)
        for contact in holders.values():
            app.effects.send(contact, message)
        app.set_timer("replicate", now + REPLICA_RESEND_S)

    def on_replica_ack(self, sender: Contact, message: ReplicaAck, now: float) -> None:
        if self.phase is not Phase.REPLICATING or self._next is None or sender.node_id not in self._asked:
            return
        if (message.epoch, message.round) == (self.app.ledger.epoch, self._next[0]):
            self._commit(now)

    def _commit(self, now: float) -> None:
        """The round is done: nothing that dies alone can take it back."""
        if self._next is None:
            return
        app = self.app
        number, (model, *state), _ = self._next
        self._next = None
        self.attempt = 1
        app.cancel_timer("replicate")
        app.advance(number, model, state=tuple(state))
        self.next_model.commit()
        app.effects.save(app.id, app.ledger.progress())
        if self._dethroned:
            self._hand_over()
        elif app.advert.state is AppState.PAUSED:
            self._gather(now)
        else:
            self._start_round(now)

    def _hand_over(self) -> None:
        """A dethroned root has finished its round and reports to its successor."""
        self._become_member()
        self._report(busy=False)

    def _finish(self) -> None:
        """The last model has been evaluated: nothing changes any more."""
        app = self.app
        if app.ledger.model is not None:
            app.advance(app.ledger.round, app.ledger.model, finished=True)
        app.effects.save(app.id, app.ledger.progress())

    def _announce_end(self, now: float) -> None:
        """Everybody gets the final model, and who comes later gets it from its parent."""
        self.phase = Phase.FINISHED
        self._begin(RoundKind.DONE, now)

    def on_timer(self, name: str, now: float) -> None:
        if name == "settle" and self.phase is Phase.RECOVERING:
            self._settle(now)
        elif name == "gather" and self.phase is Phase.GATHERING:
            self._look_around(now)
        elif name == "replicate" and self.phase is Phase.REPLICATING:
            self._replicate(now)
        elif name == "busy" and self._dethroned:
            self._report_busy(now)
