"""What has fallen silent is remembered within bounds, and no zone pushes out another."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from support.overlay_contacts import contact

from edgefl.overlay.lost import MAX_LOST, Lost


@given(st.lists(st.tuples(st.integers(1, 99), st.integers(1, 5)), max_size=150), st.integers(0, 99))
def test_a_zone_loses_places_to_a_smaller_one_alone(losses: list[tuple[int, int]], seed: int) -> None:
    lost, random = Lost(), Random(seed)
    for node_id, zone in losses:
        before = {c.node_id: c.zone for c in lost}
        lost.add([contact(node_id, zone=zone)], random)
        after = {c.node_id: c.zone for c in lost}
        assert len(lost) <= MAX_LOST
        assert node_id in after
        forgotten = [before[i] for i in before.keys() - after.keys()]
        assert len(forgotten) <= 1
        for its in forgotten:
            zones = [*before.values(), zone]
            assert zones.count(its) == max(map(zones.count, zones))


def test_a_site_that_was_cut_off_is_not_pushed_out_by_later_deaths() -> None:
    lost, random = Lost(), Random(1)
    lost.add([contact(node_id, zone=1) for node_id in range(1, 9)], random)
    lost.add([contact(node_id, zone=2) for node_id in range(100, 1000)], random)
    assert {c.node_id for c in lost if c.zone == 1} == set(range(1, 9))
    assert len(lost) == MAX_LOST


def test_some_of_the_first_outlive_twice_as_many_later_ones_of_their_zone() -> None:
    lost = Lost()
    lost.add([contact(node_id) for node_id in range(1, 100)], Random(2))
    assert any(c.node_id <= MAX_LOST for c in lost)


def test_the_newest_contact_of_a_device_counts() -> None:
    lost, random, old = Lost(), Random(3), contact(1)
    new = replace(old, port=old.port + 1, incarnation=old.incarnation + 1)
    lost.add([new, old], random)
    assert list(lost) == [new]
    assert lost.some(5, random) == [new]
    lost.discard(1)
    lost.discard(1)
    assert len(lost) == 0
