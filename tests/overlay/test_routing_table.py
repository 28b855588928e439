"""Slots: bounded, own zone first, nearest first, never empty while somebody belongs there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.overlay_contacts import contact, peer

from edgefl.overlay.ids import digit, shared_digits
from edgefl.overlay.liveness import Peer
from edgefl.overlay.profile import NODE
from edgefl.overlay.routing_table import RoutingTable

OWN = 0x0F00_0000_0000_0000
ZONE = 3
ids = st.integers(0, 2**64 - 1).filter(lambda node_id: node_id != OWN)
near_ids = st.integers(1, 63).map(lambda low: OWN ^ low)
peers = st.builds(
    peer,
    ids | near_ids,
    rtt_s=st.none() | st.floats(0.001, 0.4),
    zone=st.sampled_from((ZONE, 4)),
)


def place(node_id: int) -> tuple[int, int]:
    row = shared_digits(OWN, node_id)
    return row, digit(node_id, row)


@given(st.lists(peers, unique_by=lambda p: p.node_id, max_size=60))
def test_a_slot_is_filled_while_anybody_belongs_there_and_prefers_our_zone(offered: list[Peer]) -> None:
    table = RoutingTable(OWN, ZONE)
    for p in offered:
        table.offer(p)
    for where in {place(p.node_id) for p in offered}:
        belong = [p for p in offered if place(p.node_id) == where]
        slot = table.slot(belong[0].node_id)
        assert len(slot) == min(NODE.slot_contacts, len(belong))
        own_zone = [p for p in belong if p.contact.zone == ZONE]
        assert sum(p.contact.zone == ZONE for p in slot) == min(NODE.slot_contacts, len(own_zone))
    assert len(table) == len(list(table)) == sum(len(table.row(row)) for row in table.rows())
    assert table.rows() == sorted(table.rows(), reverse=True)


@given(st.lists(peers, unique_by=lambda p: p.node_id, min_size=1, max_size=30), st.data())
def test_a_place_that_falls_vacant_goes_to_somebody_who_is_known(offered: list[Peer], data: st.DataObject) -> None:
    table = RoutingTable(OWN, ZONE)
    for p in offered:
        table.offer(p)
    gone = data.draw(st.sampled_from(offered))
    held = gone.node_id in table
    assert table.remove(gone.node_id, offered) == held
    assert gone.node_id not in table
    left = [p for p in offered if p is not gone and place(p.node_id) == place(gone.node_id)]
    assert len(table.slot(gone.node_id)) == min(NODE.slot_contacts, len(left))


def test_the_nearest_stay_and_a_little_nearer_is_not_enough() -> None:
    table = RoutingTable(0, ZONE)
    far = [peer((1 << 63) + n, rtt_s=0.1 + n / 100, zone=ZONE) for n in range(3)]
    assert all(table.offer(p) for p in far)
    assert not table.offer(peer((1 << 63) + 10, rtt_s=0.11, zone=ZONE))  # the worst has 0.12
    assert not table.offer(peer((1 << 63) + 11, zone=ZONE))  # nobody has measured it
    assert table.offer(peer((1 << 63) + 12, rtt_s=0.09, zone=ZONE))
    assert sorted(p.rtt_s or 0 for p in table) == [0.09, 0.1, 0.11]
    assert table.offer(far[0])  # it is in already


def test_what_a_slot_wants_to_hear_of() -> None:
    table = RoutingTable(0, ZONE)
    assert table.wants(contact(1 << 63, zone=9))
    for n in range(3):
        table.offer(peer((1 << 63) + n, zone=9))
    assert not table.wants(contact(1 << 63, zone=ZONE))  # known
    assert not table.wants(contact((1 << 63) + 5, zone=9))  # full
    assert table.wants(contact((1 << 63) + 5, zone=ZONE))  # but not with ours


def test_a_change_of_zone_fills_the_slots_again() -> None:
    table = RoutingTable(0, ZONE)
    everybody = [peer((1 << 63) + n, zone=ZONE if n < 3 else 9) for n in range(6)]
    for p in everybody:
        table.offer(p)
    assert {p.contact.zone for p in table} == {ZONE}
    table.rebuild(9, everybody)
    assert {p.contact.zone for p in table} == {9}


def test_we_have_no_place_in_our_own_table() -> None:
    with pytest.raises(ValueError, match="own table"):
        RoutingTable(OWN, ZONE).offer(peer(OWN))
