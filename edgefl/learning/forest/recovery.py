"""Where a new root goes on from: the furthest model that any device has reported, and what belongs to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgefl.learning.ledger import Position, position

if TYPE_CHECKING:
    from edgefl.learning.forest.application import ForestApplication
    from edgefl.learning.forest.standings import Standings
    from edgefl.wire.blob import BlobRef
    from edgefl.wire.learning import Standing


def extras_of(report: Standing) -> tuple[int, bool]:
    """How much a device has that belongs to its model."""
    return len(report.state), report.best is not None


def blobs_of(report: Standing) -> tuple[BlobRef, ...]:
    """What a device holds: the model, the strategy's state as of it, the best model so far."""
    best = () if report.best is None else (report.best.model,)
    return (report.model, *report.state, *best)


class PassedOn:
    """What a member has told its parent of the devices below it: only news goes up."""

    def __init__(self, app: ForestApplication) -> None:
        self._app = app
        self._furthest: Position = (0, False, 0)
        self._extras = False

    def is_news(self, report: Standing) -> bool:
        """Whether somebody is further than was said, or holds what this device's own model lacks; it counts as said."""
        ledger = self._app.ledger
        more = extras_of(report) > (len(ledger.state), ledger.best is not None)
        completes = more and not self._extras and report.model == ledger.model
        if not (report.busy or position(report) > max(self._furthest, ledger.position()) or completes):
            return False
        self._furthest = max(self._furthest, position(report))
        self._extras |= report.state != () or report.best is not None
        return True


class Recovery:
    """Chooses among the reports, and knows what has been fetched. `fetched`: of the device whose model is adopted."""

    def __init__(self, app: ForestApplication, standings: Standings) -> None:
        self._app = app
        self._standings = standings
        self.fetched: set[BlobRef] = set()

    def furthest(self) -> Standing | None:
        """Who to go on from: the furthest of those who are further than this device, with what belongs to the model
        (the strategy's state, the best model so far) if possible; or who has more of that for this device's own model;
        or nobody."""
        ledger = self._app.ledger
        model, extras = ledger.model, (len(ledger.state), ledger.best is not None)
        best = self._standings.furthest()
        if best is not None and position(best) > ledger.position():
            model, extras = best.model, extras_of(best)
        else:
            best = None
        complete = [one for one in self._standings if one.model == model and extras_of(one) > extras]
        return max(complete, key=lambda one: (extras_of(one), position(one)), default=best)

    def lacks(self, best: Standing) -> BlobRef | None:
        """The next blob to fetch before this device can go on from there; None when it has them all."""
        held = self._app.ledger.blobs() | self.fetched
        return next((blob for blob in blobs_of(best) if blob not in held), None)

    def adopt(self, best: Standing) -> None:
        """This device is as far as the other now."""
        app = self._app
        app.ledger.epoch = max(app.ledger.epoch, best.epoch)
        better = best.best if app.best.is_better(best.best, app.ledger.best) else None
        app.advance(best.round, best.model, finished=best.finished, state=best.state or None, best=better)

    def discard_rest(self) -> None:
        """What was fetched and is not needed."""
        for blob in self.fetched - self._app.ledger.blobs():
            self._app.effects.discard(self._app.id, blob)
        self.fetched.clear()
