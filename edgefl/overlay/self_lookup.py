"""How a device that has joined goes on looking itself up, to find whom it does not know and who does not know it.

Theory of operation. Two others are asked who is nearest to our own id: one beside us in the rings, whose neighbours are
ours, and one anywhere, who may know a part of the fleet that our neighbours do not. (A leaf, which has no place in a
ring, asks one anywhere and one of its doors, and only as long as it has not all of them.) That happens after 5, 15,
60 .. 1800 s, as most is missing in the first minutes; something that changes near us starts the series again.
"""

from __future__ import annotations

from collections.abc import Callable, ValuesView
from typing import TYPE_CHECKING

from edgefl.overlay.device import Device
from edgefl.overlay.doors import MAX_DOORS, Doors
from edgefl.overlay.liveness import Peer
from edgefl.overlay.rings import Rings
from edgefl.overlay.search import RowQueries
from edgefl.wire.contact import Contact
from edgefl.wire.overlay import Rows

if TYPE_CHECKING:
    from edgefl.effects import TimerKey

SELF_JOIN: TimerKey = ("membership", "self")


class SelfLookup:
    """`members`: all who have a place in our tables; `consider(contact, informant, now)` looks into what is heard;
    `on_self_join` is called each time."""

    __slots__ = ("_consider", "_device", "_done", "_doors", "_members", "_queries", "_rings", "on_self_join")

    def __init__(
        self,
        device: Device,
        queries: RowQueries,
        rings: Rings,
        doors: Doors,
        members: Callable[[], ValuesView[Peer]],
        consider: Callable[[Contact, int, float], None],
    ) -> None:
        self._device = device
        self._queries = queries
        self._rings = rings
        self._doors = doors
        self._members = members
        self._consider = consider
        self._done = 0
        self.on_self_join: Callable[[float], None] = lambda now: None

    def start(self, now: float) -> None:
        self._done = 0
        self._set_timer(now)

    def start_again(self, now: float) -> None:
        """Something near us has changed."""
        if self._device.joined and self._done > 0:
            self.start(now)

    def _set_timer(self, now: float) -> None:
        series = self._device.profile.self_join_s
        wait_s = series[min(self._done, len(series) - 1)]
        self._device.set_timer(SELF_JOIN, now + self._device.jittered(wait_s))

    def on_timer(self, now: float) -> None:
        self._done += 1
        self._set_timer(now)
        near, anywhere = self._rings.peers(), [*self._members()]
        if not self._device.contact.dialable:
            near = list(self._doors) if len(self._doors) < MAX_DOORS else []
        if near:
            asked = (self._device.random.choice(near), self._device.random.choice(anywhere))
            for peer in {peer.node_id: peer for peer in asked}.values():
                self.ask(peer.contact, now)
        self.on_self_join(now)

    def ask(self, contact: Contact, now: float) -> None:
        """Whom does it know near us?"""

        def answered(rows: Rows | None, now: float) -> None:
            if rows is not None:
                for other in rows.contacts:
                    self._consider(other, contact.node_id, now)

        self._queries.ask(contact, self._device.node_id, now, answered, brief=True)
