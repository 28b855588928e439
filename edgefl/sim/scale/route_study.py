"""What is measured of routes and tables: hops, stretch, isolation, state, lookups when half of all devices vanish."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgefl.sim.scale.routes import follow, owners
from edgefl.sim.scale.tables import all_contacts, table_sizes
from edgefl.sim.scale.world import Devices, Floats, Ints, generator
from edgefl.wire.contact import Contact, pack_contact

SAMPLED_TABLES = 1000
VANISHED = 0.5

CONTACT_BYTES = len(pack_contact(Contact(0, "2001:db8::1", 7000)))
"""A packed contact, at its largest."""


def random_lookups(
    devices: Devices, count: int, candidates: int, random: np.random.Generator
) -> tuple[dict[str, Any], Floats]:
    """Requests for random keys from random devices: the figures, and the stretch of every route.

    Stretch is the RTT of all hops over that of the direct way: `mean` averages it over the routes, `of_totals` is the
    ratio of the two sums, which near destinations do not dominate. The overlay study's column is the latter: its plain
    Pastry with 4 candidates, put into this world, has 1.76, 2.20, 2.55 of totals at 10^3, 10^4, 10^5 devices, where
    the study prints 1.74, 2.18, 2.58; averaged over routes it has 3.2, 3.3, 3.6.
    """
    start = random.integers(0, len(devices), count)
    keys = random.integers(0, 1 << 64, count, dtype=np.uint64)
    routes = follow(devices, start, keys, candidates=candidates)
    owner = owners(devices.ids, keys)
    away = start != owner
    direct_s = devices.rtt_s(start[away], owner[away])
    stretch = routes.length_s[away] / direct_s
    document = {
        "hops": {
            "mean": _round(routes.hops.mean()),
            "p99": int(np.percentile(routes.hops, 99, method="inverted_cdf")),
            "max": int(routes.hops.max()),
            "histogram": np.bincount(routes.hops).tolist(),
        },
        "stretch": {
            "mean": _round(stretch.mean()),
            "p95": _round(np.percentile(stretch, 95)),
            "of_totals": _round(routes.length_s[away].sum() / direct_s.sum()),
        },
        "direct_rtt_ms": _round(direct_s.mean() * 1e3),
        "zone_crossings": _round(routes.crossings.mean()),
        "right": _round((routes.end == owner).mean(), 4),
    }
    return document, stretch


def inside_zones(devices: Devices, count: int, candidates: int, random: np.random.Generator) -> dict[str, Any]:
    """Requests from random devices for the ids of others of their zone; `leave` is the share that leaves it."""
    start = random.integers(0, len(devices), count)
    size = devices.zone_sizes()[devices.zone[start]]
    start, size = start[size > 1], size[size > 1]
    first = devices.zone_start[devices.zone[start]]
    step = 1 + (random.random(len(start)) * (size - 1)).astype(np.int64)
    end = devices.zone_order[first + (devices.zone_place[start] - first + step) % size]
    routes = follow(devices, start, devices.ids[end], candidates=candidates)
    left = (devices.zone[routes.path] != devices.zone[start]).any(axis=0)
    return {
        "routes": len(start),
        "hops_mean": _round(routes.hops.mean()),
        "stretch_mean": _round((routes.length_s / devices.rtt_s(start, end)).mean()),
        "right": _round((routes.end == end).mean(), 4),
        "leave": float(left.mean()),
    }


def table_figures(devices: Devices, candidates: int, random: np.random.Generator) -> dict[str, Any]:
    """Contacts of a device: `mean` and `max` are filled slots and leaf sets, one contact a slot, over all devices;
    `with_spares` is everybody whom a device knows, up to three in a slot, each once, over a sample."""
    sizes = table_sizes(devices)
    state = sizes.slots + sizes.leaves
    sample = np.sort(random.choice(len(devices), min(SAMPLED_TABLES, len(devices)), replace=False))
    whose, _ = all_contacts(devices, sample, candidates)
    known = np.bincount(whose, minlength=len(sample))
    return {
        "mean": _round(state.mean()),
        "max": int(state.max()),
        "slots_mean": _round(sizes.slots.mean()),
        "leaves_mean": _round(sizes.leaves.mean()),
        "with_spares": {"mean": _round(known.mean()), "max": int(known.max())},
        "packed_bytes": {"mean": round(known.mean() * CONTACT_BYTES), "max": int(known.max()) * CONTACT_BYTES},
    }


def half_vanishes(devices: Devices, count: int, candidates: int, random: np.random.Generator) -> dict[str, Any]:
    """Lookups between live devices after the sudden death of half of all, before any repair."""
    alive = np.ones(len(devices), np.bool_)
    alive[random.choice(len(devices), round(len(devices) * VANISHED), replace=False)] = False
    live: Ints = np.flatnonzero(alive)
    start = live[random.integers(0, len(live), count)]
    keys = random.integers(0, 1 << 64, count, dtype=np.uint64)
    routes = follow(devices, start, keys, candidates=candidates, alive=alive)
    right = (routes.end == live[owners(devices.ids[live], keys)]) & ~routes.given_up
    return {
        "vanished": VANISHED,
        "right": _round(right.mean(), 4),
        "given_up": _round(routes.given_up.mean(), 4),
        "hops_mean": _round(routes.hops.mean()),
    }


def route_figures(devices: Devices, count: int, candidates: int, seed: int) -> dict[str, Any]:
    """All of the above for one fleet, and the stretch by the number of candidates."""
    size = len(devices)
    document, stretch = random_lookups(devices, count, candidates, generator(seed, 2, size))
    inside = inside_zones(devices, count, candidates, generator(seed, 3, size))
    document["stretch"]["histogram"] = np.histogram(stretch, np.arange(1.0, 8.25, 0.25))[0].tolist()
    return {
        "nodes": size,
        "zones_filled": int((devices.zone_sizes() > 0).sum()),
        **document,
        "in_zone_leave": inside.pop("leave"),
        "in_zone": inside,
        "contacts": table_figures(devices, candidates, generator(seed, 4, size)),
        "failure": half_vanishes(devices, count, candidates, generator(seed, 6, size)),
    }


def _round(value: Any, places: int = 3) -> float:
    return round(float(value), places)
