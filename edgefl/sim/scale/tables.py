"""Routing tables of 10^6 devices without a single table: what a device would hold is a pure function of its id.

A slot (row, digit) of a device is a prefix, hence a contiguous range of the sorted ids (in the fleet, and in each
zone); two binary searches find it. Its contacts are the three nearest by RTT of a few candidates drawn by hash, spread
evenly over the range: those that a device would have measured (proximity neighbour selection). As in the shipped
`edgefl/overlay/routing_table.py`, devices of the own zone come first, and only places that they cannot fill go to
others. Leaf sets are neighbours in the two orders. All of it is computed when a route asks for it, and forgotten.

Approximation: the shipped table meets candidates by gossip, in time; here it has met `candidates` of each slot.
`cross_check.py` says how far that is from the truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefl.overlay.ids import DIGIT_BITS, DIGITS, ID_BITS
from edgefl.overlay.profile import NODE
from edgefl.sim.scale.world import ID_REST, PREFIX_BITS, Devices, Floats, Ids, Ints

ROWS = PREFIX_BITS // DIGIT_BITS
"""Rows that can hold anybody, because no two ids share 48 bits."""

CANDIDATES = 8
"""Devices measured for each slot. Gossip measures one stranger every 30 s for as long as a device runs: in the event
simulator the stretch of the shipped tables is that of 5 candidates after ten minutes, of 7 after 45."""

_TOP_DIGIT = ID_BITS - DIGIT_BITS  # how far the first digit is shifted; row r: three bits less per row


def digits(ids: Ids, row: npt.NDArray[Any]) -> Ints:
    """`overlay.ids.digit` of arrays, for the first 16 rows."""
    shift = (_TOP_DIGIT - DIGIT_BITS * row).astype(np.uint64)
    digit: Ints = ((ids >> shift) & np.uint64(DIGITS - 1)).astype(np.int64)
    return digit


def shared_digits(a: Ids, b: Ids) -> Ints:
    """`overlay.ids.shared_digits` of arrays, but 16 for all that agree in their first 48 bits."""
    length = np.frexp(((a ^ b) >> ID_REST).astype(np.float64))[1]
    shared: Ints = ((PREFIX_BITS - length) // DIGIT_BITS).astype(np.int64)
    return shared


@dataclass(frozen=True, slots=True, eq=False)
class Slots:
    """Slots of several devices, as columns: `of` says whose (a position in the caller's array of devices)."""

    of: Ints
    row: Ints
    digit: Ints
    first: Ids
    last: Ids
    """The lowest and the highest id with the slot's prefix."""

    def only(self, which: npt.NDArray[Any]) -> Slots:
        return Slots(self.of[which], self.row[which], self.digit[which], self.first[which], self.last[which])

    def belonging_to(self, of: Ints) -> Slots:
        """The same slots, their owners numbered anew."""
        return Slots(of, self.row, self.digit, self.first, self.last)


def slots(devices: Devices, at: Ints, keys: Ids | None = None) -> Slots:
    """The slots of the devices `at`, empty ones too; with `keys` only those whose prefix is nearer to the key (one for
    each device) than the device itself, which is where a request goes. Rows in which a device is alone are left out."""
    ids = devices.ids[at]
    alone = ROWS if len(devices) < 2 else 1 + _deepest_row(devices, at)
    start = np.zeros(len(at), np.int64) if keys is None else shared_digits(ids, keys)
    columns = []
    for row in range(ROWS):
        active = np.flatnonzero((start <= row) & (row < alone))
        if not len(active):
            continue
        here, digit = np.full(len(active), row), np.arange(DIGITS)
        own = digits(ids[active], here)[:, None]
        if keys is None:
            wanted = digit != own
        else:
            wanted_digit = digits(keys[active], here)[:, None]
            wanted = (digit ^ wanted_digit) < (own ^ wanted_digit)
        whose, which = np.nonzero(wanted)
        shift = np.uint64(_TOP_DIGIT - DIGIT_BITS * row)
        above = shift + np.uint64(DIGIT_BITS)
        prefix = np.uint64(0) if row == 0 else ids[active[whose]] >> above << above
        first = prefix | which.astype(np.uint64) << shift
        columns.append((active[whose], here[whose], which, first, first | ((np.uint64(1) << shift) - np.uint64(1))))
    if not columns:
        nobody, nothing = np.zeros(0, np.int64), np.zeros(0, np.uint64)
        return Slots(nobody, nobody, nobody, nothing, nothing)
    of, rows, digit, first, last = (np.concatenate(column) for column in zip(*columns, strict=True))
    return Slots(of, rows, digit, first, last)


def _deepest_row(devices: Devices, at: Ints) -> Ints:
    """The digits that each device shares with the neighbour that it shares most with."""
    ids, end = devices.ids, len(devices) - 1
    below = np.where(at > 0, shared_digits(ids[at], ids[np.maximum(at - 1, 0)]), -1)
    above = np.where(at < end, shared_digits(ids[at], ids[np.minimum(at + 1, end)]), -1)
    return np.maximum(below, above)


def zone_contacts(devices: Devices, at: Ints, asked: Slots, candidates: int) -> tuple[Ints, Ints, Ints]:
    """Contacts of the own zone in each slot: (whose, contact) as columns, and for every slot how many it has."""
    zone = devices.zone[at[asked.of]].astype(np.uint64) << np.uint64(PREFIX_BITS)
    low = np.searchsorted(devices.zone_keys, zone | asked.first >> ID_REST)
    size = np.searchsorted(devices.zone_keys, zone | asked.last >> ID_REST, side="right") - low
    filled = np.flatnonzero(size)
    chosen = _spread(devices, at, asked.only(filled), low[filled], size[filled], candidates, salt=1)
    contact = np.where(chosen >= 0, devices.zone_order[chosen], -1)
    nearest = _nearest(devices, at[asked.of[filled]], contact)
    whose, which = np.nonzero(nearest >= 0)
    count = np.minimum(size, NODE.slot_contacts)
    return asked.of[filled][whose], nearest[whose, which], count


def other_contacts(
    devices: Devices, at: Ints, asked: Slots, candidates: int, taken: npt.NDArray[Any]
) -> tuple[Ints, Ints]:
    """Contacts of other zones that top up each slot, of whose places `taken` are taken: (whose, contact)."""
    asked, taken = asked.only(free := taken < NODE.slot_contacts), taken[free]
    low = np.searchsorted(devices.ids, asked.first)
    size = np.searchsorted(devices.ids, asked.last, side="right") - low
    filled = np.flatnonzero(size)
    asked, taken = asked.only(filled), taken[filled]
    contact = _spread(devices, at, asked, low[filled], size[filled], candidates, salt=2)
    foreign = devices.zone[contact] != devices.zone[at[asked.of]][:, None]
    nearest = _nearest(devices, at[asked.of], np.where(foreign, contact, -1))
    whose, which = np.nonzero((nearest >= 0) & (np.arange(NODE.slot_contacts) < (NODE.slot_contacts - taken)[:, None]))
    return asked.of[whose], nearest[whose, which]


def _spread(
    devices: Devices, at: Ints, asked: Slots, low: Ints, size: Ints, candidates: int, *, salt: int
) -> npt.NDArray[Any]:
    """Positions of up to `candidates` devices of each range (columns; -1: none): one at random from each equal part."""
    column = np.arange(candidates)
    name = devices.ids[at[asked.of]] ^ (asked.row * DIGITS + asked.digit + salt * 1000).astype(np.uint64)
    part = column + _uniform(name[:, None] + column.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    drawn = low[:, None] + (part * (size[:, None] / candidates)).astype(np.int64)
    few = size[:, None] <= candidates
    return np.where(few, np.where(column < size[:, None], low[:, None] + column, -1), drawn)


def _nearest(devices: Devices, of: Ints, contacts: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Of each row of contacts (-1: none) the three nearest to the device `of`, nearest first."""
    rtt_s = np.where(contacts >= 0, devices.rtt_s(of[:, None], contacts), np.inf)
    nearest = np.argsort(rtt_s, axis=1, kind="stable")[:, : NODE.slot_contacts]
    return np.take_along_axis(contacts, nearest, axis=1)


def _uniform(words: Ids) -> Floats:
    """A number in [0, 1) for each word (the finaliser of SplitMix64)."""
    words = (words ^ words >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ words >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    uniform: Floats = ((words ^ words >> np.uint64(31)) >> np.uint64(11)) * 2.0**-53
    return uniform


def zone_leaves(devices: Devices, at: Ints) -> npt.NDArray[Any]:
    """Four devices on either side in the ring of the zone (columns); in a small ring some twice, and oneself."""
    zone = devices.zone[at]
    start, size = devices.zone_start[zone][:, None], devices.zone_sizes()[zone][:, None]
    place = devices.zone_place[at][:, None] - start
    return devices.zone_order[start + (place + _sides(NODE.zone_side)) % size]


def fleet_leaves(devices: Devices, at: Ints) -> npt.NDArray[Any]:
    """Three devices on either side in the ring of the fleet."""
    return (at[:, None] + _sides(NODE.fleet_side)) % len(devices)


def _sides(side: int) -> Ints:
    return np.concatenate([np.arange(-side, 0), np.arange(1, side + 1)])


def all_contacts(devices: Devices, at: Ints, candidates: int = CANDIDATES) -> tuple[Ints, Ints]:
    """Everybody whom each device knows, once: (whose, contact), sorted."""
    asked = slots(devices, at)
    whose, contact, taken = zone_contacts(devices, at, asked, candidates)
    others = other_contacts(devices, at, asked, candidates, taken)
    zone, fleet = zone_leaves(devices, at), fleet_leaves(devices, at)
    everybody = np.arange(len(at))
    return distinct(
        len(devices),
        np.concatenate(
            [whose, others[0], np.repeat(everybody, zone.shape[1]), np.repeat(everybody, fleet.shape[1]), everybody]
        ),
        np.concatenate([contact, others[1], zone.ravel(), fleet.ravel(), at]),
        without=at,
    )


def distinct(devices: int, whose: Ints, contact: npt.NDArray[Any], without: Ints) -> tuple[Ints, Ints]:
    """Pairs (whose, contact) once each, sorted, without those of a device with itself."""
    pairs = np.unique(whose.astype(np.int64) * devices + contact)
    pairs = pairs[pairs % devices != without[pairs // devices]]
    return pairs // devices, pairs % devices


@dataclass(frozen=True, slots=True, eq=False)
class TableSizes:
    """What each device keeps."""

    slots: Ints
    """Slots that hold anybody."""
    places: Ints
    """Contacts in slots, up to three in each."""
    leaves: Ints
    """In both leaf sets together."""


def table_sizes(devices: Devices) -> TableSizes:
    """Exact, for every device: counted from the prefixes that occur, whatever the contacts are."""
    count = len(devices)
    shared = np.concatenate([[-1], shared_digits(devices.ids[1:], devices.ids[:-1])])
    filled, places = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for row in range(int(shared.max()) + 1):
        own_prefix = np.cumsum(shared < row) - 1  # numbers the groups that agree in `row` digits
        new = shared < row + 1
        own_slot = np.cumsum(new) - 1
        contacts = np.minimum(np.bincount(own_slot), NODE.slot_contacts)
        parent = own_prefix[new]
        filled += (np.bincount(parent) - 1)[own_prefix]
        places += np.bincount(parent, contacts).astype(np.int64)[own_prefix] - contacts[own_slot]
    zone_ring = np.minimum(devices.zone_sizes()[devices.zone] - 1, 2 * NODE.zone_side)
    return TableSizes(filled, places, zone_ring + min(count - 1, 2 * NODE.fleet_side))
