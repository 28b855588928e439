"""What a device of a consensus application asks of whoever runs it, and what it tells."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from edgefl.learning.effects import TrainResult
    from edgefl.wire import Contact
    from edgefl.wire.blob import BlobRef


class Stage(Enum):
    """Where a device is in its cycle."""

    WAITING = "waiting"
    SYNC = "agreeing on a start"
    TRAIN = "training"
    MIX = "mixing"
    PAUSED = "paused"
    DONE = "done"


class Neighbours(Protocol):
    """Who exchanges with this device in a round: to whom it sends, from whom it waits for a model, and whether a model
    of that round may come from a device at all. `lost`: it knows none of the others now, and slows down, so that it
    does not run away from them."""

    @property
    def lost(self) -> bool: ...

    def outgoing(self, round_: int) -> tuple[Contact, ...]: ...
    def incoming(self, round_: int) -> tuple[Contact, ...]: ...
    def expects(self, node_id: int, round_: int) -> bool: ...


class Listener:
    """Whom a device tells how far it is; does nothing by itself."""

    def on_model(self, round_: int, blob: BlobRef, now: float) -> None:
        """The model after `round_` rounds has a name."""

    def on_round(self, round_: int, result: TrainResult, now: float) -> None:
        """Local training of this round is over; its metrics describe the model before."""

    def on_done(self, now: float) -> None:
        """The last round is over."""
