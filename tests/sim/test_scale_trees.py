"""Ranks, proposals and trees in columns: held against the shipped rules, and the laws that no order of joins breaks."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from support.overlay_contacts import contact

from edgefl.overlay.proposals import least_needed
from edgefl.overlay.rank import level, rank
from edgefl.sim.scale.applications import HASH_BITS, Memberships, draw_groups, enrol, hashes, ranks
from edgefl.sim.scale.proposed import _kept, head_proposals, zone_proposals
from edgefl.sim.scale.tree_study import judge, root_figures, tree_figures
from edgefl.sim.scale.trees import NEAREST_OF_FIVE, NOBODY, SHIPPED, Forest, Rule, _Growth, grow
from edgefl.sim.scale.world import Devices, generator, make_devices
from edgefl.wire.contact import Capacity
from edgefl.wire.overlay import MAX_TRACKER_ENTRIES

APP = 0x1234_5678_9ABC_DEF0


@pytest.fixture(scope="module")
def devices() -> Devices:
    return make_devices(3000, 4)


@pytest.fixture(scope="module")
def members(devices: Devices) -> Memberships:
    return enrol(devices, draw_groups(devices, 60, generator(1)))


def one_zone(ranks_: list[float]) -> Memberships:
    """Members of one application in one zone; the rows are devices 0, 1, ..."""
    rows = np.arange(len(ranks_))
    return Memberships(np.zeros_like(rows), rows, np.zeros_like(rows), np.array(ranks_))


def test_ranks_are_those_of_the_overlay() -> None:
    assert HASH_BITS == 52
    devices = make_devices(300, 1)
    values = ranks(hashes(devices.ids, APP), devices.capacity)
    for node_id, capacity, value in zip(devices.ids.tolist(), devices.capacity.tolist(), values, strict=True):
        place = rank(contact(node_id, capacity=Capacity(capacity)), APP)
        assert value == pytest.approx(place[1], rel=1e-12)
        assert np.floor(value) == level(place)


def test_memberships_stand_in_the_order_of_application_zone_and_falling_rank(members: Memberships) -> None:
    before = list(zip(members.app, members.zone, -members.rank, strict=True))
    assert before == sorted(before)
    assert len(set(zip(members.app, members.device, strict=True))) == len(members)


def test_half_of_the_applications_live_in_one_to_three_zones(devices: Devices) -> None:
    groups = draw_groups(devices, 40, generator(2))
    zones = [len(set(devices.zone[group].tolist())) for _, group in groups]
    assert max(zones[1::2]) <= 3
    assert min(zones[0::2]) > 3
    assert len({name for name, _ in groups}) == 40


def test_trackers_keep_whom_the_shipped_one_keeps() -> None:
    devices = make_devices(600, 3)
    members = enrol(devices, [(APP, np.arange(500)), (APP + 1, np.arange(100))])
    kept = _kept(members.app, members.zone, members.rank)
    everybody = [
        contact(int(devices.ids[n]), zone=int(devices.zone[n]), capacity=Capacity(int(devices.capacity[n])))
        for n in range(500)
    ]
    while len(everybody) > MAX_TRACKER_ENTRIES:
        everybody.remove(least_needed(everybody, APP))
    expected = Counter(member.zone for member in everybody)
    of_zone = {int(zone): int(kept[(members.app == 0) & (members.zone == zone)][0]) for zone in expected}
    # Which of several fullest zones keeps one more is a matter of rank there, of their order here.
    assert sum(of_zone.values()) == MAX_TRACKER_ENTRIES
    assert all(abs(of_zone[zone] - expected[zone]) <= 1 for zone in expected)
    small = members.app == 1
    assert Counter(members.zone[small].tolist()) == dict(zip(members.zone[small], kept[small], strict=True))


def test_proposals_name_higher_members_of_the_right_zone_a_level_above(members: Memberships) -> None:
    here = np.flatnonzero(generator(3).random(len(members)) < 0.7)
    present = np.zeros(len(members), np.bool_)
    present[here] = True
    levels = np.floor(members.rank)
    inside, heads = zone_proposals(members, here, generator(4)), head_proposals(members, here, generator(5))
    groups = len({(a, z) for a, z in zip(members.app[here], members.zone[here], strict=True)})
    apps = len(set(members.app[here].tolist()))
    assert (len(inside.seeker), len(heads.seeker)) == (len(here) - groups, groups - apps)
    for proposals, same_zone in ((inside, True), (heads, False)):
        given = proposals.proposed != -1
        assert given.any(axis=1).all()
        seeker = np.broadcast_to(proposals.seeker[:, None], given.shape)[given]
        proposed = proposals.proposed[given]
        assert present[proposed].all()
        assert np.all(members.app[proposed] == members.app[seeker])
        assert np.all(members.rank[proposed] > members.rank[seeker])
        assert np.all((members.zone[proposed] == members.zone[seeker]) == same_zone)
        mixed = [
            len(set(levels[row[row >= 0]] > levels[who]))
            for who, row in zip(proposals.seeker, proposals.proposed, strict=True)
        ]
        assert set(mixed) == {1}  # all a level above, or nobody is


@pytest.mark.parametrize("rule", [SHIPPED, NEAREST_OF_FIVE])
@pytest.mark.parametrize("seed", [1, 2])
def test_no_law_of_the_trees_is_broken(devices: Devices, members: Memberships, rule: Rule, seed: int) -> None:
    forest = grow(devices, members, generator(seed), rule)
    parent, row = forest.parent, np.flatnonzero(forest.parent != NOBODY)
    above = parent[row]
    # Members only, and every edge leads up in rank: so there is no cycle.
    assert np.all(members.app[row] == members.app[above])
    assert np.all(members.rank[above] > members.rank[row])
    assert np.all(forest.depth()[row] == forest.depth()[above] + 1)
    # One root an application, its highest member; one way out of each zone, by its highest member.
    for app in range(60):
        rows = np.flatnonzero(members.app == app)
        roots = rows[parent[rows] == NOBODY]
        assert roots.tolist() == [rows[np.argmax(members.rank[rows])]]
        out = [r for r in rows if parent[r] != NOBODY and members.zone[parent[r]] != members.zone[r]]
        heads = [rows[members.zone[rows] == zone][0] for zone in np.unique(members.zone[rows])]
        assert out == [head for head in heads if head not in roots]
    # Never above the budget.
    across = members.zone[row] != members.zone[above]
    assert np.bincount(above[~across]).max() == 8
    assert np.bincount(above[across]).max() <= 4


def test_a_full_parent_lets_its_lowest_child_go_for_a_higher_newcomer() -> None:
    members = one_zone([9.5, 8.5, *(5.9 - n / 10 for n in range(8))])
    growth = _Growth(make_devices(20, 1), members, generator(1), SHIPPED)
    growth.parent[2:10] = 0
    asked = np.zeros(10, np.bool_)
    asked[0] = True
    losers, refused_by, evicted = growth._serve(np.array([1]), np.array([0]), asked, across=False)
    assert (losers.tolist(), refused_by.tolist(), evicted.tolist()) == ([9], [0], [True])
    assert growth.parent.tolist() == [NOBODY, *[0] * 8, NOBODY]
    # Only the newcomer stands a level above the one who had to go.
    assert growth._go_down(losers, refused_by, evicted, asked, across=False).tolist() == [1]


def test_a_lower_newcomer_goes_down_to_one_of_the_children_at_random() -> None:
    members = one_zone([9.5, *(5.5 - n / 10 for n in range(9))])
    growth = _Growth(make_devices(20, 1), members, generator(1), SHIPPED)
    growth.parent[1:9] = 0
    asked = np.zeros(10, np.bool_)
    asked[0] = True
    refused = growth._serve(np.array([9]), np.array([0]), asked, across=False)
    assert [part.tolist() for part in refused] == [[9], [0], [False]]
    chosen = {int(growth._go_down(*refused, asked, across=False)[0]) for _ in range(200)}
    assert chosen == set(range(1, 9))


def test_seventy_four_members_of_a_zone_fill_two_levels_and_one_more() -> None:
    """However they come: 1 + 8 + 64 places are the best that a fan-out of eight can do."""
    devices = make_devices(200, 1)
    members = one_zone([20 - n / 4 for n in range(74)])
    forest = grow(devices, members, generator(1))
    assert forest.depth().max() >= 3
    assert (forest.depth() == 1).sum() <= 8


def test_figures_of_a_forest_in_literals() -> None:
    devices = make_devices(300, 1)
    zone = devices.zone.astype(np.int64)
    home = int(np.argmax(devices.zone_sizes()))
    a, b, c = devices.in_zone(home)[:3].tolist()
    far = int(np.flatnonzero(zone != home)[0])
    order = np.array([a, b, c, far])
    members = Memberships(np.zeros(4, np.int64), order, zone[order], np.array([4.0, 3.0, 2.0, 1.0]))
    figures = judge(devices, Forest(members, np.array([NOBODY, 0, 1, 0]), 3))
    edges = devices.rtt_s(order[1:], order[[0, 1, 0]]) * 1e3
    assert figures["depth"]["histogram"] == [1, 2, 1]
    assert figures["depth"]["mean"] == 1.0
    assert (figures["zone_crossings_over_ideal"], figures["members_only"], figures["outranked"]) == (1.0, 1.0, 1.0)
    assert (figures["fan_out"]["zone_max"], figures["fan_out"]["other_max"]) == (1, 1)
    assert (figures["roots"], figures["children_worst_node"]) == (1, 2)
    assert figures["edge_rtt_ms"] == pytest.approx(edges.mean(), abs=1e-3)
    assert figures["path_rtt_ms"]["mean"] == pytest.approx((edges.sum() + edges[0]) / 3, abs=1e-3)


def test_the_figures_are_reproducible_and_rank_makes_shallower_trees(devices: Devices) -> None:
    first: dict[str, Any] = tree_figures(devices, 50, 1)
    assert first == tree_figures(devices, 50, 1) != tree_figures(devices, 50, 2)
    assert first["zone_crossings_over_ideal"] == first["members_only"] == first["outranked"] == 1.0
    assert first["depth"]["mean"] < first["nearest_of_five"]["depth"]["mean"]
    served = first["children_per_membership"]
    assert served["constrained"] < served["normal"] < served["strong"] < served["gateway"]


def test_roots_are_spread_over_all_and_follow_the_weights() -> None:
    figures = root_figures(1)
    assert figures["alike"]["at_most_3"] >= 0.99
    assert sum(number * count for number, count in enumerate(figures["mixed"]["histogram"])) == 500
    for part in figures["mixed"]["by_class"].values():
        assert part["roots_share"] == pytest.approx(part["weight_share"], abs=0.06)
