"""Routes through the two rings, hop by hop for thousands of requests at once, as `edgefl/overlay/routing.py` decides.

A request goes to the slot nearest to the key, there to a contact of the own zone if the zone has any in that slot, of
these to the one nearest to the key by XOR. It ends where nobody nearer is known. Every hop is strictly nearer, so it
ends.

With `alive`, devices have just vanished and nothing is repaired yet: a hop that does not answer costs a try, the next
best follows, and after eight tries at one device the request is given up, as in the shipped router. (The shipped lookup
is then repeated once by another way; here it counts as lost.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefl.overlay.ids import DIGIT_BITS, ID_BITS
from edgefl.overlay.routing import MAX_TRIES
from edgefl.sim.scale.tables import (
    CANDIDATES,
    distinct,
    fleet_leaves,
    other_contacts,
    shared_digits,
    slots,
    zone_contacts,
    zone_leaves,
)
from edgefl.sim.scale.world import Devices, Flags, Floats, Ids, Ints

NOBODY = -1


@dataclass(frozen=True, slots=True, eq=False)
class Routes:
    """Where requests went: row h of `path` holds the devices after h hops (the last one stays to the end)."""

    path: Ints
    hops: Ints
    length_s: Floats
    """Sum of the RTTs of all hops."""
    crossings: Ints
    """Hops between zones."""
    given_up: Flags

    @property
    def end(self) -> Ints:
        last: Ints = self.path[-1]
        return last


def follow(
    devices: Devices, start: Ints, keys: Ids, *, candidates: int = CANDIDATES, alive: Flags | None = None
) -> Routes:
    """Send a request for each key from the device `start` beside it."""
    at = start.astype(np.int64)
    path = [at]
    hops, crossings = np.zeros(len(at), np.int64), np.zeros(len(at), np.int64)
    length_s, given_up = np.zeros(len(at)), np.zeros(len(at), np.bool_)
    moving = np.arange(len(at))
    for _ in range(ID_BITS):
        hop, tries = next_hops(devices, at[moving], keys[moving], candidates, alive)
        lost = tries > MAX_TRIES
        given_up[moving[lost]] = True
        onward = (hop != NOBODY) & ~lost
        moving, hop = moving[onward], hop[onward]
        if not len(moving):
            break
        before, at = at[moving], at.copy()
        at[moving] = hop
        path.append(at)
        hops[moving] += 1
        length_s[moving] += devices.rtt_s(before, hop)
        crossings[moving] += devices.zone[before] != devices.zone[hop]
    return Routes(np.array(path), hops, length_s, crossings, given_up)


def next_hops(devices: Devices, at: Ints, keys: Ids, candidates: int, alive: Flags | None) -> tuple[Ints, Ints]:
    """The next device for each request (-1: it ends here), and how many were tried for it."""
    asked = slots(devices, at, keys)
    near, near_contact, taken = zone_contacts(devices, at, asked, candidates)
    settles = shared_digits(devices.ids[near_contact], keys[near]) > shared_digits(devices.ids[at[near]], keys[near])
    stays = np.zeros(len(at), np.bool_)
    stays[near[settles]] = alive is None  # nobody of another zone can be preferred, so none is computed
    leaving = ~stays[asked.of]
    far, far_contact = other_contacts(devices, at, asked.only(leaving), candidates, taken[leaving])
    leaves = np.concatenate([zone_leaves(devices, at), fleet_leaves(devices, at)], axis=1)
    whose = np.concatenate([near, far, np.repeat(np.arange(len(at)), leaves.shape[1])])
    contact = np.concatenate([near_contact, far_contact, leaves.ravel()])
    nearer = (devices.ids[contact] ^ keys[whose]) < (devices.ids[at[whose]] ^ keys[whose])
    of, contact = distinct(len(devices), whose[nearer], contact[nearer], without=at)
    ranking = np.lexsort((*_order(devices, at[of], keys[of], contact), of))
    of, contact = of[ranking], contact[ranking]
    begin = np.searchsorted(of, np.arange(len(at) + 1))
    live = np.arange(len(of)) if alive is None else np.flatnonzero(alive[contact])
    first = np.concatenate([live, [len(of)]])[np.searchsorted(live, begin[:-1])]  # of each, or of a later device
    found = first < begin[1:]
    hop = np.full(len(at), NOBODY)
    hop[found] = contact[first[found]]
    return hop, np.minimum(first, begin[1:] - 1) + 1 - begin[:-1]


def _order(devices: Devices, at: Ints, keys: Ids, contact: Ints) -> tuple[npt.NDArray[Any], ...]:
    """By what the device `at` prefers one contact to another, least important first."""
    distance = devices.ids[contact] ^ keys
    settled = (shared_digits(devices.ids[at], keys) + 1) * DIGIT_BITS
    slot = distance >> (ID_BITS - settled).astype(np.uint64)
    return distance, devices.zone[contact] != devices.zone[at], slot


def owners(ids: Ids, keys: Ids) -> Ints:
    """The position in the sorted `ids` of the one nearest to each key by XOR: down the tree of bits."""
    low, high = np.zeros(len(keys), np.int64), np.full(len(keys), len(ids), np.int64)
    prefix = np.zeros(len(keys), np.uint64)
    for bit in range(ID_BITS - 1, -1, -1):
        one = np.uint64(1) << np.uint64(bit)
        if np.all(high - low == 1):
            break
        middle = np.searchsorted(ids, prefix | one)
        middle = np.clip(middle, low, high)
        up = (keys & one != 0) & (middle < high) | (middle == low)
        low, high = np.where(up, middle, low), np.where(up, high, middle)
        prefix = np.where(up, prefix | one, prefix)
    return low
