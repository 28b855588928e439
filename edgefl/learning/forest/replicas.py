"""A member's side of replication: hold the newest model for the root, so that a round outlives it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgefl.learning.forest.epoch import made_by
from edgefl.wire import Contact
from edgefl.wire.learning import Replica, ReplicaAck

if TYPE_CHECKING:
    from edgefl.learning.effects import Token
    from edgefl.learning.forest.application import ForestApplication
    from edgefl.wire.blob import BlobRef


class Replicas:
    """Takes the replicas that this device is asked to hold."""

    def __init__(self, app: ForestApplication) -> None:
        self.app = app

    def on_replica(self, sender: Contact, message: Replica, now: float) -> None:
        """The root wants this device to hold its newest model."""
        app, tree = self.app, self.app.tree
        # A dethroned root that finishes its round is no longer the root of the tree, but still that of the epoch.
        finishes = message.epoch == app.worker.newest[0] and made_by(message.epoch, sender.node_id)
        if not app.trains or tree is None or not (sender.node_id == tree.root or finishes):
            app.count("replica_not_from_root")
            return
        if message.epoch < app.ledger.epoch or not app.credible(message.epoch, message.round, message.model):
            app.count("replica_fenced")
            return
        if message.round < app.ledger.round and app.objections.may_raise(message.epoch):
            app.objections.raise_to(sender)
            return
        app.effects.fetch(app.id, ("replica", sender, message), message.model, (sender,), pushed=True)

    def on_data(self, token: Token, blob: BlobRef, data: Any, now: float) -> None:
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
