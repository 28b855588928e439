"""How much time the root gives a round: what a share of the devices was seen to need, never more than the deadline.

Devices report how long they take with their updates (durations.py); one that has not finished reports twice as long as
it has been at it, so that a limit which was too tight for many devices doubles until they are inside it.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING

from edgefl.learning.forest.durations import quantile
from edgefl.learning.pace import Sync, parse_pace

if TYPE_CHECKING:
    from edgefl.learning.forest.application import ForestApplication
    from edgefl.wire.learning import PaceReport

KEPT = 0.5
"""What a round's durations count for in the next one: five rounds of memory."""

MAX_DOUBLINGS = 10


class Pacing:
    """The root's memory of how long devices take: at most MAX_DURATIONS numbers."""

    def __init__(self, app: ForestApplication) -> None:
        self._app = app
        self._pace = parse_pace(app.manifest.pace)
        self._durations: list[float] = []
        self.budget_s = app.manifest.deadline_s
        """What the newest round was given."""
        self.own_s = 0.0
        """And each device in it for its own part; 0: all of it."""

    def observe(self, report: PaceReport) -> None:
        """A round is over, and these were the devices."""
        pairs = zip_longest(self._durations, report.durations, fillvalue=0)
        self._durations = [KEPT * old + new for old, new in pairs]

    def forget(self) -> None:
        """Another device is the root."""
        self._durations = []

    def allot(self, attempt: int) -> None:
        """Time for the next round. Each level of the tree gets one share of it, and a share is what a device needs; an
        attempt gets twice as long as the one that failed."""
        app, pace = self._app, self._pace
        self.budget_s, self.own_s = app.manifest.deadline_s, 0.0
        if not isinstance(pace, Sync):
            tree = app.tree
            levels = 1 + (tree.height if tree is not None else 0)
            needed_s = quantile(self._durations, pace.share)
            if needed_s is not None:
                budget_s = levels * max(pace.floor, pace.slack * needed_s)
            else:
                # A new root goes on at the pace of the one before.
                record = app.ledger.history.get(app.ledger.round)
                budget_s = record.budget_s if record is not None and record.budget_s > 0 else self.budget_s
            self.budget_s = min(self.budget_s, budget_s * 2 ** min(attempt - 1, MAX_DOUBLINGS))
            self.own_s = self.budget_s / levels
