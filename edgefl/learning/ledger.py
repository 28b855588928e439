"""How far an application has come, as far as one device knows, and which of two devices has come further."""

from __future__ import annotations

from dataclasses import field

from edgefl.declared import dataclass
from edgefl.learning.effects import Progress
from edgefl.learning.history import History
from edgefl.wire.blob import BlobRef
from edgefl.wire.learning import Best, Standing

Position = tuple[int, bool, int]


def position(report: Ledger | Standing) -> Position:
    """Orders how far devices have come: rounds count first, so that a part of the fleet that was cut off and has ended
    there cannot end the rest; then whether it has finished; then the epoch."""
    return (report.round, report.finished, report.epoch)


@dataclass(slots=True)
class Ledger:
    """How far the application has come, as far as this device knows. Invariant: all blobs named here are held here.

    state   what the strategy remembers as of `model`; at the root and its runners-up, () elsewhere
    best    the best model so far, at the root and its runners-up, if the application wants it kept
    """

    epoch: int = 0
    round: int = 0
    model: BlobRef | None = None
    finished: bool = False
    history: History = field(default_factory=History)
    state: tuple[BlobRef, ...] = ()
    best: Best | None = None

    def progress(self) -> Progress:
        """What must survive a power cut. Only once a model is held."""
        if self.model is None:
            raise ValueError("no model yet")
        records = self.history.all()
        return Progress(self.epoch, self.round, self.model, self.finished, records, self.state, self.best)

    def blobs(self) -> frozenset[BlobRef]:
        """Every blob named here."""
        best = () if self.best is None else (self.best.model,)
        model = () if self.model is None else (self.model,)
        return frozenset((*model, *self.state, *best))

    def position(self) -> Position:
        """How far this device has come."""
        return position(self)
