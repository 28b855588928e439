"""A member's side of replication: hold for the root what the next round needs, so that a round outlives it.

That is the newest model, what the strategy remembers with it, and the best model so far where it is kept. One blob
after the other is fetched from the root; only with all of them does the device move on, and acknowledge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgefl.learning.forest.epoch import made_by
from edgefl.wire import Contact
from edgefl.wire.learning import Replica

if TYPE_CHECKING:
    from edgefl.learning.effects import Token
    from edgefl.learning.forest.application import ForestApplication
    from edgefl.wire.blob import BlobRef


def blobs_of(message: Replica) -> tuple[BlobRef, ...]:
    """Every blob that a replica names, the model first."""
    best = () if message.best is None else (message.best.model,)
    return (message.model, *message.state, *best)


class Replicas:
    """Takes the replicas that this device is asked to hold, one at a time."""

    def __init__(self, app: ForestApplication) -> None:
        self.app = app
        self._taking: Replica | None = None
        self._taken: set[BlobRef] = set()

    def on_replica(self, sender: Contact, message: Replica, now: float) -> None:
        """The root wants this device to hold its newest model."""
        app, tree = self.app, self.app.tree
        # A dethroned root that finishes its round is no longer the root of the tree, but still that of the epoch.
        finishes = message.epoch == app.worker.newest[0] and made_by(message.epoch, sender.node_id)
        if not app.trains or tree is None or not (sender.node_id == tree.root or finishes):
            app.count("replica_not_from_root")
            return
        if message.epoch < app.ledger.epoch or not app.credible(message.epoch, message.round, *blobs_of(message)):
            app.count("replica_fenced")
            return
        if message.round < app.ledger.round and app.objections.may_raise(message.epoch):
            app.objections.raise_to(sender)
            return
        if message != self._taking:  # else it is on its way
            self._taking = message
            self._fetch(sender, message, message.model)

    def _fetch(self, sender: Contact, message: Replica, blob: BlobRef) -> None:
        pushed = blob == message.model  # the rest is for those who are asked to hold it alone
        self.app.effects.fetch(self.app.id, ("replica", sender, message), blob, (sender,), pushed=pushed)

    def on_data(self, token: Token, blob: BlobRef, data: Any, now: float) -> None:
        app = self.app
        sender, message = token[1], token[2]
        if not isinstance(sender, Contact) or not isinstance(message, Replica):
            return
        if data is not None:
            self._taken.add(blob)
        if message != self._taking:
            self._let_go()
            return
        if data is None:
            app.count("replica_not_fetched")
            self._taking = None
            self._let_go()
            return
        held = app.ledger.blobs() | self._taken
        missing = [wanted for wanted in blobs_of(message) if wanted not in held]
        if missing:
            self._fetch(sender, message, missing[0])
            return
        self._taking = None
        ledger = app.ledger
        ledger.history.merge(message.records)
        late = ledger.finished and message.round == ledger.round  # sent before the end, which it does not undo
        if (message.epoch, message.round) >= (ledger.epoch, ledger.round) and not late:
            ledger.epoch = message.epoch
            app.advance(message.round, message.model, finished=message.finished, state=message.state, best=message.best)
            app.effects.save(app.id, ledger.progress())
        self._let_go()
        app.effects.send(sender, app.gaps.acknowledgement(message))

    def _let_go(self) -> None:
        """Forget what was fetched and is not needed (any more)."""
        wanted = self.app.ledger.blobs() | set(() if self._taking is None else blobs_of(self._taking))
        for blob in self._taken - wanted:
            self.app.effects.discard(self.app.id, blob)
        self._taken &= set(() if self._taking is None else blobs_of(self._taking))
