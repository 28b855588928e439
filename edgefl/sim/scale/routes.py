"""Routes through the two rings, hop by hop for thousands of requests at once, as `edgefl/overlay/routing.py` decides.

A request goes to the contact of the own zone that is nearest to the key by XOR; only a device that knows nobody nearer
in its zone sends it out, to the contact of any zone that is nearest to the key. It ends where nobody nearer is known.
Every hop is strictly nearer, so it ends.

With `alive`, devices have just vanished and nothing is repaired yet: a hop that does not answer costs a try, the next
best follows, and after eight tries at one device the request is given up, as in the shipped router. (The shipped lookup
is then repeated once by another way; here it counts as lost.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefl.overlay.ids import ID_BITS
from edgefl.overlay.routing import MAX_TRIES
from edgefl.sim.scale.tables import (
    CANDIDATES,
    distinct,
    fleet_leaves,
    other_contacts,
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
    whose, contact, taken = zone_contacts(devices, at, asked, candidates)
    leaves = zone_leaves(devices, at)
    known = _Known(devices, at, keys, whose, contact, leaves, inside=True)
    hop, tries = known.best(alive)
    left = np.flatnonzero(hop == NOBODY)
    if len(left):
        position = np.full(len(at), -1)
        position[left] = np.arange(len(left))
        owner = position[asked.of]
        asked = asked.belonging_to(owner).only(owner >= 0)
        whose, contact = other_contacts(devices, at[left], asked, candidates, taken[owner >= 0])
        leaves = fleet_leaves(devices, at[left])
        known = _Known(devices, at[left], keys[left], whose, contact, leaves, inside=False)
        hop[left], more = known.best(alive)
        tries[left] += more
    return hop, tries


class _Known:
    """The contacts of each device that are nearer to its key and of the right kind, once each."""

    def __init__(
        self,
        devices: Devices,
        at: Ints,
        keys: Ids,
        whose: Ints,
        contact: Ints,
        leaves: npt.NDArray[Any],
        *,
        inside: bool,
    ) -> None:
        whose = np.concatenate([whose, np.repeat(np.arange(len(at)), leaves.shape[1])])
        contact = np.concatenate([contact, leaves.ravel()])
        right = (devices.zone[contact] == devices.zone[at[whose]]) == inside
        right &= (devices.ids[contact] ^ keys[whose]) < (devices.ids[at[whose]] ^ keys[whose])
        self._of, self._contact = distinct(len(devices), whose[right], contact[right], without=at)
        self._devices, self._at, self._keys = devices, at, keys

    def best(self, alive: Flags | None) -> tuple[Ints, Ints]:
        """The live contact nearest to each key, and how many are tried up to it (all, if none is alive)."""
        hop = np.full(len(self._at), NOBODY)
        ranking = np.lexsort((self._devices.ids[self._contact] ^ self._keys[self._of], self._of))
        of, contact = self._of[ranking], self._contact[ranking]
        begin = np.searchsorted(of, np.arange(len(self._at) + 1))
        live = np.arange(len(of)) if alive is None else np.flatnonzero(alive[contact])
        first = np.concatenate([live, [len(of)]])[np.searchsorted(live, begin[:-1])]  # of each, or of a later device
        found = first < begin[1:]
        hop[found] = contact[first[found]]
        return hop, np.minimum(first, begin[1:] - 1) + 1 - begin[:-1]


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
