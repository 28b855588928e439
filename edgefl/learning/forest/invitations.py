"""Children hear of the round that is open: at once, and again while nothing has come of them.

Deadlines need no clock but the own one: a device with height h gives its children h / (h + 1) of the time that it has
left itself, so a leaf's share is what remains after one share for each level above it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgefl.learning.forest.round import REMIND_MAX_S, OpenRound
from edgefl.wire import Contact
from edgefl.wire.learning import RoundKind, RoundStart

if TYPE_CHECKING:
    from edgefl.learning.forest.application import ForestApplication


class Invitations:
    """Of one application's open round."""

    def __init__(self, app: ForestApplication) -> None:
        self._app = app

    def send(self, round_: OpenRound, child: Contact, observer: bool, now: float) -> None:
        """Tell a child of the round, and wait for it; nobody waits for an observer before the end."""
        if not observer or round_.kind is RoundKind.DONE:
            round_.waiting.add(child.node_id)
            self._app.set_timer("remind", now + round_.remind_s)
        self._send(round_, child, now)

    def send_all(self, round_: OpenRound, now: float) -> None:
        """Tell all children."""
        for child in self._app.children():
            self.send(round_, child.contact, child.observer, now)

    def remind(self, round_: OpenRound, now: float) -> None:
        """Tell the children that are still waited for, and of whom nothing has come, once more; and those whose chunks
        have a gap: they begin again with the first one that is missing."""
        for child in self._app.children():
            node_id = child.contact.node_id
            stream = round_.streams.get(node_id)
            if node_id in round_.waiting and (stream is None or stream.ahead):
                self._send(round_, child.contact, now)
        if round_.waiting:
            round_.remind_s = min(2 * round_.remind_s, REMIND_MAX_S)
            self._app.set_timer("remind", now + round_.remind_s)

    def _send(self, round_: OpenRound, child: Contact, now: float) -> None:
        tree = self._app.tree
        height = max(1, tree.height) if tree is not None else 1
        share_s = max(0.0, round_.closes - now) * height / (height + 1)
        epoch, number, attempt = round_.tag
        message = RoundStart(
            self._app.id,
            epoch,
            number,
            attempt,
            round_.kind,
            round_.model,
            share_s,
            round_.records,
            round_.threshold,
            round_.own_s,
            round_.best,
            round_.need,
            round_.root,
        )
        self._app.effects.send(child, message)
