"""Whom trackers propose to thousands of members at once: `edgefl/overlay/proposals.py` as columns.

A member hears of the three highest of all, of the four highest of its zone, and of four
higher ones of its zone at random; the head of a zone of the heads of other zones and some others. A tracker keeps 128
members: the 16 highest, and of the rest so many that no zone has more than its share.

Approximation: random draws take one member from each equal part of the order, where the shipped tracker draws freely.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefl.overlay.proposals import ALWAYS_KEPT, OTHER_HEADS, OTHER_RANDOM, TOP, ZONE_HIGHEST, ZONE_RANDOM
from edgefl.sim.scale.applications import Memberships
from edgefl.sim.scale.world import Flags, Ints
from edgefl.wire.overlay import MAX_TRACKER_ENTRIES


@dataclass(frozen=True, slots=True, eq=False)
class Proposals:
    """Seeking members (rows), and beside each the members proposed to it (columns; -1: none)."""

    seeker: Ints
    proposed: npt.NDArray[Any]

    def only(self, which: npt.NDArray[Any]) -> Proposals:
        return Proposals(self.seeker[which], self.proposed[which])


def zone_proposals(members: Memberships, here: Ints, random: np.random.Generator) -> Proposals:
    """For all that are `here` (rows, ascending) and have somebody higher in their zone: members of their zone."""
    app, zone, rank = members.app[here], members.zone[here], members.rank[here]
    new_zone = _changes(app, zone)
    start = np.flatnonzero(new_zone)[np.cumsum(new_zone) - 1]
    new_level = _changes(app, zone, np.floor(rank))
    place = np.arange(len(here)) - start
    kept = _kept(app, zone, rank)
    known = np.minimum(place, kept)
    above = np.minimum(np.flatnonzero(new_level)[np.cumsum(new_level) - 1] - start, known)
    top = np.bincount(np.cumsum(new_zone) - 1, _order_in_app(app, rank) < TOP).astype(np.int64)[np.cumsum(new_zone) - 1]
    some = place > 0
    known, above, top, start = known[some], above[some], top[some], start[some]
    limit = np.where(above > 0, above, known)[:, None]
    heads = np.broadcast_to(np.arange(ZONE_HIGHEST), (len(known), ZONE_HIGHEST))
    drawn = _draw(known, ZONE_RANDOM, random)
    highest = np.where(np.arange(TOP) < top[:, None], np.arange(TOP), -1)
    places = np.concatenate([heads, drawn, highest], axis=1)
    proposed = np.where((places >= 0) & (places < limit), here[np.clip(start[:, None] + places, 0, len(here) - 1)], -1)
    return Proposals(here[some], proposed)


def head_proposals(members: Memberships, here: Ints, random: np.random.Generator) -> Proposals:
    """For all that are `here` and the highest of their zone, but not the highest of all: members of other zones."""
    app, zone, rank = members.app[here], members.zone[here], members.rank[here]
    is_head, place = _changes(app, zone), _order_in_app(app, rank)
    order = np.lexsort((-rank, app))
    start = np.arange(len(here)) - place[order]  # of the application, in this order
    heads = np.flatnonzero(is_head[order])
    heads_above = np.arange(len(heads)) - np.searchsorted(heads, start[heads])
    seeking = place[order[heads]] > 0
    at, heads_above = heads[seeking], heads_above[seeking]
    first_head = (np.arange(len(heads))[seeking] - heads_above)[:, None]
    higher = at - start[at]
    head = _draw(heads_above, OTHER_HEADS, random)
    others = np.concatenate([_draw(higher, OTHER_RANDOM, random), _draw(np.minimum(higher, TOP), TOP, random)], axis=1)
    proposed = np.concatenate(
        [
            np.where(head >= 0, order[heads[np.minimum(first_head + head, len(heads) - 1)]], -1),
            np.where(others >= 0, order[start[at][:, None] + others], -1),
        ],
        axis=1,
    )
    zone_place = np.arange(len(here)) - np.flatnonzero(is_head)[np.cumsum(is_head) - 1]
    tracked = zone_place < _kept(app, zone, rank)
    proposed = np.where(tracked[proposed], proposed, -1)
    level, seeker = np.floor(rank), order[at]
    above = (proposed >= 0) & (level[proposed] > level[seeker][:, None])
    proposed = np.where(above | ~above.any(axis=1)[:, None], proposed, -1)
    return Proposals(here[seeker], np.where(proposed >= 0, here[proposed], -1))


def _changes(*columns: npt.NDArray[Any]) -> Flags:
    """Where a new group begins: rows that differ from the row before in any of the columns."""
    new = np.zeros(len(columns[0]), np.bool_)
    new[:1] = True
    for column in columns:
        new[1:] |= column[1:] != column[:-1]
    return new


def _draw(size: Ints, count: int, random: np.random.Generator) -> npt.NDArray[Any]:
    """Up to `count` different numbers below each size, -1 for the rest: one from each equal part."""
    column = np.arange(count)
    part = ((column + random.random((len(size), count))) * (size[:, None] / count)).astype(np.int64)
    return np.where(size[:, None] <= count, np.where(column < size[:, None], column, -1), part)


def _order_in_app(app: Ints, rank: npt.NDArray[Any]) -> Ints:
    """How many of its application outrank each row."""
    order = np.lexsort((-rank, app))
    new = _changes(app[order])
    place = np.empty(len(app), np.int64)
    place[order] = np.arange(len(app)) - np.flatnonzero(new)[np.cumsum(new) - 1]
    return place


def _kept(app: Ints, zone: Ints, rank: npt.NDArray[Any]) -> Ints:
    """How many of each row's zone the tracker of its application keeps: the highest so many."""
    new_zone, new_app = _changes(app, zone), _changes(app)
    group = np.cumsum(new_zone) - 1
    always = np.bincount(group, _order_in_app(app, rank) < ALWAYS_KEPT).astype(np.int64)
    size = np.bincount(group)
    first_group = np.append(group[new_app], len(size))
    entries = np.diff(np.append(np.flatnonzero(new_app), len(app)))
    kept = size.copy()
    room = MAX_TRACKER_ENTRIES - ALWAYS_KEPT
    for number in np.flatnonzero(entries > MAX_TRACKER_ENTRIES):
        groups = slice(first_group[number], first_group[number + 1])
        rest = size[groups] - always[groups]
        total = np.minimum(rest[:, None], np.arange(room + 1)).sum(axis=0)
        each = int(np.searchsorted(total, room, side="right")) - 1
        more = np.flatnonzero(rest > each)[: room - int(total[each])]
        share = np.minimum(rest, each)
        share[more] += 1
        kept[groups] = always[groups] + share
    of_rows: Ints = kept[group]
    return of_rows
