"""A forest application: every round runs once up and once down the application's tree.

worker.py       a member's part of a round (every device, the root too)
replicas.py     holding the newest model for the root
coordinator.py  the root's part: start rounds, make the next model, replicate it, hand over
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from edgefl.learning.application import Application, Forest
from edgefl.learning.effects import LearningEffects, Progress, TrainResult
from edgefl.learning.encoding import open_encoding
from edgefl.learning.forest.best import BestModel
from edgefl.learning.forest.coordinator import Coordinator
from edgefl.learning.forest.epoch import plausible
from edgefl.learning.forest.feedback import Feedback
from edgefl.learning.forest.gaps import Gaps
from edgefl.learning.forest.kept import KEPT, Kept
from edgefl.learning.forest.need import Need
from edgefl.learning.forest.objections import Objections
from edgefl.learning.forest.partner import HOLD, ForestPartner
from edgefl.learning.forest.replicas import Replicas
from edgefl.learning.forest.worker import Worker
from edgefl.learning.forest.zones import STEPS, ZonePart, ZoneRounds
from edgefl.learning.manifest import travelling
from edgefl.wire import Contact, Message
from edgefl.wire.application import Advert
from edgefl.wire.blob import FLOAT_BYTES, BlobRef
from edgefl.wire.learning import (
    Replica,
    ReplicaAck,
    RoundStart,
    Standing,
    Update,
    UpdateAck,
    UpdateChunk,
    UpdateGet,
)

if TYPE_CHECKING:
    from edgefl.learning.effects import Tag, Token
    from edgefl.learning.together import Together


class ForestApplication(Application):
    """The topology `forest`."""

    TIMERS: ClassVar[tuple[str, ...]] = (*Worker.TIMERS, *Coordinator.TIMERS, *ZoneRounds.TIMERS, HOLD)

    def __init__(
        self,
        advert: Advert,
        forest: Forest,
        effects: LearningEffects,
        *,
        observer: bool,
        owner: bool,
        helper: bool = False,
        progress: Progress | None = None,
    ) -> None:
        super().__init__(advert, forest, effects, observer=observer, owner=owner, helper=helper, progress=progress)
        self.encoding = open_encoding(self.manifest.compress, self.manifest.seed)
        self.travelling = travelling(self.manifest)
        """float32 values in the vector that travels."""
        self.feedback = Feedback(self)
        self.kept = Kept(self)
        self.objections = Objections(self)
        self.best = BestModel(self)
        self.need = Need(self)
        self.worker = Worker(self)
        self.gaps = Gaps(self)
        self.replicas = Replicas(self)
        self.coordinator = Coordinator(self)
        self.zones = ZoneRounds(self) if self.manifest.zone_rounds > 1 else None
        if self.zones is not None:
            self.worker.local = ZonePart(self, self.zones)

    @property
    def phase(self) -> str:
        return self.coordinator.phase.value

    @property
    def problem(self) -> str:
        return self.coordinator.problem

    def credible(self, epoch: int, round_: int, *blobs: BlobRef) -> bool:
        """Whether a peer's word about a model, and what belongs to it, can be true: size, round, epoch."""
        fits = all(blob.size == self.travelling * FLOAT_BYTES for blob in blobs)
        return fits and round_ <= self.manifest.rounds and plausible(epoch, self.ledger.epoch)

    def pushes(self, tag: Tag) -> bool:
        """Whether the model of a round comes down the tree by itself."""
        return True

    def _worker_of(self, attempt: object) -> Worker:
        """Which rounds a message or an answer is about: the global ones, or the steps of this device's zone."""
        in_zone = self.zones is not None and isinstance(attempt, int) and attempt % STEPS > 0
        return self.zones.worker if self.zones is not None and in_zone else self.worker

    def standing(self, *, busy: bool = False) -> Standing | None:
        """This device's own Standing; None while it holds no model."""
        ledger = self.ledger
        if ledger.model is None:
            return None
        return Standing(
            self.id,
            ledger.epoch,
            ledger.round,
            ledger.model,
            self.me,
            busy,
            ledger.finished,
            ledger.history.tail(2),
            ledger.state,
            ledger.best,
        )

    def on_state(self, now: float) -> None:
        self.coordinator.on_advert(now)

    def on_rooted(self, now: float) -> None:
        self.coordinator.on_root(now)

    def on_attached(self, now: float) -> None:
        self.coordinator.on_parent(now)
        self.worker.on_parent(now)
        if self.zones is not None:
            self.zones.on_attached(now)

    def on_child(self, child: Contact, observer: bool, now: float) -> None:
        self.worker.on_child(child, observer, now)
        if self.zones is not None:
            self.zones.on_child(child, observer, now)

    def on_child_gone(self, child: int, now: float) -> None:
        self.worker.on_child_gone(child, now)
        if self.zones is not None:
            self.zones.worker.on_child_gone(child, now)
        self.coordinator.on_child_gone(child, now)

    def on_admitted(self, sender: Contact, message: Message, now: float) -> None:
        worker = self._worker_of(getattr(message, "attempt", 0))
        if isinstance(message, RoundStart):
            (self.worker if self.zones is None or worker is self.worker else self.zones).on_round_start(
                sender, message, now
            )
        elif isinstance(message, Update):
            self.coordinator.on_offer()
            worker.on_update(sender, message, now)
        elif isinstance(message, UpdateGet):
            worker.on_update_get(sender, message, now)
        elif isinstance(message, UpdateAck):
            worker.on_update_ack(sender, message, now)
        elif isinstance(message, Standing):
            self.coordinator.on_standing(sender, message, now)
        elif isinstance(message, Replica):
            self.replicas.on_replica(sender, message, now)
        elif isinstance(message, ReplicaAck):
            self.coordinator.on_replica_ack(sender, message, now)

    def on_bulk(self, sender: Contact, message: Message, data: Any, now: float) -> None:
        if isinstance(message, UpdateChunk) and self.effects.admits(sender):
            self._worker_of(message.attempt).on_chunk(sender, message, data, now)

    def share_with(self, together: Together) -> None:
        super().share_with(together)
        together.enter(ForestPartner(self))

    def on_alarm(self, name: str, now: float) -> None:
        if name == HOLD:
            if self.together is not None:
                self.together.on_hold_over(self.id, now)
        elif name in Worker.TIMERS:
            self.worker.on_timer(name, now)
        elif name in ZoneRounds.TIMERS:
            if self.zones is not None:
                self.zones.on_timer(name, now)
        else:
            self.coordinator.on_timer(name, now)

    def on_trained(self, tag: Tag, result: TrainResult | None, now: float) -> None:
        self._worker_of(tag[2]).on_trained(tag, result, now)

    def on_fetched(self, token: Token, blob: BlobRef, data: Any, now: float) -> None:
        if token[0] == "recover":
            self.coordinator.on_recovered(token, blob, data, now)
        elif token[0] == "replica":
            self.replicas.on_data(token, blob, data, now)
        else:
            tag = token[1]
            worker = self._worker_of(tag[2]) if isinstance(tag, tuple) else self.worker
            worker.on_fetched(token, blob, data, now)

    def on_recalled(self, token: Token, data: Any, now: float) -> None:
        tag = token[1]
        if isinstance(tag, tuple):
            (self.worker.on_kept_recalled if token[0] == KEPT else self.worker.on_recalled)(tag, data, now)

    def on_kept(self, token: Token, blob: BlobRef, now: float) -> None:
        if token[0] == "zone" and self.zones is not None:
            self.zones.on_kept(token, blob, now)
        else:
            self.coordinator.on_kept(token, blob, now)

    def on_not_kept(self, token: Token, problem: str, now: float) -> None:
        self.coordinator.on_not_kept(token, problem, now)
