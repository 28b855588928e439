"""One look at some zones: ask the tracker of each for its anchors, and ping those.

    each zone:   ZoneQuery, routed to the zone's key    --ZoneInfo--> ping its anchors    --no answer--> not there
    each anchor: one ping after the other, three at most --a miss, or enough known--> done

Bounded: eight zones at a time, three anchors each, at most 64 zones. An anchor counts only if it says itself, when it
answers, that it is in that zone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from edgefl.overlay.device import Device
from edgefl.overlay.liveness import Liveness, Peer
from edgefl.overlay.requests import Requests
from edgefl.overlay.zone_rule import PINGS, ZoneView, distance_s
from edgefl.wire.contact import Contact
from edgefl.wire.overlay import ZoneInfo

PARALLEL = 8
"""Zones looked at at once: 24 pings under way."""


class Survey:
    """Measures zones one by one; `on_done(views, anchors, now)` is called once, with those that answered.

    `enough_s`: a zone whose median is within this needs no more pings; further ones could only lower it.
    """

    __slots__ = (
        "_anchors",
        "_device",
        "_enough_s",
        "_liveness",
        "_on_done",
        "_open",
        "_over",
        "_query",
        "_requests",
        "_views",
        "_waiting",
    )

    def __init__(
        self,
        device: Device,
        requests: Requests,
        liveness: Liveness,
        zones: Iterable[int],
        query: Callable[[int, float], None],
        on_done: Callable[[list[ZoneView], dict[int, tuple[Contact, ...]], float], None],
        *,
        enough_s: float = 0.0,
    ) -> None:
        self._device = device
        self._requests = requests
        self._liveness = liveness
        self._waiting = list(zones)
        self._query = query
        self._on_done = on_done
        self._enough_s = enough_s
        self._open: dict[int, _Look] = {}
        self._views: list[ZoneView] = []
        self._anchors: dict[int, tuple[Contact, ...]] = {}
        self._over = False

    def step(self, now: float) -> None:
        """Look on; call once to begin."""
        while self._waiting and len(self._open) < PARALLEL:
            zone = self._waiting.pop(0)
            patience_s = self._device.profile.lookup_timeout_s
            if self._requests.open(("zone", zone), 0, now, patience_s, partial(self._no_info, zone)):
                self._open[zone] = _Look()
                self._query(zone, now)
        if not self._open and not self._waiting and not self._over:
            self._over = True
            self._on_done(self._views, self._anchors, now)

    def abandon(self) -> None:
        """Ignore all further answers."""
        self._over = True
        for zone in self._open:
            self._requests.cancel(("zone", zone))
        self._open.clear()
        self._waiting.clear()

    def on_info(self, info: ZoneInfo, now: float) -> None:
        """The tracker of a zone has answered; ignored if it was not asked."""
        look = self._open.get(info.zone)
        if look is None or self._requests.close(("zone", info.zone), 0) is None:
            return
        look.info = info
        anchors = [c for c in info.anchors if c.zone == info.zone]
        self._anchors[info.zone] = tuple(anchors)
        look.shortest_s = {contact.node_id: None for contact in anchors}
        for contact in anchors:
            if contact.node_id == self._device.node_id:
                if len(anchors) == 1:
                    look.shortest_s[contact.node_id] = 0.0
                else:
                    del look.shortest_s[contact.node_id]  # how far are the others?
            else:
                look.pinging.add(contact.node_id)
        for contact in anchors:
            if contact.node_id in look.pinging:
                self._ping(info.zone, look, contact, PINGS, now)
        self._end_if_measured(info.zone, look, now)

    def _no_info(self, zone: int, now: float) -> None:
        self._open.pop(zone, None)
        self.step(now)

    def _ping(self, zone: int, look: _Look, anchor: Contact, pings: int, now: float) -> None:
        asked_at = now

        def answered(peer: Peer | None, now: float) -> None:
            if self._over:
                return
            if peer is not None and peer.contact.zone == zone:
                best_s = look.shortest_s.get(anchor.node_id)
                rtt_s = now - asked_at
                look.shortest_s[anchor.node_id] = rtt_s if best_s is None else min(best_s, rtt_s)
                if pings > 1 and not self._is_enough(look):
                    self._ping(zone, look, anchor, pings - 1, now)
                    return
            look.pinging.discard(anchor.node_id)
            self._end_if_measured(zone, look, now)

        self._liveness.ping(anchor, now, answered)

    def _is_enough(self, look: _Look) -> bool:
        found_s = distance_s(rtt_s for rtt_s in look.shortest_s.values() if rtt_s is not None)
        return None not in look.shortest_s.values() and found_s is not None and found_s <= self._enough_s

    def _end_if_measured(self, zone: int, look: _Look, now: float) -> None:
        if look.pinging or look.info is None or self._open.get(zone) is not look:
            return
        del self._open[zone]
        found_s = distance_s(rtt_s for rtt_s in look.shortest_s.values() if rtt_s is not None)
        self._views.append(ZoneView(zone, found_s, look.info.members, look.info.fleet))
        self.step(now)


class _Look:
    """One zone under measurement."""

    __slots__ = ("info", "pinging", "shortest_s")

    def __init__(self) -> None:
        self.info: ZoneInfo | None = None
        self.shortest_s: dict[int, float | None] = {}
        self.pinging: set[int] = set()
