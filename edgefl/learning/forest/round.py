"""What one device holds for the round that is open."""

from __future__ import annotations

from dataclasses import field
from enum import Enum
from typing import TYPE_CHECKING, Any

from edgefl.declared import dataclass
from edgefl.learning.metrics import merge
from edgefl.wire.learning import EVERYBODY, Best, Metric, PaceReport, RoundKind, RoundRecord

if TYPE_CHECKING:
    from edgefl.learning.aggregate import Accumulator
    from edgefl.learning.effects import Tag
    from edgefl.learning.forest.inflow import Stream
    from edgefl.wire import Contact
    from edgefl.wire.blob import BlobRef

REMIND_S, REMIND_MAX_S = 3.0, 60.0
"""Children that have not answered hear of the round again (the first word may have gone into a link that was dead
already), then after twice as long each time: a child that only trains for long is hardly disturbed."""


class RoundState(Enum):
    COLLECTING = "collecting"
    SEALING = "sealing"
    SENDING = "sending"
    CLOSED = "closed"


@dataclass(slots=True)
class OpenRound:
    """One round at one device.

    mine         started by this device as the root
    waiting      children that have been invited and have not delivered
    streams      what comes, or came, from each child
    need         what the application needs of a fleet that it shares; 0: not said
    root         where the heads of zones deliver; None: to their parents
    direct       heads of zones that will deliver to the root itself, as this subtree has said
    guests       those that have come, at the root
    enough       the root waits no longer for anybody once so many devices are in; 0: for all
    own_s        how long a device's own part is waited for; 0: as long as the round is open here
    pushed       the model comes down the tree by itself
    own_pending  this device's own part is waited for, at most until `own_until`
    own_to_come  it trains as soon as the model is here
    own_in       its delta has been handed over
    report       how long the devices of the subtree take, as far as they have said
    """

    tag: Tag
    kind: RoundKind
    model: BlobRef
    records: tuple[RoundRecord, ...]
    started: float
    closes: float
    sum: Accumulator
    mine: bool
    best: Best | None = None
    threshold: int = EVERYBODY
    own_s: float = 0.0
    pushed: bool = True
    need: float = 0.0
    root: Contact | None = None
    direct: set[int] = field(default_factory=set)
    guests: set[int] = field(default_factory=set)
    enough: int = 0
    own_pending: bool = False
    own_to_come: bool = False
    own_in: bool = False
    own_until: float | None = None
    memory_pending: bool = False
    kept_pending: bool = False
    state: RoundState = RoundState.COLLECTING
    model_data: Any = None
    ended: bool = False
    evaluated: int = 0
    waiting: set[int] = field(default_factory=set)
    delivered: set[int] = field(default_factory=set)
    streams: dict[int, Stream] = field(default_factory=dict)
    received_bytes: int = 0
    remind_s: float = REMIND_S
    report: PaceReport = field(default_factory=PaceReport)
    whole_at: float = 0.0

    @property
    def participants(self) -> int:
        """Devices whose part is in: in every chunk of the sum, or in the evaluation."""
        return self.sum.participants if self.kind is RoundKind.TRAIN else self.evaluated

    @property
    def begun(self) -> bool:
        """Whether the children have been told. Of a model that is not pushed they hear when they can fetch it here."""
        return self.pushed or self.model_data is not None

    def complete(self) -> bool:
        if not self.begun:
            return False
        if 0 < self.enough <= self.participants:
            return True
        return not (self.own_pending or self.waiting or (self.mine and self.direct - self.guests - self.delivered))

    def add_metrics(self, *metrics: Metric) -> None:
        self.sum.metrics = merge(self.sum.metrics, metrics)
