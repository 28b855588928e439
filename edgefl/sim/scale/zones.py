"""Finding zones by measurement: adoption by anchors, against landmark binning (a model of overlay study 1.4).

The rule is that of edgefl/overlay/zone_rule.py: its constants are taken from there, and a test compares both. A device
measures the three anchors of every zone, the shortest ping counts, and adopts the zone with the nearest median if that
is within tau; else it founds a zone. Anchors are the three members of highest standing.
Small zones dissolve into the nearest within 2 tau. Later a device measures again, and moves only if its own zone is
beyond tau and another one more than 20 % nearer, twice in a row.

The baseline, landmark binning, names a zone by the order of the RTTs to L landmarks, and a level of each.

What is judged: when everybody measures again, how many pairs of devices that shared a zone still do (Jaccard index).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefl.overlay.landmarks import LEVELS_S
from edgefl.overlay.zone_rule import ANCHORS, BETTER_BY, PINGS, REACH, SMALL_MEMBERS, SMALL_SHARE
from edgefl.sim.scale.applications import hashes, ranks
from edgefl.sim.scale.world import Devices, Floats, Ints

JITTER = 0.10
SPIKES, SPIKE_FACTOR = 0.05, 5.0
"""A ping takes longer than the truth by the size of a normal number of 10 %, and one in twenty up to five times as
long."""

NO_ZONE = -1


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A zone for each device, and the anchors of each zone (columns; a small zone repeats some)."""

    zone: Ints
    anchors: Ints


class Pings:
    """What devices measure: the truth with noise, the shortest of a few."""

    def __init__(self, devices: Devices, random: np.random.Generator) -> None:
        self._devices = devices
        self._random = random

    def rtt_s(self, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> Floats:
        """Measured RTTs of pairs of devices (shapes that broadcast), in seconds."""
        true_s = self._devices.rtt_s(a, b)[..., None]
        shape = (*true_s.shape[:-1], PINGS)
        factor = 1.0 + np.abs(self._random.normal(0.0, JITTER, shape))
        spike = self._random.random(shape) < SPIKES
        factor *= np.where(spike, self._random.uniform(1.0, SPIKE_FACTOR, shape), 1.0)
        measured: Floats = (true_s * factor).min(axis=-1)
        return measured


def find_zones(devices: Devices, tau_s: float, random: np.random.Generator) -> Found:
    """Zones of a fleet whose devices come one after the other."""
    pings = Pings(devices, random)
    standing = ranks(hashes(devices.ids, 0), devices.capacity)
    zone = np.full(len(devices), NO_ZONE)
    members: list[list[int]] = []
    anchors = np.zeros((0, ANCHORS), np.int64)
    for device in random.permutation(len(devices)):
        nearest = NO_ZONE
        if members:
            distance_s = np.median(pings.rtt_s(np.array(device), anchors), axis=1)
            nearest = int(np.argmin(distance_s))
        if nearest == NO_ZONE or distance_s[nearest] > tau_s:
            nearest = len(members)
            members.append([])
            anchors = np.concatenate([anchors, np.full((1, ANCHORS), device)])
        zone[device] = nearest
        members[nearest] = sorted([*members[nearest], int(device)], key=lambda other: -standing[other])[:ANCHORS]
        anchors[nearest] = np.resize(members[nearest], ANCHORS)
    return Found(zone, anchors)


def merge_small(devices: Devices, found: Found, tau_s: float, random: np.random.Generator) -> Found:
    """Zones with too few members dissolve, the smallest first: each member adopts the nearest other zone within 2 tau.
    Those that find none stay what they are."""
    pings = Pings(devices, random)
    zone = found.zone.copy()
    alive = np.ones(len(found.anchors), np.bool_)
    least = max(SMALL_MEMBERS, SMALL_SHARE * len(devices))
    for small in np.argsort(np.bincount(zone, minlength=len(alive)), kind="stable"):
        members = np.flatnonzero(zone == small)
        if len(members) >= least or alive.sum() == 1:
            continue
        alive[small] = False
        others = np.flatnonzero(alive)
        distance_s = np.median(pings.rtt_s(members[:, None, None], found.anchors[others]), axis=2)
        nearest = np.argmin(distance_s, axis=1)
        near = distance_s[np.arange(len(members)), nearest] <= REACH * tau_s
        zone[members[near]] = others[nearest[near]]
        alive[small] = not near.all()
    names, zone = np.unique(zone, return_inverse=True)
    return Found(zone, found.anchors[names])


def measure_again(
    devices: Devices, found: Found, tau_s: float, random: np.random.Generator, *, hysteresis: bool
) -> Found:
    """Everybody looks for the nearest zone again, among those that there are; with hysteresis, twice."""
    pings = Pings(devices, random)
    everybody = np.arange(len(devices))
    wish = found.zone
    for look in range(2 if hysteresis else 1):
        distance_s = np.median(pings.rtt_s(everybody[:, None, None], found.anchors), axis=2)
        nearest = np.argmin(distance_s, axis=1)
        own_s, nearest_s = distance_s[everybody, found.zone], distance_s[everybody, nearest]
        if hysteresis:
            move = (own_s > tau_s) & (nearest_s < BETTER_BY * own_s)
        else:
            move = nearest_s <= tau_s
        again = np.where(move, nearest, found.zone)
        wish = again if look == 0 else np.where(wish == again, again, found.zone)
    return Found(wish, found.anchors)


def landmark_bins(devices: Devices, landmarks: Ints, random: np.random.Generator) -> Ints:
    """Zones by the order of the measured RTTs to the landmarks, and the level of each RTT."""
    measured_s = Pings(devices, random).rtt_s(np.arange(len(devices))[:, None], landmarks)
    order = np.argsort(measured_s, axis=1)
    level = np.digitize(measured_s, LEVELS_S)
    return np.unique(np.concatenate([order, level], axis=1), axis=0, return_inverse=True)[1].reshape(-1)


def pairs_kept(before: Ints, after: Ints) -> float:
    """Of all pairs of devices that share a zone before or after, the share that does both times."""
    both = _pairs(before * (int(after.max()) + 1) + after)
    either = _pairs(before) + _pairs(after) - both
    return both / either if either else 1.0


def _pairs(zone: Ints) -> int:
    size = np.unique(zone, return_counts=True)[1]
    return int((size * (size - 1) // 2).sum())


def rtts_inside_s(devices: Devices, zone: Ints, random: np.random.Generator, count: int) -> Floats:
    """True RTTs of random pairs of devices that share a zone; empty if no two do."""
    order = np.argsort(zone, kind="stable")
    size = np.bincount(zone)
    start = np.concatenate([[0], np.cumsum(size)[:-1]])
    pairs = size * (size - 1.0)
    if not pairs.sum():
        return np.zeros(0)
    chosen = random.choice(len(size), count, p=pairs / pairs.sum())
    first = random.integers(0, size[chosen])
    other = (first + random.integers(1, size[chosen])) % size[chosen]
    return devices.rtt_s(order[start[chosen] + first], order[start[chosen] + other])
