"""Whom a tracker proposes, and whom it forgets when it is full: pure choices among members.

propose       the members worth knowing for one of them: the highest of all, and possible parents
anchors       the members that stand for a zone's place
population    how many members there are, by those that a full tracker has kept
zone_seeds    the members of a zone worth knowing for one of them, by id
least_needed  the member that a full tracker forgets
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from edgefl.overlay.ids import clockwise
from edgefl.overlay.rank import WEIGHTS, Rank, can_be_parent, is_helper, rank
from edgefl.overlay.zone_rule import ANCHORS
from edgefl.wire.contact import Contact

if TYPE_CHECKING:
    from random import Random

ALWAYS_KEPT = 16
"""The highest ranks: with 12 children each, the top two levels of any tree."""

TOP = 3
"""Members of highest rank in every answer: the root and its runners-up."""

ZONE_HIGHEST, ZONE_RANDOM, OTHER_HEADS, OTHER_RANDOM = 4, 4, 6, 4
"""A handful of each kind; with the top three at most 21 contacts, 480 bytes."""

ZONE_SEEDS = 12
"""Members of a zone proposed to one of them: half of them its nearest by id."""


def highest(members: Iterable[Contact], app: int) -> Contact | None:
    """The member of highest rank."""
    return max(members, key=lambda member: rank(member, app), default=None)


def least_needed(members: list[Contact], app: int) -> Contact:
    """Whom a full tracker forgets: never one of the 16 highest; of the rest the lowest of the zone that has most."""
    rest = sorted(members, key=lambda member: rank(member, app))[:-ALWAYS_KEPT]
    sizes = Counter(member.zone for member in rest)
    fullest = max(sizes.values())
    return next(member for member in rest if sizes[member.zone] == fullest)


def propose(
    members: Iterable[Contact], asker: Contact, app: int, standing: Rank, random: Random, *, brief: bool
) -> tuple[Contact, ...]:
    """The members worth knowing for one of them: the three highest overall, and possible parents, which outrank it.

    Of its own zone the highest, at the top of the tree, and a few at random; of other zones their heads and a few at
    random. A renewal is answered briefly: the three highest, and the highest of its zone.
    """
    ranked = sorted(
        ((rank(member, app), member) for member in members if member.node_id != asker.node_id), reverse=True
    )
    top = [member for _, member in ranked[:TOP]]
    parents = [(place, member) for place, member in ranked if place > standing and can_be_parent(place)]
    zone = [(place, member) for place, member in parents if member.zone == asker.zone]
    if brief:
        chosen = top + [member for _, member in zone[:1]]
    else:
        others: dict[int, list[Contact]] = {}
        for _, member in parents:
            if member.zone != asker.zone:
                others.setdefault(member.zone, []).append(member)
        heads = [members[0] for members in others.values()]
        rest = [member for members in others.values() for member in members[1:]]
        chosen = [
            *top,
            *[member for _, member in zone[:ZONE_HIGHEST]],
            *_sample(random, [member for _, member in zone], ZONE_RANDOM),
            *_sample(random, heads, OTHER_HEADS),
            *_sample(random, rest, OTHER_RANDOM),
        ]
    return tuple({member.node_id: member for member in chosen}.values())


def anchors(members: Iterable[Contact], key: int) -> tuple[Contact, ...]:
    """The members of a zone that stand for its place: those of highest rank that can be dialled."""
    ranked = sorted(((rank(member, key), member) for member in members), reverse=True)
    return tuple(member for place, member in ranked[:ANCHORS] if can_be_parent(place))


def population(members: list[Contact], key: int, limit: int) -> int:
    """How many members there are, of which at most the `limit` of highest rank have been kept.

    -ln U / w is exponential with rate w, so a member of weight w is among those below the highest value kept, t, with
    probability 1 - exp(-w t); the sum of the inverse probabilities is unbiased (Horvitz-Thompson, as in priority
    sampling), and off by about 9 % with 128 kept. Those of the lower tiers, who cannot be dialled or volunteer, are
    counted while there is room.
    """
    if len(members) < limit:
        return len(members)
    kept = sorted(
        (2.0 ** -place[1], WEIGHTS[member.capacity])
        for member in members
        if can_be_parent(place := rank(member, key)) and not is_helper(place)
    )
    if len(kept) < 2:
        return len(members)
    most = kept[-1][0]
    estimate = sum(1.0 / -math.expm1(-weight * most) for _, weight in kept[:-1])
    return max(len(members), round(estimate))


def zone_seeds(members: Iterable[Contact], asker: int, random: Random) -> tuple[Contact, ...]:
    """Members of a zone for one of them: its nearest by id on either side, and as many at random."""
    ring = sorted((m for m in members if m.node_id != asker), key=lambda member: clockwise(asker, member.node_id))
    side = ZONE_SEEDS // 4
    chosen = [*ring[:side], *ring[-side:], *_sample(random, ring, ZONE_SEEDS // 2)]
    return tuple({member.node_id: member for member in chosen}.values())


def _sample(random: Random, items: list[Contact], count: int) -> list[Contact]:
    return random.sample(items, min(count, len(items)))
