"""Which zone a device belongs to: the rule of anchor adoption, as pure decisions (overlay study 1.4).

A zone is judged by the RTT to its anchors, its three members of highest rank: the shortest of a few pings to each, the
median of the three. A device adopts the nearest zone within the radius tau, else it founds one. A zone that stays too
small dissolves: its members join the nearest larger zone within 2 tau. Who is settled moves only if its own zone is
beyond tau and another is more than 20 % nearer, twice in a row, so noise moves nobody.

Measured in the study: 0.99 of the pairs that share a zone still do when everybody measures again, against 0.25-0.69
with landmark binning.
"""

from __future__ import annotations

from collections.abc import Iterable

from edgefl.declared import dataclass
from edgefl.median import median

ANCHORS = 3
"""With three, one that is slow or far off for a while moves no median."""

PINGS = 3
"""To each anchor; the shortest counts. One ping in twenty takes much longer than it should: in three, one of 8,000."""

BETTER_BY = 0.8
"""Another zone must be at most this share as far away as one's own."""

SMALL_MEMBERS, SMALL_SHARE = 8, 0.005
"""A zone with fewer members, or a smaller share of the fleet, does not pay for its rings and heads."""

REACH = 2.0
"""A small zone dissolves into one within so many radii; beyond that being alone is better."""


@dataclass(frozen=True, slots=True)
class ZoneView:
    """A zone as one device has measured it. `rtt_s` is None while no anchor has answered; `fleet` is what the zone's
    tracker takes for the size of the fleet."""

    zone: int
    rtt_s: float | None
    members: int
    fleet: int = 0


def distance_s(shortest_s: Iterable[float]) -> float | None:
    """How far a zone is, by the shortest ping to each anchor that answered; None if none did."""
    answered = list(shortest_s)
    return median(answered) if answered else None


def nearest(views: Iterable[ZoneView], within_s: float) -> ZoneView | None:
    """The nearest zone within a distance."""
    near = [(view.rtt_s, view.zone, view) for view in views if view.rtt_s is not None and view.rtt_s <= within_s]
    return min(near, key=lambda entry: entry[:2])[2] if near else None


def is_small(members: int, fleet: int) -> bool:
    """Too small to stay a zone."""
    return members < max(SMALL_MEMBERS, SMALL_SHARE * fleet)


def dissolve_into(own: ZoneView, others: Iterable[ZoneView], tau_s: float) -> ZoneView | None:
    """Where the members of a small zone go. Only to larger zones (of two alike, the one with the higher label): or two
    small ones would swap their members for ever."""
    return nearest((v for v in others if (v.members, v.zone) > (own.members, own.zone)), REACH * tau_s)


def better(own_s: float, others: Iterable[ZoneView], tau_s: float) -> ZoneView | None:
    """A zone that is worth a move: only for a device that is beyond the radius of its own."""
    return nearest(others, BETTER_BY * own_s) if own_s > tau_s else None
