"""The border of a zone: an application with scope `zone` never puts a byte on a link that leaves its zone.

The overlay keeps its own traffic inside; this keeps the rounds inside, in both directions. Everything an application
sends, asks for or takes in goes through its `Border`; what would cross is not done, and counted with the application's
counters as `refused_foreign_zone`. Only this device and a peer that both stand in the manifest's zone are on a link
inside it: who has moved to another zone is silent, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgefl.learning.effects import LearningEffects, Progress, Token, TrainJob
from edgefl.wire import Contact, Message
from edgefl.wire.application import Manifest
from edgefl.wire.blob import BlobRef
from edgefl.wire.overlay import Scope

if TYPE_CHECKING:
    from random import Random

    import numpy as np
    from numpy.typing import NDArray

    from edgefl.effects import TimerKey


def is_inside(manifest: Manifest, own: Contact, peer: Contact) -> bool:
    """Whether the link between these two may carry what belongs to the application."""
    return manifest.scope is Scope.GLOBAL or own.zone == peer.zone == manifest.zone


class Border:
    """One application's effects, as far as they stay inside: implements `LearningEffects`.

    `own` tells this device's contact, whose zone may change; `refused` is called once for each crossing.
    """

    def __init__(
        self, effects: LearningEffects, manifest: Manifest, own: Callable[[], Contact], refused: Callable[[], None]
    ) -> None:
        self._effects = effects
        self._manifest = manifest
        self._own = own
        self._refused = refused

    def admits(self, peer: Contact) -> bool:
        """Whether this application may deal with the peer; if not, that is counted."""
        inside = is_inside(self._manifest, self._own(), peer)
        if not inside:
            self._refused()
        return inside

    @property
    def random(self) -> Random:
        return self._effects.random

    def send(self, to: Contact, message: Message) -> None:
        if self.admits(to):
            self._effects.send(to, message)

    def send_bulk(self, app: int, to: Contact, message: Message, data: Any) -> None:
        if self.admits(to):
            self._effects.send_bulk(app, to, message, data)

    def prepare(self, app: int, manifest: Manifest, sources: tuple[Contact, ...], *, observer: bool) -> None:
        self._effects.prepare(app, manifest, tuple(filter(self.admits, sources)), observer=observer)

    def subscribe(self, app: int, parent: Contact) -> None:
        if self.admits(parent):
            self._effects.subscribe(app, parent)

    def broadcast(self, app: int, blob: BlobRef) -> None:
        if self.admits(self._own()):  # the children were admitted one by one; have we moved ourselves?
            self._effects.broadcast(app, blob)

    def fetch(
        self, app: int, token: Token, blob: BlobRef, sources: tuple[Contact, ...], *, pushed: bool = False
    ) -> None:
        self._effects.fetch(app, token, blob, tuple(filter(self.admits, sources)), pushed=pushed)

    # What stays on this device

    def set_timer(self, key: TimerKey, at: float) -> None:
        self._effects.set_timer(key, at)

    def cancel_timer(self, key: TimerKey) -> None:
        self._effects.cancel_timer(key)

    def release(self, app: int) -> None:
        self._effects.release(app)

    def unsubscribe(self, app: int) -> None:
        self._effects.unsubscribe(app)

    def keep(self, app: int, token: Token, data: Any) -> None:
        self._effects.keep(app, token, data)

    def renew(self, app: int, token: Token, start: BlobRef, model: Any, mean: NDArray[np.float32]) -> None:
        self._effects.renew(app, token, start, model, mean)

    def discard(self, app: int, blob: BlobRef) -> None:
        self._effects.discard(app, blob)

    def train(self, app: int, job: TrainJob) -> None:
        self._effects.train(app, job)

    def uplink_bytes_s(self) -> float | None:
        return self._effects.uplink_bytes_s()

    def remember(self, app: int, data: Any, name: str = "feedback") -> None:
        self._effects.remember(app, data, name)

    def recall(self, app: int, token: Token) -> None:
        self._effects.recall(app, token)

    def save(self, app: int, progress: Progress) -> None:
        self._effects.save(app, progress)
