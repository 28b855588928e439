"""When a root may start a round: its owner wants it, there are members enough, and their number has settled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgefl.wire.application import AppState

if TYPE_CHECKING:
    from edgefl.learning.forest.application import ForestApplication

SETTLE_S = 1.0
"""The first round starts when the number of members has not changed for this long."""

GATHER_S = 0.25
"""How often a gathering root looks at the number of its members."""

RETRY_MIN_S, RETRY_MAX_S = 1.0, 60.0
"""Pause before a round is tried again; doubles from attempt to attempt."""


class Gathering:
    """A root between two rounds."""

    def __init__(self, app: ForestApplication) -> None:
        self._app = app
        self._members, self._since = 0, 0.0  # how many, and since when
        self._not_before = 0.0

    def begin(self, now: float) -> None:
        self._members, self._since = 0, now

    def pause(self, attempt: int, now: float) -> None:
        """An attempt has failed: not at once again."""
        self._not_before = now + min(RETRY_MAX_S, RETRY_MIN_S * 2 ** min(attempt - 1, 10))

    def look(self, now: float) -> tuple[bool, str]:
        """Whether a round may start now, and what it is that people should know if not."""
        app = self._app
        tree = app.tree
        members = tree.members if tree is not None else 1
        if members != self._members:
            self._members, self._since = members, now
        stopping = app.advert.state is AppState.STOPPED
        if app.advert.state is AppState.PAUSED:
            return False, "paused by its owner"
        if members < app.manifest.min_members and not app.ledger.round and not stopping:
            return False, f"waiting for members: {members} of {app.manifest.min_members}"
        return now >= self._not_before and (now - self._since >= SETTLE_S or stopping), ""
