"""Rounds that the root or a runner-up has no record of, because it came later: filled in as they replicate.

Every RoundStart and every Replica carries the newest two records, so who was there from the beginning has them all. A
Replica says which record the root lacks (the newest of them), and its acknowledgement which one the holder lacks and
what the root was looking for; the next Replica brings what the holder was looking for. So the whole history is on the
root and on its runners-up, FILLED rounds further back with every round, whoever joined when.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgefl.wire.learning import MAX_RECORDS, Replica, ReplicaAck, RoundRecord

if TYPE_CHECKING:
    from edgefl.learning.forest.application import ForestApplication

NEWEST = 2
"""Records in every Replica: the round just done and the one before, completed by its evaluation."""

FILLED = MAX_RECORDS - NEWEST


class Gaps:
    """What this device lacks, and what its runners-up have said that they lack."""

    def __init__(self, app: ForestApplication) -> None:
        self.app = app
        self._told: dict[int, int] = {}

    @property
    def lacks(self) -> int:
        """One more than the newest round without a record below the newest record; 0 when none is missing."""
        return self.app.ledger.history.lacks()

    def records_for(self, holder: int) -> tuple[RoundRecord, ...]:
        """What a Replica brings to this holder."""
        history = self.app.ledger.history
        return history.below(self._told.get(holder, 0), FILLED) + history.tail(NEWEST)

    def acknowledgement(self, message: Replica) -> ReplicaAck:
        """A holder's answer."""
        found = self.app.ledger.history.below(message.lacks, FILLED)
        return ReplicaAck(self.app.id, message.epoch, message.round, self.lacks, found)

    def on_ack(self, holder: int, message: ReplicaAck, asked: set[int]) -> None:
        """A holder has answered: what it knows fills gaps, and replaces nothing."""
        history = self.app.ledger.history
        history.merge(record for record in message.records if history.is_missing(record.round))
        self._told = {node_id: lacks for node_id, lacks in self._told.items() if node_id in asked}
        self._told[holder] = message.lacks
