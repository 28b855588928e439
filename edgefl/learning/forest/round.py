"""What one device holds for the round that is open."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from edgefl.learning.metrics import merge
from edgefl.wire.learning import Best, Metric, RoundKind, RoundRecord

if TYPE_CHECKING:
    from edgefl.learning.aggregate import Accumulator
    from edgefl.learning.effects import Tag
    from edgefl.learning.forest.inflow import Stream
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

    mine      started by this device as the root
    waiting   children that have been invited and have not delivered
    streams   what comes, or came, from each child
    """

    tag: Tag
    kind: RoundKind
    model: BlobRef
    records: tuple[RoundRecord, ...]
    started: float
    closes: float
    sum: Accumulator
    mine: bool
    own_pending: bool
    best: Best | None = None
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

    @property
    def participants(self) -> int:
        """Devices whose part is in: in every chunk of the sum, or in the evaluation."""
        return self.sum.participants if self.kind is RoundKind.TRAIN else self.evaluated

    def complete(self) -> bool:
        return not (self.own_pending or self.waiting)

    def add_metrics(self, *metrics: Metric) -> None:
        self.sum.metrics = merge(self.sum.metrics, metrics)
