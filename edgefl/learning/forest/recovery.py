"""Where a new root goes on from: the furthest model that any device has reported, and what belongs to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgefl.learning.ledger import position

if TYPE_CHECKING:
    from edgefl.learning.forest.application import ForestApplication
    from edgefl.learning.forest.standings import Standings
    from edgefl.wire.blob import BlobRef
    from edgefl.wire.learning import Standing


class Recovery:
    """Chooses among the reports, and knows what has been fetched. `fetched`: of the device whose model is adopted."""

    def __init__(self, app: ForestApplication, standings: Standings) -> None:
        self._app = app
        self._standings = standings
        self.fetched: set[BlobRef] = set()

    def furthest(self) -> Standing | None:
        """Who to go on from: the furthest of those who are further than this device, with the strategy's state if
        possible; or who has the state that belongs to this device's own model; or nobody."""
        ledger = self._app.ledger
        model = ledger.model
        best = self._standings.furthest()
        if best is not None and position(best) > ledger.position():
            model = best.model
        elif ledger.state:
            return None
        else:
            best = None
        complete = [standing for standing in self._standings if standing.model == model and standing.state]
        return max(complete, key=position, default=best)

    def lacks(self, best: Standing) -> BlobRef | None:
        """The next blob to fetch before this device can go on from there; None when it has them all."""
        held = self._app.ledger.blobs() | self.fetched
        return next((blob for blob in (best.model, *best.state) if blob not in held), None)

    def adopt(self, best: Standing) -> None:
        """This device is as far as the other now."""
        ledger = self._app.ledger
        ledger.epoch = max(ledger.epoch, best.epoch)
        self._app.advance(best.round, best.model, finished=best.finished, state=best.state)

    def discard_rest(self) -> None:
        """What was fetched and is not needed."""
        for blob in self.fetched - self._app.ledger.blobs():
            self._app.effects.discard(self._app.id, blob)
        self.fetched.clear()
