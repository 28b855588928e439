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
    KEEPING      the owner's policy made no model             GATHERING    next attempt, after a pause
    RUNNING      final evaluation closed                      FINISHED
    RUNNING      somebody is further than this root           RECOVERING
    KEEPING      next model and memory have names (blobs)     REPLICATING
    REPLICATING  a runner-up holds it (or none exists)        RUNNING, the next round; or MEMBER, see below
    any          a higher-ranked member is the root           MEMBER; if busy, only at the round's end

Invariants: a round counts as done only when a second device holds its model (if there is a second device), so rounds
never go backwards when one device dies. Every root starts with an epoch above all that it has heard of, saved before it
is used, and members ignore lower epochs (fencing).
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

from edgefl.learning.effects import Token
from edgefl.learning.forest.epoch import next_epoch
from edgefl.learning.forest.gathering import GATHER_S, Gathering
from edgefl.learning.forest.next_model import NextModel
from edgefl.learning.forest.pacing import Pacing
from edgefl.learning.forest.records import record_evaluation, record_training
from edgefl.learning.forest.recovery import PassedOn, Recovery, blobs_of
from edgefl.learning.forest.replication import REPLICA_RESEND_S, Replication
from edgefl.learning.forest.round import OpenRound
from edgefl.learning.forest.selection import Selection
from edgefl.learning.forest.standings import Standings
from edgefl.learning.forest.starting import round_start
from edgefl.learning.ledger import position
from edgefl.learning.policies import parse_policies
from edgefl.wire import Contact
from edgefl.wire.application import AppState
from edgefl.wire.blob import BlobRef
from edgefl.wire.learning import ReplicaAck, RoundKind, Standing

if TYPE_CHECKING:
    from edgefl.learning.forest.application import ForestApplication

RECOVER_S = 1.0
"""A new root listens this long for how far its children are, before it goes on."""

BUSY_REPORT_S = 5.0
"""A dethroned root that still finishes its round says so this often; after three silences its successor goes on."""

MAX_ATTEMPTS = 1000
"""Of one round in one epoch: what their names have room for."""

MAX_EVALUATIONS = 6
"""Attempts at a final evaluation with a quorum: half a minute, longer than two trees of one application live side by
side. Then the application ends with those who are there."""


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
        self._standings = Standings()
        self._recovery = Recovery(app, self._standings)
        self._passed_on = PassedOn(app)
        self._wait_for_busy_until = 0.0
        self._gathering = Gathering(app)
        self._selection = Selection(app)
        self._pacing = Pacing(app)
        self._target_reached = False
        self._replication = Replication(app)
        self.next_model = NextModel(app)
        self._renewing: OpenRound | None = None  # whose sum the owner's policy is working on

    def on_root(self, now: float) -> None:
        self._dethroned = False
        if self.phase is Phase.MEMBER:
            self._recover(now, RECOVER_S)

    def on_parent(self, now: float) -> None:
        """This device has a parent: it is not the root (any more). A round in flight is finished first."""
        self._passed_on = PassedOn(self.app)
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
        self.problem = ""
        self._dethroned = False
        self._replication.drop()
        self._pacing.forget()
        self.next_model.drop()
        self._renewing = None
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
        if not app.credible(message.epoch, message.round, *blobs_of(message)):
            app.count("standing_invalid")
            return
        app.ledger.history.merge(message.records)
        theirs = position(message)
        if self.phase is Phase.MEMBER:
            if app.parent is not None and self._passed_on.is_news(message):
                app.effects.send(app.parent, message)
            return
        before = self._standings.add(message)
        if self.phase is Phase.RECOVERING:
            if message.busy:
                self._wait_for_busy_until = now + 3 * BUSY_REPORT_S
            elif before is not None and before.busy:
                app.set_timer("settle", now)
        elif (message.epoch > app.ledger.epoch or theirs > app.ledger.position()) and not self._own_making(message):
            app.count("root_was_behind")
            app.worker.close_silently()
            self._recover(now, 0.0)

    def on_offer(self) -> None:
        """A child tells what it has of the open round."""
        if self.phase is Phase.RUNNING:
            self._selection.recount()

    def on_child_gone(self, child: int, now: float) -> None:
        """Nobody waits for a dethroned root that has died."""
        standing = self._standings.of(child)
        if standing is not None and standing.busy:
            self._standings.drop(child)
            if self.phase is Phase.RECOVERING:
                self.app.set_timer("settle", now)

    def _own_making(self, message: Standing) -> bool:
        """A runner-up that holds the model which this root is about to commit is not ahead of it."""
        return message.epoch == self.app.ledger.epoch and message.round <= self.app.ledger.round + 1

    def _settle(self, now: float) -> None:
        if self._standings.any_busy() and now < self._wait_for_busy_until:
            self.app.set_timer("settle", min(self._wait_for_busy_until, now + RECOVER_S))
            return
        self._fetch_missing(self._recovery.furthest(), now)

    def _fetch_missing(self, best: Standing | None, now: float) -> None:
        """Get the next blob that this device lacks to go on from there; adopt it all when it lacks none. None: go on
        from what this device has."""
        missing = None if best is None else self._recovery.lacks(best)
        if best is not None and missing is not None:
            self.app.effects.fetch(self.app.id, ("recover", best.holder.node_id), missing, (best.holder,))
            return
        if best is not None:
            self._recovery.adopt(best)
        self._take_over(now)

    def on_recovered(self, token: Token, blob: BlobRef, data: Any, now: float) -> None:
        holder = token[1]
        if holder == "state":
            if self.next_model.on_loaded(token, blob, data) and self.phase is Phase.RECOVERING:
                self._take_over(now)
            return
        best = self._standings.of(holder) if isinstance(holder, int) else None
        if self.phase is not Phase.RECOVERING or best is None or blob not in blobs_of(best):
            if data is not None and blob not in self.app.ledger.blobs():
                self.app.effects.discard(self.app.id, blob)
        elif data is None:
            self.app.count("recovery_failed")
            self._standings.drop(best.holder.node_id)
            self._settle(now)
        else:
            self._recovery.fetched.add(blob)
            self._fetch_missing(best, now)

    def _take_over(self, now: float) -> None:
        app = self.app
        self._recovery.discard_rest()
        if not self.next_model.is_ready():
            return  # until what the strategy remembers is read
        app.ledger.epoch = next_epoch([app.ledger.epoch, app.worker.newest[0], self._standings.epoch], app.me.node_id)
        app.effects.save(app.id, app.ledger.progress())
        self._standings.clear()
        self._replication.drop()
        self.attempt = 1
        if app.ledger.finished:
            self._announce_end(now)
        else:
            self._gather(now)

    def _gather(self, now: float) -> None:
        self.phase = Phase.GATHERING
        self._gathering.begin(now)
        self.app.set_timer("gather", now)

    def on_advert(self, now: float) -> None:
        if self.phase is Phase.GATHERING:
            self.app.set_timer("gather", now)

    def _look_around(self, now: float) -> None:
        ready, problem = self._gathering.look(now)
        self.problem = problem or self.problem
        if ready and self.may_start(now):
            self._start_round(now)
        else:
            self.app.set_timer("gather", now + GATHER_S)

    def _start_round(self, now: float) -> None:
        self.phase = Phase.RUNNING
        self.problem = ""
        self._selection.begin()
        self._begin(RoundKind.EVALUATE if self.is_last() else RoundKind.TRAIN, now)

    def may_start(self, now: float) -> bool:
        """Whether a round may start, as far as the topology is concerned."""
        return True

    def is_last(self) -> bool:
        """Whether nothing is left but to evaluate the model."""
        app = self.app
        stopped = app.advert.state is AppState.STOPPED
        enough = self._target_reached or app.best.exhausted or app.ledger.round >= app.manifest.rounds
        return enough or stopped

    def _begin(self, kind: RoundKind, now: float) -> None:
        start = round_start(self.app, kind, self.attempt, self._pacing, self._selection)
        self.app.worker.begin(start, now, source=None, enough=self._selection.enough)

    def on_closed(self, round_: OpenRound, now: float) -> None:
        """The root's own open round is complete, or its time is over."""
        if self.phase is not Phase.RUNNING:
            return
        self._target_reached |= record_evaluation(self.app, round_.sum.metrics)
        self._pacing.observe(round_.report)
        self._selection.recount()
        participants, quorum, expected = round_.participants, self._selection.quorum, self._selection.expected
        self._selection.observe(participants)
        self.app.need.observe(round_)
        if participants >= quorum:
            self.app.best.on_evaluated(round_.sum.metrics)
        if round_.kind is RoundKind.EVALUATE:
            if participants < quorum and self.attempt < MAX_EVALUATIONS:
                self._try_again(f"{participants} of {expected} devices evaluated it, {quorum} are needed", now)
                return
            self._finish()
            self.attempt += 1
            if self._dethroned:
                self._hand_over()
            else:
                self._announce_end(now)
            return
        if participants < quorum or round_.model_data is None or round_.sum.total is None:
            self._try_again(f"{participants} of {expected} devices delivered, {quorum} are needed", now)
            return
        if not self._selection.present:
            self._try_again(f"too few of the {self._selection.members} devices are here", now)
            return
        if "aggregate" in parse_policies(self.app.manifest.policies):
            self.phase, self._renewing = Phase.KEEPING, round_
            self.next_model.ask_for(round_)
            return
        if not self.next_model.make(round_, min(1.0, participants / self._selection.members)):
            self._try_again("the strategy's step leads to weights that are not finite: lower its lr", now)
            return
        self._record(round_, now)
        self.phase = Phase.KEEPING

    def _record(self, round_: OpenRound, now: float) -> None:
        record_training(self.app, round_, self.attempt, self._selection.members, self._pacing.budget_s, now)

    def _try_again(self, problem: str, now: float) -> None:
        self.app.count("round_failed")
        if self._dethroned:
            self._hand_over()
            return
        self._gathering.pause(self.attempt, now)
        if self.attempt >= MAX_ATTEMPTS:
            self._recover(now, 0.0)  # takes an epoch of its own, and counts from 1 again
            return
        self.attempt += 1
        self._gather(now)
        self.problem = f"round {self.app.ledger.round + 1}: {problem}"

    def on_kept(self, token: Token, blob: BlobRef, now: float) -> None:
        app = self.app
        made = self.next_model.on_kept(token, blob)
        if made is None or self.phase is not Phase.KEEPING:
            return
        if self._renewing is not None:
            self._record(self._renewing, now)
            self._renewing = None
        self.phase = Phase.REPLICATING
        app.effects.broadcast(app.id, made[0])
        self._replication.begin(app.ledger.round + 1, made, now)
        self._replicate(now)

    def on_not_kept(self, token: Token, problem: str, now: float) -> None:
        """The device owner's policy has not made a model: the round is tried again."""
        if self.phase is Phase.KEEPING and self._renewing is not None and token[1] == self._renewing.tag:
            self._renewing = None
            self.next_model.give_up()
            self.app.count("training_failed")
            self._try_again(problem, now)

    def _replicate(self, now: float) -> None:
        if self._replication.send(now):
            self.app.set_timer("replicate", now + REPLICA_RESEND_S)
        else:
            self._commit(now)

    def on_replica_ack(self, sender: Contact, message: ReplicaAck, now: float) -> None:
        self._replication.hear(sender, message)
        if self.phase is Phase.REPLICATING and self._replication.is_answer(sender, message):
            self._commit(now)

    def _commit(self, now: float) -> None:
        """The round is done: nothing that dies alone can take it back."""
        app = self.app
        number, model, state = self._replication.take()
        self.attempt = 1
        app.cancel_timer("replicate")
        app.advance(number, model, state=state)
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
