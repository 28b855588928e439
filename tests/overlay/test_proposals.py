"""Whom a tracker proposes and whom it forgets."""

from __future__ import annotations

from random import Random
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.overlay_contacts import contact

from edgefl.overlay.proposals import (
    ALWAYS_KEPT,
    TOP,
    ZONE_SEEDS,
    anchors,
    least_needed,
    population,
    propose,
    zone_seeds,
)
from edgefl.overlay.rank import can_be_parent, rank
from edgefl.wire import Capacity, Contact, Role
from edgefl.wire.overlay import MAX_CANDIDATES

APP = 0x1234_5678_9ABC_DEF0

members_of = st.lists(
    st.builds(
        contact,
        st.integers(0, 2**64 - 1),
        zone=st.integers(0, 3),
        capacity=st.sampled_from(Capacity),
        role=st.sampled_from((Role.NODE, Role.NODE, Role.LEAF)),
    ),
    unique_by=lambda c: c.node_id,
    min_size=1,
    max_size=60,
)


def ranked(members: list[Contact]) -> list[Contact]:
    return sorted(members, key=lambda c: rank(c, APP), reverse=True)


@given(members_of, st.data(), st.booleans(), st.booleans())
def test_proposals_name_the_highest_and_else_only_possible_parents(
    members: list[Contact], data: st.DataObject, brief: bool, observer: bool
) -> None:
    asker = data.draw(st.sampled_from(members))
    standing = rank(asker, APP, observer)
    chosen = propose(members, asker, APP, standing, Random(1), brief=brief)
    others = [c for c in members if c is not asker]
    assert set(ranked(others)[:TOP]) <= set(chosen)
    assert asker not in chosen
    assert len({c.node_id for c in chosen}) == len(chosen) <= (TOP + 1 if brief else MAX_CANDIDATES)
    for c in set(chosen) - set(ranked(others)[:TOP]):
        assert rank(c, APP) > standing
        assert can_be_parent(rank(c, APP))
    parents = [c for c in others if rank(c, APP) > standing and can_be_parent(rank(c, APP))]
    if any(c.zone == asker.zone for c in parents):
        assert any(c.zone == asker.zone and c in parents for c in chosen)


def test_heads_of_other_zones_are_proposed_before_the_rest_of_them() -> None:
    members = [contact(n * 0x9E37_79B9_7F4A_7C15 % 2**64, zone=n % 4) for n in range(1, 100)]
    lowest = ranked(members)[-1]
    chosen = propose(members, lowest, APP, rank(lowest, APP), Random(1), brief=False)
    heads = {ranked([m for m in members if m.zone == zone])[0] for zone in range(4) if zone != lowest.zone}
    assert heads <= set(chosen)


@given(st.lists(st.integers(0, 2**64 - 1), unique=True, max_size=60), st.integers(0, 2**64 - 1))
def test_zone_seeds_are_bounded_and_hold_the_nearest(ids: list[int], asker: int) -> None:
    seeds = zone_seeds([contact(i) for i in ids], asker, Random(1))
    others = [i for i in ids if i != asker]
    assert len(seeds) <= ZONE_SEEDS
    if others:
        assert min(others, key=lambda i: (i - asker) % 2**64) in {c.node_id for c in seeds}


@given(
    st.lists(
        st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 4)), min_size=20, max_size=60, unique_by=lambda t: t[0]
    )
)
def test_the_victim_is_never_one_of_the_highest_nor_the_head_of_a_zone(pairs: list[tuple[int, int]]) -> None:
    members = [contact(i, zone=zone) for i, zone in pairs]
    victim = least_needed(members, APP)
    assert victim not in ranked(members)[:ALWAYS_KEPT]
    rest = ranked(members)[ALWAYS_KEPT:]
    if any(sum(m.zone == other.zone for m in rest) > 1 for other in rest):
        assert victim is not ranked([m for m in rest if m.zone == victim.zone])[0]


@given(members_of)
def test_anchors_are_the_highest_that_can_be_dialled(members: list[Contact]) -> None:
    chosen = anchors(members, APP)
    dialable = [c for c in ranked(members) if c.dialable]
    assert list(chosen) == dialable[:3]
    assert anchors(members[::-1], APP) == chosen


@pytest.mark.parametrize("capacities", [(Capacity.NORMAL,), tuple(Capacity)])
@pytest.mark.parametrize("count", [500, 5000])
def test_the_kept_tell_how_many_there_are(count: int, capacities: tuple[Capacity, ...]) -> None:
    ratios = []
    for app in range(20):
        members = [
            contact(n * 0x9E37_79B9_7F4A_7C15 % 2**64, capacity=capacities[n % len(capacities)])
            for n in range(1, count + 1)
        ]
        kept = sorted(members, key=lambda c: rank(c, app), reverse=True)[:128]
        ratios.append(population(kept, app, 128) / count)
    spread = 0.15 if len(capacities) == 1 else 0.4  # weak devices are rarely among the kept
    assert 1 - spread < mean(ratios) < 1 + spread


def test_a_few_are_counted() -> None:
    members = [contact(n) for n in range(1, 51)]
    assert population(members, APP, 128) == 50
    leaves = [contact(n, role=Role.LEAF) for n in range(1, 51)]
    assert population(leaves, APP, 50) == 50  # none that can be dialled: no estimate
