"""The model that a round begins with, on its way to this device; at the end also the best model that there was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgefl.wire.learning import RoundKind

if TYPE_CHECKING:
    from edgefl.learning.effects import Token
    from edgefl.learning.forest.application import ForestApplication
    from edgefl.learning.forest.round import OpenRound
    from edgefl.wire import Contact
    from edgefl.wire.blob import BlobRef

REFETCH_S = 1.0
"""A model that nobody could give is asked for again while the round is open."""


class RoundModels:
    """Of one application's open round."""

    def __init__(self, app: ForestApplication) -> None:
        self._app = app

    def fetch(self, round_: OpenRound, sources: tuple[Contact, ...]) -> None:
        """Get the round's model."""
        self._app.effects.fetch(self._app.id, ("start", round_.tag), round_.model, sources, pushed=round_.pushed)

    def fetch_again(self, round_: OpenRound) -> None:
        """What could not be had a moment ago."""
        parent = self._app.parent
        if round_.model_data is None:
            self.fetch(round_, (parent,) if parent is not None else ())
        elif round_.kind is RoundKind.DONE:
            self._fetch_best(round_)

    def on_fetched(self, round_: OpenRound | None, token: Token, blob: BlobRef, data: Any, now: float) -> bool:
        """Something is here, or could not be had (None). True when the round goes on with it: training can begin, or at
        the end (`ended`) this device has all that it will ever have of the application."""
        app = self._app
        if round_ is None or token[1] != round_.tag:
            if blob not in app.ledger.blobs() and (round_ is None or round_.model != blob):
                app.effects.discard(app.id, blob)
            return False
        if data is None:
            app.count("model_not_fetched")
            app.set_timer("refetch", now + REFETCH_S)
            return False
        if blob != round_.model:
            round_.received_bytes += blob.size
            self._end(round_)
            return True
        if not round_.mine and blob != app.ledger.model:
            round_.received_bytes += blob.size
        round_.model_data = data
        finished = round_.kind is RoundKind.DONE
        app.advance(round_.tag[1] - 1, blob, finished=finished)
        if finished and (round_.best is None or round_.best.model in app.ledger.blobs()):
            self._end(round_)
        elif finished:
            app.effects.save(app.id, app.ledger.progress())
            self._fetch_best(round_)
            return False
        return True

    def _fetch_best(self, round_: OpenRound) -> None:
        """The final model is here; the best one follows it."""
        parent = self._app.parent
        if round_.best is not None:
            sources = (parent,) if parent is not None else ()
            self._app.effects.fetch(self._app.id, ("start", round_.tag), round_.best.model, sources)

    def _end(self, round_: OpenRound) -> None:
        app = self._app
        if app.ledger.model is not None:
            app.advance(app.ledger.round, app.ledger.model, finished=True, best=round_.best)
        round_.ended = True
        app.effects.save(app.id, app.ledger.progress())
