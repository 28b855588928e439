"""A member that is further than its root says so, instead of going back; but not for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgefl.wire import Contact
from edgefl.wire.learning import RoundKind, RoundStart

if TYPE_CHECKING:
    from edgefl.learning.forest.application import ForestApplication

MAX_OBJECTIONS = 3
"""How often a device tells one root that it holds a later model, before it follows: the model may be out of reach."""


class Objections:
    """What one device has told the root of an epoch about being behind."""

    def __init__(self, app: ForestApplication) -> None:
        self.app = app
        self._told = (0, 0)  # epoch of the root, how often

    def apply_to(self, message: RoundStart) -> bool:
        """Whether the round would start from an earlier model than this device holds."""
        ledger, from_model = self.app.ledger, message.round - 1
        ended = ledger.finished and message.kind is RoundKind.TRAIN
        return from_model < ledger.round or (from_model == ledger.round and ended)

    def may_raise(self, epoch: int) -> bool:
        """Whether the root of this epoch may be told once more."""
        told, times = self._told
        times = times + 1 if told == epoch else 1
        self._told = (epoch, times)
        self.app.count("round_backwards")
        return times <= MAX_OBJECTIONS

    def raise_to(self, peer: Contact) -> None:
        """Let the root know how far this device is: it goes on from there, in a higher epoch."""
        standing = self.app.standing()
        if standing is not None:
            self.app.effects.send(peer, standing)
