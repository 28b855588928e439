"""The root's newest model on its way to a second device: until one has it, the round does not count as done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgefl.wire.learning import Replica, ReplicaAck

if TYPE_CHECKING:
    from edgefl.learning.forest.application import ForestApplication
    from edgefl.wire import Contact
    from edgefl.wire.blob import BlobRef

RUNNERS_UP = 2

REPLICA_RESEND_S = 1.0
REPLICA_WIDEN_S = 2.0
"""Runners-up that are silent for this long may be dead without anybody knowing yet: the children are asked as well."""

REPLICA_TIMEOUT_S = 10.0
"""A root whose runners-up do not answer for this long goes on alone, and counts it."""

ROUND_RECORDS = 2
"""Records in each RoundStart: the round just done and the one before, completed by its evaluation."""


class Replication:
    """The model, and what the strategy remembers with it, that shall be committed."""

    def __init__(self, app: ForestApplication) -> None:
        self._app = app
        self._next: tuple[int, tuple[BlobRef, ...], float] | None = None  # round, model and state, since when
        self._asked: set[int] = set()

    def begin(self, number: int, blobs: tuple[BlobRef, ...], now: float) -> None:
        self._next = (number, blobs, now)

    def send(self, now: float) -> bool:
        """Ask the runners-up to hold it. False when there is nobody to ask, or nobody answers."""
        app = self._app
        if self._next is None:
            raise ValueError("nothing to replicate")
        number, (model, *state), since = self._next
        holders = {contact.node_id: contact for contact in app.forest.top_ranked(app.id, RUNNERS_UP)}
        if now >= since + REPLICA_WIDEN_S:
            holders.update({c.contact.node_id: c.contact for c in app.children() if not c.observer})
        if not holders or now >= since + REPLICA_TIMEOUT_S:
            if holders:
                app.count("replica_unanswered")
            return False
        epoch, best, lacks = app.ledger.epoch, app.ledger.best, app.gaps.lacks
        self._asked = set(holders)
        for node_id, contact in holders.items():
            records = app.gaps.records_for(node_id)
            app.effects.send(contact, Replica(app.id, epoch, number, model, False, records, tuple(state), best, lacks))
        return True

    def hear(self, sender: Contact, message: ReplicaAck) -> None:
        """What one of those that were asked knows of earlier rounds, whether the round waits for it or not."""
        if sender.node_id in self._asked and message.epoch == self._app.ledger.epoch:
            self._app.gaps.on_ack(sender.node_id, message, self._asked)

    def is_answer(self, sender: Contact, message: ReplicaAck) -> bool:
        """Whether one of those that were asked holds it."""
        if self._next is None or sender.node_id not in self._asked:
            return False
        return (message.epoch, message.round) == (self._app.ledger.epoch, self._next[0])

    def take(self) -> tuple[int, BlobRef, tuple[BlobRef, ...]]:
        """(round, model, state) to commit now."""
        if self._next is None:
            raise ValueError("nothing to commit")
        (number, (model, *state), _), self._next = self._next, None
        return number, model, tuple(state)

    def drop(self) -> None:
        """This device is the root no more, or begins afresh."""
        self._next = None
