"""The zones that a device has heard of, at a constant cost: labels with their age, and roughly where they are.

First-hand: every peer that has spoken to us carries its zone's label. Hearsay: a few labels ride along with the row
gossip, and all of them with the answers to a newcomer. An age in minutes travels with the label and only grows on the
way, so a zone that has dissolved is forgotten everywhere half an hour after its last member was heard. What a zone
really is, its anchors and size, is asked of its tracker when it matters (zone_survey.py).
"""

from __future__ import annotations

import struct

from edgefl.declared import dataclass
from edgefl.overlay.coordinates import COARSE_BYTES, coarse_of, unpack_coarse
from edgefl.overlay.device import Device
from edgefl.overlay.liveness import Liveness
from edgefl.overlay.zone_rule import ZoneView
from edgefl.wire.contact import Contact

MAX_ZONES = 128
"""Zones known: 20-80 are found in a world of 227 cities. About 200 bytes each while their anchors are known."""

NO_ZONE = 0
"""The label of devices that have not found their zone yet; never a zone to adopt."""

GOSSIP_LABELS = 4
"""Labels in one row gossip: 1.7 B/s, and everybody knows twenty zones within minutes."""

MINUTE_S = 60.0
"""The unit of ages on the wire, whatever the profile."""


_LABEL = struct.Struct(f">HB{COARSE_BYTES}s")
"""ZONE_LABEL_BYTES: the label, its age in minutes, its coordinate."""


@dataclass(slots=True)
class Zone:
    """One zone: when a member was last heard of, and what the last look at it has found."""

    label: int
    heard_at: float
    coordinate: bytes | None = None
    """Coarse: three bytes."""
    anchors: tuple[Contact, ...] = ()
    view: ZoneView | None = None


class ZoneTable:
    """Zones by label."""

    __slots__ = ("_by_label", "_device", "_gone", "_liveness", "_oldest", "_zones")

    def __init__(self, device: Device, liveness: Liveness) -> None:
        self._device = device
        self._liveness = liveness
        self._zones: dict[int, Zone] = {}
        self._gone: dict[int, float] = {}
        self._by_label: list[Zone] | None = None
        self._oldest = float("inf")
        """No zone was last heard before that (or it is forgotten already)."""

    def __len__(self) -> int:
        return max(len(self._zones), len(self._gone))

    def refresh(self, now: float) -> None:
        """Take in what the peers have said, and forget what has not been heard of for long."""
        heard, places = self._liveness.take_zone_news()
        for label, heard_at in heard.items():
            place = places.get(label)
            self._hear(label, heard_at, None if place is None else coarse_of(place))
        gone = self._gone
        forget_s = self._device.profile.zone_forget_s
        if now - self._oldest > forget_s:
            self._zones = {label: zone for label, zone in self._zones.items() if now - zone.heard_at <= forget_s}
            self._by_label = None
            self._oldest = min((zone.heard_at for zone in self._zones.values()), default=float("inf"))
        if gone:
            self._gone = {label: at for label, at in gone.items() if now - at <= forget_s}

    def get(self, label: int) -> Zone | None:
        return self._zones.get(label)

    def __contains__(self, label: int) -> bool:
        return label in self._zones or label in self._gone

    def zones(self) -> list[Zone]:
        """By label; not to be changed by the caller."""
        if self._by_label is None:
            self._by_label = sorted(self._zones.values(), key=lambda zone: zone.label)
        return self._by_label

    def others(self, limit: int, count: int) -> list[int]:
        """Zones to look at: all but our own, or the `count` that seem nearest if there are more than `limit`."""
        own = self._device.contact.zone
        others = [zone for zone in self.zones() if zone.label != own]
        if len(others) > limit:
            others = sorted(others, key=lambda zone: (self.estimate_s(zone.label), zone.label))[:count]
        return [zone.label for zone in others]

    def estimate_s(self, label: int) -> float:
        """The estimated RTT to a zone in seconds; infinite while nobody knows where it is."""
        zone = self._zones.get(label)
        if zone is None or zone.coordinate is None:
            return float("inf")
        return self._device.coordinate.rtt_s(unpack_coarse(zone.coordinate))

    def saw(self, view: ZoneView, anchors: tuple[Contact, ...], now: float) -> None:
        """A zone has been looked at. One without members is no more."""
        if view.members == 0 and not any(p.contact.zone == view.zone for p in self._liveness.peers.values()):
            if self._zones.pop(view.zone, None) is not None:
                self._by_label = None
            if view.zone != self._device.contact.zone:
                self._gone[view.zone] = now
                if len(self._gone) > MAX_ZONES:
                    del self._gone[next(iter(self._gone))]
            return
        self._hear(view.zone, now, None)
        zone = self._zones.get(view.zone)
        if zone is not None:
            zone.view, zone.anchors = view, anchors

    def _hear(self, label: int, at: float, coordinate: bytes | None) -> None:
        if label == NO_ZONE or (label in self._gone and self._gone[label] >= at):
            return
        zone = self._zones.get(label)
        if zone is None:
            if len(self._zones) >= MAX_ZONES and not self._make_room():
                return
            zone = self._zones[label] = Zone(label, at)
            self._by_label = None
            self._oldest = min(self._oldest, at)
        if at > zone.heard_at:
            zone.heard_at = at
        zone.coordinate = coordinate or zone.coordinate

    def _make_room(self) -> bool:
        """Hearsay goes, any of it: who floods us with labels takes places in proportion, not all."""
        known = {peer.contact.zone for peer in self._liveness.peers.values()} | {self._device.contact.zone}
        hearsay = sorted(label for label in self._zones if label not in known)
        if not hearsay:
            return False
        del self._zones[self._device.random.choice(hearsay)]
        self._by_label = None
        return True

    # On the wire

    def pack(self, now: float, count: int) -> bytes:
        """Some labels for somebody else, each with its age in minutes (rounded up) and a coarse coordinate."""
        self.refresh(now)
        zones = self.zones()
        own = self._device.contact.zone
        chosen = self._device.random.sample(zones, min(count, len(zones)))
        parts = []
        if own != NO_ZONE and not any(zone.label == own for zone in chosen):
            parts.append(_pack(own, 0, self._device.coordinate.coarse()))
        parts += [
            _pack(zone.label, now - zone.heard_at, zone.coordinate or coarse_of(None))
            for zone in chosen[: count - len(parts)]
        ]
        return b"".join(parts)

    def unpack(self, data: bytes, now: float) -> None:
        """What somebody else has heard of; a label that is cut off is ignored."""
        own, forget_s = self._device.contact.zone, self._device.profile.zone_forget_s
        for label, minutes, coarse in _LABEL.iter_unpack(data[: len(data) // _LABEL.size * _LABEL.size]):
            age_s = (minutes + 1) * MINUTE_S
            if age_s < forget_s and label != own:
                known = self._zones.get(label)
                is_placed = known is not None and known.coordinate is not None
                self._hear(label, now - age_s, None if is_placed else coarse)


def _pack(label: int, age_s: float, coarse: bytes) -> bytes:
    minutes = min(255, -int(-max(0.0, age_s) // MINUTE_S))
    return _LABEL.pack(label, minutes, coarse)
