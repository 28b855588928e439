"""The zones heard of: first-hand and by hearsay, bounded, forgotten in time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from support.overlay_contacts import contact
from support.solo import Solo

from edgefl.overlay.coordinates import Coordinate
from edgefl.overlay.device import Device
from edgefl.overlay.liveness import Liveness
from edgefl.overlay.profile import WAN
from edgefl.overlay.requests import Requests
from edgefl.overlay.zone_rule import ZoneView
from edgefl.overlay.zone_table import MAX_ZONES, ZoneTable
from edgefl.wire.overlay import MAX_ZONE_LABELS, ZONE_LABEL_BYTES


class Fixture:
    def __init__(self, zone: int = 9) -> None:
        self.device = Device(contact(1, zone=zone), Solo(), WAN)
        self.liveness = Liveness(self.device, Requests(self.device))
        self.table = ZoneTable(self.device, self.liveness)

    def labels(self) -> list[int]:
        return [zone.label for zone in self.table.zones()]


NOWHERE = Coordinate()


def entry(label: int, minutes: int = 0, coordinate: Coordinate = NOWHERE) -> bytes:
    return label.to_bytes(2, "big") + bytes((minutes,)) + coordinate.coarse()


def test_zones_of_peers_are_known_first_hand_and_the_unplaced_are_in_none() -> None:
    f = Fixture()
    f.liveness.learn(contact(2, zone=5), 10.0)
    f.liveness.learn(contact(3, zone=0), 10.0)
    f.table.refresh(11.0)
    assert f.labels() == [5]
    assert 5 in f.table
    assert 0 not in f.table


def test_hearsay_ages_on_its_way_and_is_forgotten_after_half_an_hour() -> None:
    f = Fixture()
    f.table.unpack(entry(5) + entry(6, 20) + entry(7, 29) + b"\x00", 0.0)
    assert f.labels() == [5, 6]  # 29 minutes and the one on the way
    assert set(f.table.pack(0.0, 9)[2::ZONE_LABEL_BYTES]) == {0, 1, 21}  # our own, and these, a minute older
    f.table.refresh(9 * 60.0 + 1)
    assert f.labels() == [5]
    f.table.refresh(29 * 60.0 + 1)
    assert f.labels() == []


def test_a_zone_that_nobody_is_in_any_more_does_not_come_back_by_hearsay_but_with_a_member() -> None:
    f = Fixture()
    f.table.unpack(entry(5), 0.0)
    f.table.saw(ZoneView(5, None, 0), (), 10.0)
    f.table.unpack(entry(5), 20.0)
    assert f.labels() == []
    assert 5 in f.table  # not to be founded again either
    f.liveness.learn(contact(2, zone=5), 30.0)
    f.table.refresh(31.0)
    assert f.labels() == [5]


def test_a_zone_with_a_member_that_we_know_stays_whatever_its_tracker_says() -> None:
    f = Fixture()
    f.liveness.learn(contact(2, zone=5), 0.0)
    f.table.saw(ZoneView(5, None, 0), (), 1.0)
    f.table.refresh(1.0)
    assert f.labels() == [5]


def test_what_was_seen_is_kept() -> None:
    f = Fixture()
    view, anchors = ZoneView(5, 0.02, 40, 99), (contact(2, zone=5),)
    f.table.saw(view, anchors, 1.0)
    zone = f.table.get(5)
    assert zone is not None
    assert (zone.view, zone.anchors) == (view, anchors)


def test_of_too_many_zones_the_nearest_by_coordinates_are_looked_at() -> None:
    f = Fixture()
    for label in range(10, 20):
        f.table.unpack(entry(label, 0, Coordinate(x=label / 100)), 0.0)
    f.table.unpack(entry(20), 0.0)
    f.liveness.learn(contact(2, zone=21), 0.0)  # where it is nobody has said
    f.table.refresh(0.0)
    assert f.table.others(64, 16) == list(range(10, 22))
    assert f.table.others(5, 3) == [20, 10, 11]
    assert f.table.estimate_s(21) == f.table.estimate_s(99) == float("inf")


def test_a_flood_of_labels_takes_no_place_of_a_zone_known_first_hand() -> None:
    f = Fixture()
    for node, zone in ((2, 5), (3, 6)):
        f.liveness.learn(contact(node, zone=zone), 0.0)
    f.table.refresh(0.0)
    for label in range(1000, 3000):
        f.table.unpack(entry(label), 0.0)
    assert len(f.table) == MAX_ZONES
    assert {5, 6} <= set(f.labels())
    for label in range(3000, 4000):
        f.table.saw(ZoneView(label, None, 0), (), 0.0)
    assert len(f.table) == MAX_ZONES
    full = Fixture()
    for node in range(2, 2 + MAX_ZONES + 5):
        full.liveness.learn(contact(node, zone=node + 100), 0.0)
    full.table.refresh(0.0)
    assert len(full.table) == MAX_ZONES


def test_the_own_zone_rides_along_always() -> None:
    f = Fixture(zone=9)
    f.table.unpack(b"".join(entry(label) for label in range(10, 50)), 0.0)
    packed = f.table.pack(0.0, 4)
    assert len(packed) == 4 * ZONE_LABEL_BYTES
    assert int.from_bytes(packed[:2], "big") == 9
    assert Fixture(zone=0).table.pack(0.0, 4) == b""


@given(st.binary(max_size=MAX_ZONE_LABELS * ZONE_LABEL_BYTES), st.floats(0, 1e5))
def test_any_bytes_are_taken(data: bytes, now: float) -> None:
    f = Fixture()
    f.table.unpack(data, now)
    f.table.refresh(now)
    assert len(f.table) <= MAX_ZONE_LABELS
    assert len(f.table.pack(now, 64)) % ZONE_LABEL_BYTES == 0
