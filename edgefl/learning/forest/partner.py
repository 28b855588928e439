"""A forest application as one of several that share this device's training: a `Partner` (learning/together.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgefl.learning.application import Stage
from edgefl.wire.application import AppState
from edgefl.wire.learning import RoundKind

if TYPE_CHECKING:
    from edgefl.learning.forest.application import ForestApplication

HOLD = "hold"
"""The timer of a device that waits for this application's next round."""


class ForestPartner:
    """What `Together` has to know of an application, and how it tells it that it is its turn."""

    def __init__(self, app: ForestApplication) -> None:
        self._app = app

    @property
    def id(self) -> int:
        return self._app.id

    @property
    def live(self) -> bool:
        """Whether it has rounds to come."""
        app, round_ = self._app, self._app.worker.open
        wanted = app.stage is Stage.MEMBER and app.advert.state is AppState.RUNNING and not app.ledger.finished
        return wanted and (round_ is None or round_.kind is RoundKind.TRAIN)

    @property
    def fresh(self) -> bool:
        """Whether a model is here, or on its way, that this device has not begun to train."""
        round_ = self._app.worker.open
        return round_ is not None and self._app.worker.local.may_begin(round_)

    def begin(self, now: float) -> None:
        """Train it. If the round can still take all of it, it may wait for it."""
        worker = self._app.worker
        if worker.open is not None:
            worker.local.begin(worker.open, now)

    def wake(self, at: float) -> None:
        """See that `Together.on_hold_over` is called then."""
        self._app.set_timer(HOLD, at)
