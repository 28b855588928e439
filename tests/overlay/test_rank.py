"""The order of rank: total, alike everywhere, and fair to strong devices."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.overlay.rank import WEIGHTS, can_be_parent, level, rank
from edgefl.wire import Capacity, Contact, Role

contacts = st.builds(
    Contact,
    node_id=st.integers(0, 2**64 - 1),
    host=st.just("10.0.0.1"),
    port=st.just(7000),
    capacity=st.sampled_from(Capacity),
    role=st.sampled_from(Role),
)
apps = st.integers(0, 2**64 - 1)


@given(st.lists(contacts, unique_by=lambda contact: contact.node_id, min_size=2, max_size=8), apps)
def test_ranks_are_a_strict_total_order(members: list[Contact], app: int) -> None:
    ranks = [rank(member, app) for member in members]
    assert len(set(ranks)) == len(ranks)
    assert sorted(sorted(ranks), reverse=True) == sorted(ranks, reverse=True)


@given(contacts, contacts, apps)
def test_observers_stand_below_everybody_then_undialable_devices_then_helpers_then_all_others(
    a: Contact, b: Contact, app: int
) -> None:
    assert not can_be_parent(rank(a, app, observer=True))
    assert rank(a, app, observer=True) < rank(b, app)
    assert can_be_parent(rank(a, app)) == a.dialable
    order = [Role.LEAF, Role.HELPER, Role.NODE]
    if order.index(a.role) > order.index(b.role):
        assert rank(a, app) > rank(b, app)


def test_every_release_computes_the_same_rank() -> None:
    contact = Contact(0x0123456789ABCDEF, "10.0.0.1", 7000)
    strong = Contact(0x0123456789ABCDEF, "10.0.0.1", 7000, capacity=Capacity.STRONG)
    assert rank(contact, 42) == (3, pytest.approx(0.8448182457417648), contact.node_id)
    assert rank(strong, 42)[1] == pytest.approx(rank(contact, 42)[1] + 2)  # four times the weight: two levels


def test_levels_halve_and_gateways_stand_higher() -> None:
    members = [Contact(n * 0x9E3779B97F4A7C15 % 2**64, "10.0.0.1", 7000) for n in range(4000)]
    levels = Counter(level(rank(member, 7)) for member in members)
    for j in (2, 3, 4):
        assert levels[j] == pytest.approx(4000 / 2 ** (j + 1), rel=0.3)
    gateways = [Contact(n, "10.0.0.1", 7000, capacity=Capacity.GATEWAY) for n in range(100)]
    highest = sorted(members[:1600] + gateways, key=lambda member: rank(member, 9), reverse=True)[:20]
    assert 5 <= sum(member.capacity is Capacity.GATEWAY for member in highest) <= 15  # 1600 against 1600 by weight


def roots(members: list[Contact], names: list[int]) -> Counter[Contact]:
    """How many applications each device roots, when all take part in all."""
    return Counter(max(members, key=lambda member: rank(member, name)) for name in names)


def fleet_of(classes: list[Capacity], seed: int) -> tuple[list[Contact], list[int]]:
    """A device per class, with random ids; and the names of 500 applications."""
    draw = random.Random(seed)
    members = [Contact(draw.getrandbits(64), "10.0.0.1", 7000, capacity=capacity) for capacity in classes]
    return members, [draw.getrandbits(64) for _ in range(500)]


@pytest.mark.parametrize("seed", [1, 2])
def test_roots_fall_to_the_classes_in_proportion_to_their_weights(seed: int) -> None:
    """Pearson's chi-square of 500 roots over four classes: 16.27 is exceeded in one of 1,000 fair draws."""
    counts = {Capacity.CONSTRAINED: 640, Capacity.NORMAL: 280, Capacity.STRONG: 60, Capacity.GATEWAY: 20}
    members, names = fleet_of([capacity for capacity, count in counts.items() for _ in range(count)], seed)
    found = Counter(member.capacity for member in roots(members, names).elements())
    total = sum(WEIGHTS[capacity] * count for capacity, count in counts.items())
    expected = {capacity: 500 * WEIGHTS[capacity] * count / total for capacity, count in counts.items()}
    assert min(expected.values()) > 5, "the test needs some of each"
    assert sum((found[capacity] - mean) ** 2 / mean for capacity, mean in expected.items()) < 16.27
    by_number = sum(
        (found[capacity] - 500 * count / 1000) ** 2 / (500 * count / 1000) for capacity, count in counts.items()
    )
    assert by_number > 16.27, "the same test tells weights from numbers"


@pytest.mark.parametrize("seed", [1, 2])
def test_equal_devices_root_few_applications_each(seed: int) -> None:
    members, names = fleet_of([Capacity.NORMAL] * 1000, seed)
    found = roots(members, names)
    assert found.total() == 500
    assert sum(found[member] <= 3 for member in members) >= 990
