"""A world of up to 10^6 devices as arrays: ids, places, zones, capacity classes, and the RTT of any pairs.

The cities are those of `edgefl/sim/rtt_model.py` (synthetic, or a measured matrix), and sites and legs are drawn from
the same distributions, so that the vectorised model and the event simulator speak of the same world. A model: nothing
here is measured on devices.

Invariant: devices stand in the order of their ids, and no two ids are alike in their first 48 bits. So the devices with
a given prefix are a contiguous range, in the fleet and, in the order of (zone, id), in every zone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgefl.sim.rtt_model import (
    DEVICE_LEG_S,
    DEVICE_SPREAD,
    DEVICES_PER_SITE,
    LAN_RTT_S,
    SITE_LEG_S,
    SITE_SPREAD,
    Place,
    RttModel,
)
from edgefl.wire.contact import Capacity

Ids: TypeAlias = npt.NDArray[np.uint64]
Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Flags: TypeAlias = npt.NDArray[np.bool_]

PREFIX_BITS = 48
"""Bits of an id beside the 16 of the zone in one sortable word. Two of 10^6 random ids agree in so many with p = .002;
such an id is drawn again."""

ID_REST = np.uint64(64 - PREFIX_BITS)

CLASS_SHARES = {Capacity.CONSTRAINED: 0.15, Capacity.NORMAL: 0.60, Capacity.STRONG: 0.20, Capacity.GATEWAY: 0.05}
"""Of all devices. Not given by the study; with these the children per class of its table 1.3 add up."""


@dataclass(frozen=True, slots=True, eq=False)
class Devices:
    """One row per device, in the order of ids. Build it with `make_devices` or `arrange`."""

    ids: Ids
    city: npt.NDArray[np.int16]
    site: npt.NDArray[np.int32]
    site_leg_s: Floats
    device_leg_s: Floats
    zone: npt.NDArray[np.int32]
    capacity: npt.NDArray[np.int8]
    city_rtt_s: Floats
    """Square matrix of the cities."""
    zone_order: npt.NDArray[np.int32]
    """All devices in the order of (zone, id)."""
    zone_place: npt.NDArray[np.int32]
    """Where each device stands in `zone_order`."""
    zone_keys: Ids
    """Zone and first 48 bits of the id, in `zone_order`: what a slot of a zone is searched in."""
    zone_start: Ints
    """Where each zone begins in `zone_order`; one more entry for the end."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def zones(self) -> int:
        return len(self.zone_start) - 1

    def zone_sizes(self) -> Ints:
        return np.diff(self.zone_start)

    def in_zone(self, zone: int) -> npt.NDArray[np.int32]:
        """The devices of a zone, by id."""
        return self.zone_order[self.zone_start[zone] : self.zone_start[zone + 1]]

    def rtt_s(self, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> Floats:
        """RTTs of pairs of devices in seconds; `a` and `b` are arrays of their numbers (any shapes that broadcast)."""
        legs_s = self.device_leg_s[a] + self.device_leg_s[b]
        far_s = self.city_rtt_s[self.city[a], self.city[b]] + self.site_leg_s[a] + self.site_leg_s[b]
        rtt_s: Floats = np.where(self.site[a] == self.site[b], LAN_RTT_S, far_s) + legs_s
        return rtt_s


def generator(seed: int, *purpose: int) -> np.random.Generator:
    """The random numbers of one purpose of one run."""
    return np.random.default_rng([seed, *purpose])


def make_devices(count: int, seed: int, matrix: Sequence[Sequence[float]] | None = None) -> Devices:
    """A world of `count` devices. `matrix`: city RTTs in seconds; without it a synthetic world. Zones are regions."""
    model = RttModel(Random(seed), 1, matrix)
    random = generator(seed, 1, count)
    sites = math.ceil(count / DEVICES_PER_SITE)
    cities = len(model.regions)
    weights = 1.0 / np.arange(1, cities + 1)
    site_city = random.permutation(cities)[random.choice(cities, sites, p=weights / weights.sum())]
    site_leg_s = SITE_LEG_S * np.exp(random.normal(0.0, SITE_SPREAD, sites))
    site = random.integers(0, sites, count)
    return arrange(
        ids=_distinct_ids(random, count),
        city=site_city[site],
        site=site,
        site_leg_s=site_leg_s[site],
        device_leg_s=DEVICE_LEG_S * np.exp(random.normal(0.0, DEVICE_SPREAD, count)),
        zone=np.array(model.regions)[site_city[site]],
        capacity=random.choice([int(c) for c in CLASS_SHARES], count, p=list(CLASS_SHARES.values())),
        city_rtt_s=city_matrix(model),
    )


def city_matrix(model: RttModel) -> Floats:
    """The city RTTs of a model, as an array."""
    places = [(Place(city, 0, 0.0, 0.0), Place(city, 1, 0.0, 0.0)) for city in range(len(model.regions))]
    return np.array([[model.rtt_s(a, b) for _, b in places] for a, _ in places])


def arrange(
    *,
    ids: Ids,
    city: npt.NDArray[Any],
    site: npt.NDArray[Any],
    site_leg_s: Floats,
    device_leg_s: Floats,
    zone: npt.NDArray[Any],
    capacity: npt.NDArray[Any],
    city_rtt_s: Floats,
) -> Devices:
    """Sort devices by id and index them by zone. Zones are small numbers from 0 on; raises ValueError if two ids agree
    in their first 48 bits."""
    by_id = np.argsort(ids)
    ids, zone = ids[by_id], zone[by_id]
    prefixes = ids >> ID_REST
    if np.any(prefixes[1:] == prefixes[:-1]):
        raise ValueError("two ids agree in their first 48 bits")
    zone_order = np.argsort(zone, kind="stable")
    zone_place = np.empty(len(ids), np.int32)
    zone_place[zone_order] = np.arange(len(ids), dtype=np.int32)
    return Devices(
        ids=ids,
        city=city[by_id].astype(np.int16),
        site=site[by_id].astype(np.int32),
        site_leg_s=site_leg_s[by_id],
        device_leg_s=device_leg_s[by_id],
        zone=zone.astype(np.int32),
        capacity=capacity[by_id].astype(np.int8),
        city_rtt_s=city_rtt_s,
        zone_order=zone_order.astype(np.int32),
        zone_place=zone_place,
        zone_keys=(zone.astype(np.uint64) << np.uint64(PREFIX_BITS) | prefixes)[zone_order],
        zone_start=np.concatenate([[0], np.cumsum(np.bincount(zone))]).astype(np.int64),
    )


def _distinct_ids(random: np.random.Generator, count: int) -> Ids:
    ids = np.zeros(0, np.uint64)
    while len(ids) < count:
        more = random.integers(0, 1 << 64, count - len(ids), dtype=np.uint64)
        ids = np.concatenate([ids, more])
        _, first = np.unique(ids >> ID_REST, return_index=True)
        ids = ids[first]
    return ids
