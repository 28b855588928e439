"""Whom a tracker proposes, and whom it forgets when it is full: pure choices among members.

propose       the members worth knowing for one of them: the highest of all, and possible parents
zone_seeds    the members of a zone worth knowing for one of them, by id
least_needed  the member that a full tracker forgets
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from edgefl.overlay.ids import clockwise
from edgefl.overlay.rank import Rank, can_be_parent, rank
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


def zone_seeds(members: Iterable[Contact], asker: int, random: Random) -> tuple[Contact, ...]:
    """Members of a zone for one of them: its nearest by id on either side, and as many at random."""
    ring = sorted((m for m in members if m.node_id != asker), key=lambda member: clockwise(asker, member.node_id))
    side = ZONE_SEEDS // 4
    chosen = [*ring[:side], *ring[-side:], *_sample(random, ring, ZONE_SEEDS // 2)]
    return tuple({member.node_id: member for member in chosen}.values())


def _sample(random: Random, items: list[Contact], count: int) -> list[Contact]:
    return random.sample(items, min(count, len(items)))
