"""Applications and their members, as columns: who takes part in what, with which rank.

Ranks are those of `edgefl/overlay/rank.py`, the same hash and formula. Memberships follow the overlay study, 1.3: half
of the applications are global, half live in one to three zones. Sizes, which the study does not give, are log-uniform
from 30 to 1,200 members: a mean of 317, as there (647,000 memberships of 2,000 applications).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefl.overlay.rank import WEIGHTS
from edgefl.sim.scale.world import Devices, Floats, Ids, Ints
from edgefl.wire.contact import Capacity

HASH_BITS = 52
"""Of the hash that make a rank, as in `overlay/rank.py` (a test compares the two)."""

FEWEST_MEMBERS, MOST_MEMBERS = 30, 1200


@dataclass(frozen=True, slots=True, eq=False)
class Memberships:
    """One row per (application, member), in the order of application, zone, falling rank."""

    app: Ints
    device: Ints
    zone: Ints
    rank: Floats

    def __len__(self) -> int:
        return len(self.app)


def hashes(node_ids: Ids, app: int) -> Ids:
    """The hash of each node id with an application, before it is turned into a rank."""
    data, tail = node_ids.astype(">u8").tobytes(), app.to_bytes(8, "big")
    blake2b = hashlib.blake2b
    digests = [
        blake2b(data[at : at + 8] + tail, digest_size=8, person=b"edgefl rank").digest()
        for at in range(0, len(data), 8)
    ]
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)


def ranks(hashed: Ids, capacities: npt.NDArray[Any]) -> Floats:
    """The value of `overlay.rank.rank` for devices that can be dialled, from their hashes and capacity classes."""
    weights = np.array([WEIGHTS[Capacity(capacity)] for capacity in range(len(Capacity))])
    uniform = ((hashed >> np.uint64(64 - HASH_BITS)).astype(np.float64) + 0.5) / (1 << HASH_BITS)
    values: Floats = -np.log2(-np.log(uniform) / weights[capacities])
    return values


def enrol(devices: Devices, groups: list[tuple[int, Ints]]) -> Memberships:
    """The memberships of applications, given as (id, devices)."""
    app = np.repeat(np.arange(len(groups)), [len(group) for _, group in groups])
    device = np.concatenate([np.zeros(0, np.int64), *(group for _, group in groups)])
    rank = np.concatenate(
        [np.zeros(0), *(ranks(hashes(devices.ids[group], name), devices.capacity[group]) for name, group in groups)]
    )
    zone = devices.zone[device].astype(np.int64)
    # Equal ranks stand in the order of their ids, as in the shipped order.
    order = np.lexsort((-device, -rank, zone, app))
    return Memberships(app[order], device[order], zone[order], rank[order])


def draw_groups(devices: Devices, apps: int, random: np.random.Generator) -> list[tuple[int, Ints]]:
    """Applications with random ids and members. Where a random device stands, there an application lives: the larger
    the zone, the more of them."""
    groups = []
    count = len(devices)
    for number in range(apps):
        name = int(random.integers(0, 1 << 64, dtype=np.uint64))
        size = round(FEWEST_MEMBERS * float((MOST_MEMBERS / FEWEST_MEMBERS) ** random.random()))
        homes = np.unique(devices.zone[random.integers(0, count, random.integers(1, 4))])
        if number % 2:
            pool = np.concatenate([devices.in_zone(int(zone)) for zone in homes]).astype(np.int64)
            chosen = pool[random.choice(len(pool), min(size, len(pool)), replace=False, shuffle=False)]
        else:
            chosen = random.choice(count, min(size, count), replace=False, shuffle=False)
        groups.append((name, np.sort(chosen)))
    return groups
