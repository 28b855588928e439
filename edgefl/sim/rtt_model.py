"""How far apart devices are: a synthetic world of cities, sites and devices, or a measured city matrix.

RTT of two devices = cities + access legs of both sites + legs of both devices; within a site 0.3 ms + the devices'
legs. Access legs are lognormal with a median of 4 ms, device legs with 1 ms. Cities have Zipf(1) weights and stand in
a plane of a few dense continents, so that the median of city pairs is 66 ms, like the 227 cities of the WonderNetwork
data that the overlay study used; a lognormal factor of 6 % on each pair violates the triangle inequality about as
often (5 %). Regions, the zones of the simulated operator, are groups of cities within 30 ms of each other.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

CITIES = 227
DEVICES_PER_SITE = 25
LAN_RTT_S = 0.0003
SITE_LEG_S, SITE_SPREAD = 0.004, 0.6
DEVICE_LEG_S, DEVICE_SPREAD = 0.001, 0.5
REGION_RADIUS_S = 0.015
PAIR_SPREAD = 0.06

_CONTINENTS = ((0.0, 0.0, 9.0, 0.42), (68.0, 6.0, 15.0, 0.28), (-60.0, -20.0, 19.0, 0.20), (56.0, -50.0, 17.0, 0.10))
"""Centre (in ms of RTT), spread and share of cities: Europe, North America, Asia, the south."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a device stands: its city and site, and its two legs in seconds."""

    city: int
    site: int
    site_leg_s: float
    device_leg_s: float


class RttModel:
    """Places devices and says how long a packet between two of them takes. Seeded: the same seed, the same world."""

    def __init__(self, random: Random, devices: int, matrix: Sequence[Sequence[float]] | None = None) -> None:
        """`matrix`: city RTTs in seconds; without it a synthetic world."""
        self._random = random
        self._cities = _synthetic_cities(random) if matrix is None else matrix
        self.regions = _regions(self._cities)
        order = list(range(len(self._cities)))
        random.shuffle(order)
        weights = [1 / (rank + 1) for rank in range(len(order))]
        self._sites = [
            (city, _lognormal(random, SITE_LEG_S, SITE_SPREAD))
            for city in random.choices(order, weights, k=max(1, math.ceil(devices / DEVICES_PER_SITE)))
        ]

    def place(self, city: int | None = None) -> Place:
        """A place for one more device: at a random site, or at one of this city (a new one if it has none)."""
        if city is None:
            site = self._random.randrange(len(self._sites))
        else:
            found = [site for site, (at, _) in enumerate(self._sites) if at == city]
            if not found:
                self._sites.append((city, _lognormal(self._random, SITE_LEG_S, SITE_SPREAD)))
            site = self._random.choice(found) if found else len(self._sites) - 1
        city, leg_s = self._sites[site]
        return Place(city, site, leg_s, _lognormal(self._random, DEVICE_LEG_S, DEVICE_SPREAD))

    def region(self, place: Place) -> str:
        """The name that an operator would give to the device's site."""
        return f"region-{self.regions[place.city]}"

    def rtt_s(self, a: Place, b: Place) -> float:
        legs_s = a.device_leg_s + b.device_leg_s
        if a.site == b.site:
            return LAN_RTT_S + legs_s
        return self._cities[a.city][b.city] + a.site_leg_s + b.site_leg_s + legs_s


def read_matrix(path: Path) -> list[list[float]]:
    """A square matrix of city RTTs from a file of comma-separated milliseconds; in seconds.

    Raises ValueError for anything else.
    """
    with path.open(newline="") as file:
        rows = [[float(cell) / 1000 for cell in row] for row in csv.reader(file) if row]
    if not rows or any(len(row) != len(rows) for row in rows):
        raise ValueError(f"{path} holds no square matrix")
    return rows


def _lognormal(random: Random, median: float, spread: float) -> float:
    return median * math.exp(random.gauss(0.0, spread))


def _synthetic_cities(random: Random) -> list[list[float]]:
    points = []
    for x, y, spread, share in _CONTINENTS:
        points += [(random.gauss(x, spread), random.gauss(y, spread)) for _ in range(round(CITIES * share))]
    rtts = [[0.001] * len(points) for _ in points]
    for i, a in enumerate(points):
        for j in range(i):
            distance_ms = math.dist(a, points[j])
            rtts[i][j] = rtts[j][i] = (1.0 + distance_ms) / 1000 * math.exp(random.gauss(0.0, PAIR_SPREAD))
    return rtts


def _regions(cities: Sequence[Sequence[float]]) -> list[int]:
    """Each city joins the first region whose centre is near, or founds one."""
    centres: list[int] = []
    regions = []
    for city, rtts in enumerate(cities):
        near = next((region for region, centre in enumerate(centres) if rtts[centre] <= REGION_RADIUS_S), None)
        if near is None:
            near = len(centres)
            centres.append(city)
        regions.append(near)
    return regions
