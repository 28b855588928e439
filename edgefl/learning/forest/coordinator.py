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
    KEEPING      the next model has a name (blob)             REPLICATING
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

import numpy as np

from edgefl.learning.effects import Token
from edgefl.learning.forest.epoch import next_epoch
from edgefl.learning.forest.round import OpenRound
from edgefl.learning.forest.worker import BYTES_METRIC
from edgefl.learning.ledger import Position, position
from edgefl.learning.metrics import TRAIN_PREFIX, mean, merge
from edgefl.learning.strategies.server import State, strategy_of
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
        self._wait_for_busy_until = 0.0
        self._members_seen = (0, 0.0)  # how many, and since when
        self._not_before = 0.0
        self._expected = 1
        self._target_reached = False
        self._next: tuple[int, BlobRef, float] | None = None  # the model to commit, and since when
        self._asked: set[int] = set()
        self._strategy = strategy_of(app.manifest.strategy)
        self._memory: tuple[BlobRef, State] | None = None  # the strategy's, as of this model
        self._next_memory: State = ()

    def on_root(self, now: float) -> None:
        self._dethroned = False
        if self.phase is Phase.MEMBER:
            self._recover(now, RECOVER_S)

    def on_parent(self, now: float) -> None:
        """This device has a parent: it is not the root (any more). A round in flight is finished first."""
        self._reported = (0, False, 0)
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
        self._memory, self._next_memory = None, ()
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
        if not app.credible(message.epoch, message.round, message.model):
            app.count("standing_invalid")
            return
        app.ledger.history.merge(message.records)
        theirs = position(message)
        if self.phase is Phase.MEMBER:
            if app.parent is not None and (message.busy or theirs > max(self._reported, app.ledger.position())):
                self._reported = max(self._reported, theirs)
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
        ledger = self.app.ledger
        best = max(self._standings.values(), key=position, default=None)
        if best is None or position(best) <= ledger.position():
            self._take_over(now)
        elif best.model == ledger.model:
            self._adopt(best, now)
        else:
            self.app.effects.fetch(self.app.id, ("recover", best.holder.node_id), best.model, (best.holder,))

    def on_recovered(self, token: Token, blob: BlobRef, data: Any, now: float) -> None:
        holder = token[1]
        best = self._standings.get(holder) if isinstance(holder, int) else None
        if self.phase is not Phase.RECOVERING or best is None or best.model != blob:
            if data is not None and blob != self.app.ledger.model:
                self.app.effects.discard(self.app.id, blob)
        elif data is None:
            self.app.count("recovery_failed")
            del self._standings[best.holder.node_id]
            self._settle(now)
        else:
            self._adopt(best, now)

    def _adopt(self, best: Standing, now: float) -> None:
        self.app.ledger.epoch = max(self.app.ledger.epoch, best.epoch)
        self.app.advance(best.round, best.model, finished=best.finished)
        self._take_over(now)

    def _take_over(self, now: float) -> None:
        app = self.app
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
        last = self._target_reached or app.ledger.round >= app.manifest.rounds or app.advert.state is AppState.STOPPED
        kind = RoundKind.EVALUATE if last else RoundKind.TRAIN
        self._begin(kind, now)

    def _begin(self, kind: RoundKind, now: float) -> None:
        app = self.app
        if app.ledger.model is None:
            raise ValueError("a root holds a model")
        tag = (app.ledger.epoch, app.ledger.round + 1, self.attempt)
        records = app.ledger.history.tail(ROUND_RECORDS)
        app.worker.begin(tag, kind, app.ledger.model, app.manifest.deadline_s, records, now, mine=True, source=None)

    def on_closed(self, round_: OpenRound, now: float) -> None:
        """The root's own open round is complete, or its time is over."""
        if self.phase is not Phase.RUNNING:
            return
        self._record_evaluation(round_.sum.metrics)
        # A subtree that moved as the round began was counted at both its parents for a moment.
        self._expected = min(self._expected, self._members())
        participants, quorum = round_.participants, self._quorum()
        if round_.kind is RoundKind.EVALUATE:
            if participants < quorum and self.attempt < MAX_EVALUATIONS:
                self._try_again(f"{participants} of {self._expected} devices evaluated it, {quorum} are needed", now)
                return
            self.app.ledger.finished = True
            self.app.effects.save(self.app.id, self.app.ledger.progress())
            self.attempt += 1
            if self._dethroned:
                self._hand_over()
            else:
                self._announce_end(now)
            return
        if participants < quorum or round_.model_data is None or round_.sum.total is None:
            self._try_again(f"{participants} of {self._expected} devices delivered, {quorum} are needed", now)
            return
        model = np.frombuffer(round_.model_data, dtype="<f4")
        state = self._remembered()
        new, self._next_memory = self._strategy.step(model, round_.sum.total, state)
        if self._next_memory and not state and self.app.ledger.round:
            self.app.count("strategy_restarted")
        self._record_training(round_, now)
        self.phase = Phase.KEEPING
        self.app.effects.keep(self.app.id, ("model", round_.tag), new)

    def _remembered(self) -> State:
        """The strategy's state, if it belongs to the model that the next step starts from. It stays with the root that
        made it: a root that took over, or was restarted, begins afresh, as in the first round."""
        if self._memory is not None and self._memory[0] == self.app.ledger.model:
            return self._memory[1]
        return ()

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
        tag = (app.ledger.epoch, app.ledger.round + 1, self.attempt)
        if self.phase is not Phase.KEEPING or token[1] != tag:
            app.effects.discard(app.id, blob)
            return
        self.phase = Phase.REPLICATING
        app.effects.broadcast(app.id, blob)
        self._next = (app.ledger.round + 1, blob, now)
        self._replicate(now)

    def _replicate(self, now: float) -> None:
        if self._next is None:
            return
        app = self.app
        number, blob, since = self._next
        holders = {contact.node_id: contact for contact in app.forest.top_ranked(app.id, RUNNERS_UP)}
        if now >= since + REPLICA_WIDEN_S:
            holders.update({c.contact.node_id: c.contact for c in app.children() if not c.observer})
        if not holders or now >= since + REPLICA_TIMEOUT_S:
            if holders:
                app.count("replica_unanswered")
            self._commit(now)
            return
        message = Replica(app.id, app.ledger.epoch, number, blob, False, app.ledger.history.tail(ROUND_RECORDS))
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
        number, blob, _ = self._next
        self._next = None
        self._memory, self._next_memory = (blob, self._next_memory), ()
        self.attempt = 1
        app.cancel_timer("replicate")
        app.advance(number, blob)
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
