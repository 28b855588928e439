"""The close watch on trees in which a round is open: who falls silent is noticed in seconds.

Regular heartbeats are rare (forest.py): a device that is cut off from its power is missed after 17 s, and that is soon
enough while nothing is due. While a round is open, models and updates are due all the time. Then a device asks its
parent as soon as it has heard nothing from it for `watch_s`, and looks after its spare parents. A parent need not ask:
its children do, and their questions tell that they are alive; only if those stop, it asks, too. Whatever the number of
trees that two devices share, they ask each other once.

A slow device is no dead one: it has `watch_timeout_s` to answer, then it is suspected and asked twice more
(liveness.py), and who has been slow itself waits for longer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgefl.overlay.device import Device
from edgefl.overlay.liveness import Liveness
from edgefl.overlay.requests import Requests

if TYPE_CHECKING:
    from edgefl.effects import TimerKey
    from edgefl.overlay.rank_tree import RankTree

CLOSE: TimerKey = ("tree", "close")

CHILD_PATIENCE = 2.5
"""Times watch_s: a child that has just heard from us asks after one, and its question needs time to arrive."""

LEAST_WAIT = 0.1
"""Times watch_s: the least time between two looks, so that many neighbours do not keep us busy."""


class Watch:
    """The trees of one device in which a round is open, and until when."""

    __slots__ = ("_device", "_liveness", "_requests", "_until")

    def __init__(self, device: Device, liveness: Liveness, requests: Requests) -> None:
        self._device = device
        self._liveness = liveness
        self._requests = requests
        self._until: dict[int, tuple[RankTree, float]] = {}

    def __len__(self) -> int:
        return len(self._until)

    def set(self, tree: RankTree, until: float, now: float) -> None:
        """Watch the tree until then; a time that has passed ends it."""
        if until <= now:
            self.end(tree.app)
            return
        idle = not self._until
        self._until[tree.app] = (tree, until)
        if idle:
            self._look_again(now + self._device.profile.watch_s * self._device.random.random())

    def end(self, app: int) -> None:
        self._until.pop(app, None)
        if not self._until:
            self._device.effects.cancel_timer(CLOSE)

    def on_timer(self, now: float) -> None:
        """Ask those that are silent; look again when the next one may be."""
        for app in [app for app, (_, until) in self._until.items() if until <= now]:
            self.end(app)
        if not self._until:
            return
        watch_s = self._device.profile.watch_s
        stretch_s = self._requests.stretch_s(now)
        patience: dict[int, float] = {}
        for tree, _ in self._until.values():
            for child in tree.children:
                patience.setdefault(child.contact.node_id, CHILD_PATIENCE * watch_s + stretch_s)
            if tree.parent is not None:
                patience[tree.parent.node_id] = watch_s + stretch_s
            tree.refresh_spares(now)
        wake_at = now + watch_s
        for node_id, patience_s in patience.items():
            peer = self._liveness.peers.get(node_id)
            if peer is None or self._liveness.is_in_doubt(peer):
                continue
            if now - peer.heard_at < patience_s:
                wake_at = min(wake_at, peer.heard_at + patience_s)
            else:
                timeout_s = max(self._device.profile.watch_timeout_s, self._liveness.timeout_s(node_id, now))
                self._liveness.probe(peer, now, timeout_s=timeout_s)
        self._look_again(max(wake_at, now + LEAST_WAIT * watch_s))

    def _look_again(self, at: float) -> None:
        self._device.set_timer(CLOSE, at)
