"""Which zone this device is in, kept right as devices come, go and move (the rule itself: zone_rule.py).

    UNPLACED --look at all zones known: one within tau--> PLACED (adopted)
             --none, and none at a second look a little later--> PLACED (founded: a random label)
    PLACED   --every 10 min: look at the own zone alone--> PLACED: within tau, and large enough
             --too small--> look at the others: a larger one within 2 tau? moved there (dissolved)
             --beyond tau--> look at the others: one 20 % nearer, the same one twice in a row? moved there
                             beyond 2 tau twice in a row, and no zone within tau anywhere? founded

An operator's label (method `site`) is never touched. Method `landmarks` is the baseline (landmarks.py). This component
only decides; `on_zone` tells the owner of the device, who raises the incarnation and changes the contact, and with it
rings, tables, trees and trackers.

How zones are known: their labels ride on gossip (zone_table.py), their anchors and size are asked of their trackers
(zone_survey.py). A settled device costs one query and three pings in ten minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from edgefl.declared import dataclass
from edgefl.median import median
from edgefl.overlay.device import Device
from edgefl.overlay.ids import zone_key
from edgefl.overlay.landmarks import LANDMARKS, landmark_bin, landmark_key, zone_of_bin
from edgefl.overlay.liveness import Liveness, Peer
from edgefl.overlay.requests import Requests
from edgefl.overlay.routing import Router
from edgefl.overlay.zone_rule import REACH, ZoneView, better, dissolve_into, is_small, nearest
from edgefl.overlay.zone_survey import Survey
from edgefl.overlay.zone_table import GOSSIP_LABELS, NO_ZONE, Zone, ZoneTable
from edgefl.wire.contact import Contact
from edgefl.wire.overlay import MAX_ZONE_LABELS, ZoneInfo, ZoneQuery

if TYPE_CHECKING:
    from edgefl.effects import TimerKey

MEASURE_ALL, MEASURE_NEAREST = 64, 16
"""Of up to 64 zones all are measured, of more the 16 that seem nearest by coordinates."""

LOOK: TimerKey = ("zones", "look")


class ZoneMethod(Enum):
    """How a device comes to its zone; `[overlay] zones` in the configuration."""

    SITE = "site"
    ANCHORS = "anchors"
    LANDMARKS = "landmarks"


@dataclass(frozen=True, slots=True)
class ZoneReport:
    """For status: our zone, how it was chosen, and since when (monotonic seconds; None before the first look)."""

    zone: int
    method: ZoneMethod
    chosen: str
    since: float | None
    fleet: int
    known: tuple[Zone, ...]


class Zones:
    """The zone of one device."""

    __slots__ = (
        "_chosen",
        "_device",
        "_landmark_rtts_s",
        "_landmarks",
        "_liveness",
        "_looks",
        "_method",
        "_requests",
        "_router",
        "_since",
        "_survey",
        "_wish",
        "fleet_estimate",
        "on_zone",
        "table",
    )

    def __init__(
        self, device: Device, requests: Requests, liveness: Liveness, router: Router, method: ZoneMethod
    ) -> None:
        self._device = device
        self._requests = requests
        self._liveness = liveness
        self._router = router
        self._method = method
        self._survey: Survey | None = None
        self._wish = NO_ZONE
        self._looks = 0
        self._since: float | None = None
        self._chosen = "operator's label" if method is ZoneMethod.SITE else "not yet"
        self._landmarks: dict[int, int] = {}
        self._landmark_rtts_s: dict[int, float | None] = {}
        self.table = ZoneTable(device, liveness)
        self.fleet_estimate: Callable[[], int] = lambda: 1
        self.on_zone: Callable[[int, float], None] = lambda zone, now: None

    # What is known

    def report(self, now: float) -> ZoneReport:
        self.table.refresh(now)
        known = tuple(self.table.zones())
        return ZoneReport(self._device.contact.zone, self._method, self._chosen, self._since, self._fleet([]), known)

    def sizes(self) -> dict[str, int]:
        return {"zones": len(self.table)}

    def pack(self, now: float, *, newcomer: bool) -> bytes:
        """Labels to send along: all that we know for a newcomer, a few otherwise."""
        return self.table.pack(now, MAX_ZONE_LABELS if newcomer else GOSSIP_LABELS)

    # Life cycle

    def start(self, now: float) -> None:
        """The device has joined: look soon (not at once, or all that were started together look together)."""
        if self._method is not ZoneMethod.SITE:
            self._look_in(self._device.profile.zone_first_look_s * self._device.random.random(), now)

    def stop(self) -> None:
        self._device.effects.cancel_timer(LOOK)
        self._abandon()

    def on_own_contact_changed(self, before: Contact, now: float) -> None:
        own = self._device.contact
        if own.zone != before.zone:
            self._wish = NO_ZONE
            self._since = now
            self._look_in(self._device.jittered(self._device.profile.zone_check_s), now)
        elif own.host != before.host:
            self._look_in(self._device.profile.zone_first_look_s, now)  # it may be somewhere else altogether

    def _look_in(self, wait_s: float, now: float) -> None:
        if self._method is not ZoneMethod.SITE:
            self._device.set_timer(LOOK, now + wait_s)

    def _abandon(self) -> None:
        if self._survey is not None:
            self._survey.abandon()
            self._survey = None

    # Looking

    def on_timer(self, key: TimerKey, now: float) -> bool:
        if key != LOOK:
            return False
        self._look_in(self._device.jittered(self._device.profile.zone_check_s), now)
        self._abandon()
        self.table.refresh(now)
        if not self._device.joined:
            return True
        if self._method is ZoneMethod.LANDMARKS:
            self._find_landmarks(now)
        elif self._device.contact.zone == NO_ZONE:
            self._look_around(None, now)
        else:
            self._begin([self._device.contact.zone], self._saw_own, now, enough_s=self._tau_s)
        return True

    @property
    def _tau_s(self) -> float:
        return self._device.profile.zone_radius_ms / 1000

    def _begin(
        self, zones: list[int], then: Callable[[list[ZoneView], float], None], now: float, *, enough_s: float = 0.0
    ) -> None:
        def done(views: list[ZoneView], anchors: dict[int, tuple[Contact, ...]], now: float) -> None:
            self._survey = None
            for view in views:
                self.table.saw(view, anchors[view.zone], now)
            then(views, now)

        self._survey = survey = Survey(
            self._device, self._requests, self._liveness, zones, self._query, done, enough_s=enough_s
        )
        survey.step(now)

    def _query(self, zone: int, now: float) -> None:
        self._router.route(zone_key(zone), ZoneQuery(zone), now)

    def on_info(self, sender: Contact, message: ZoneInfo, now: float) -> None:
        if self._survey is not None:
            self._survey.on_info(message, now)

    def _look_around(self, own: ZoneView | None, now: float) -> None:
        def saw(views: list[ZoneView], now: float) -> None:
            if own is None:
                self._adopt(views, now)
            else:
                self._compare(own, views, now)

        self._begin(self.table.others(MEASURE_ALL, MEASURE_NEAREST), saw, now)

    # Deciding

    def _adopt(self, views: list[ZoneView], now: float) -> None:
        near = nearest(views, self._tau_s)
        self._looks += 1
        if near is not None:
            self._move(near.zone, "adopted", now)
        elif self._looks > 1:
            self._found(now)
        else:
            # Somebody beside us may be founding right now: who waits shortest founds for all of them.
            self._look_in(self._device.profile.zone_backoff_s * self._device.random.random(), now)

    def _saw_own(self, views: list[ZoneView], now: float) -> None:
        own = next((view for view in views if view.rtt_s is not None), None)
        if own is None:
            return  # the tracker is new, or the anchors are away: no reason to go
        old_enough = self._since is None or now - self._since >= self._device.profile.zone_young_s
        beyond = own.rtt_s is not None and own.rtt_s > self._tau_s
        if beyond or (old_enough and is_small(own.members, self._fleet([own]))):
            self._look_around(own, now)
        else:
            self._wish = NO_ZONE

    def _compare(self, own: ZoneView, others: list[ZoneView], now: float) -> None:
        own_s, tau_s = own.rtt_s or 0.0, self._tau_s
        gain = better(own_s, others, tau_s)
        wish = NO_ZONE if gain is None else gain.zone
        if own_s > REACH * tau_s and nearest(others, tau_s) is None:
            wish = own.zone  # so far from everybody that only a new zone helps
        small = is_small(own.members, self._fleet([own, *others]))
        young = self._since is not None and now - self._since < self._device.profile.zone_young_s
        haven = dissolve_into(own, others, tau_s) if small and not young else None
        if wish != NO_ZONE and wish == self._wish:
            if wish == own.zone:
                self._found(now)
            else:
                self._move(wish, "moved: nearer", now)
        elif haven is not None:
            self._move(haven.zone, "moved: the zone was too small", now)
        self._wish = wish

    def _found(self, now: float) -> None:
        label = NO_ZONE
        while label == NO_ZONE or label in self.table:
            label = self._device.random.randrange(1, 1 << 16)
        self._move(label, "founded", now)

    def _move(self, zone: int, how: str, now: float) -> None:
        self._chosen, self._since = how, now
        self._device.counters["zone_changes"] += 1
        self.on_zone(zone, now)

    def _fleet(self, views: list[ZoneView]) -> int:
        """How many devices the fleet has: the median of what we and the zones' trackers think."""
        known = {zone.label: zone.view.fleet for zone in self.table.zones() if zone.view is not None}
        known.update((view.zone, view.fleet) for view in views)
        return int(median([self.fleet_estimate(), *(fleet for fleet in known.values() if fleet)]))

    # The baseline

    def _find_landmarks(self, now: float) -> None:
        self._landmark_rtts_s = {}
        self._landmarks = {self._router.lookup(landmark_key(i), now): i for i in range(LANDMARKS)}

    def on_lookup(self, request: int, owner: Contact | None, now: float) -> bool:
        """A lookup has ended. False if it was none of ours."""
        index = self._landmarks.pop(request, None)
        if index is None:
            return False
        if owner is None:
            self._landmark_rtts_s[index] = None
            self._bin(now)
        elif owner.node_id == self._device.node_id:
            self._landmark_rtts_s[index] = 0.0
            self._bin(now)
        else:
            asked_at = now

            def answered(peer: Peer | None, now: float) -> None:
                self._landmark_rtts_s[index] = None if peer is None else now - asked_at
                self._bin(now)

            self._liveness.ping(owner, now, answered)
        return True

    def _bin(self, now: float) -> None:
        rtts_s = [self._landmark_rtts_s.get(index) for index in range(LANDMARKS)]
        known_s = [rtt_s for rtt_s in rtts_s if rtt_s is not None]
        if len(known_s) == LANDMARKS:
            zone = zone_of_bin(landmark_bin(known_s))
            if zone != self._device.contact.zone:
                self._move(zone, "landmarks", now)
        elif len(self._landmark_rtts_s) == LANDMARKS and not self._landmarks:
            self._look_in(self._device.profile.zone_backoff_s, now)  # one of them did not answer
