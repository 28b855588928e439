"""One device finds its zone; its peers, and the trackers of zones, are played by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.overlay_contacts import contact, is_valid
from support.solo import SoloOverlay

from edgefl.overlay import Overlay, ZoneMethod
from edgefl.overlay.ids import zone_key
from edgefl.overlay.landmarks import LANDMARKS, landmark_bin, landmark_key, zone_of_bin
from edgefl.wire import Contact, Message
from edgefl.wire.overlay import Ping, Pong, ZoneInfo, ZoneQuery

OWN = 1 << 63
TRACKER = contact(7)
LOOK_S, CHECK_S = 5.0, 660.0


class Seeker(SoloOverlay):
    """A device that looks for its zone. `zones`: anchors, members; `rtts_s`: how long a ping to a device takes.

    The tracker of every zone is one device. Pongs come after the RTT, from anchors as they are in `zones`.
    """

    def __init__(self, method: ZoneMethod = ZoneMethod.ANCHORS, zone: int = 0) -> None:
        super().__init__(OWN)
        self.zones: dict[int, tuple[tuple[Contact, ...], int]] = {}
        self.rtts_s: dict[int, float] = {}
        self.fleet = 50
        self.moves: list[int] = []
        self.queries: list[int] = []
        self.asked: list[int] = []
        self.landmarks: dict[int, Contact] = {}
        self._due: dict[tuple[str, int], tuple[Contact, Message]] = {}
        self._numbers = 0
        self.overlay = Overlay(contact(OWN, zone=zone), self, self.log, verify=is_valid, zones=method)
        self.handlers = [self, self.overlay]  # type: ignore[list-item]
        self.overlay._zones._router = self  # type: ignore[assignment]
        self.log.on_zone_change = self.on_zone_change

    def on_zone_change(self, zone: int) -> None:
        self.moves.append(zone)
        old = self.overlay.contact
        self.overlay.set_contact(replace(old, zone=zone, incarnation=old.incarnation + 1), self.now)

    def send(self, to: Contact, message: Message) -> None:
        rtt_s = self.rtts_s.get(to.node_id)
        if isinstance(message, Ping) and rtt_s is not None:
            self.later(rtt_s, to, Pong(message.request, True))
            return
        super().send(to, message)

    def route(self, key: int, body: Message, now: float) -> None:
        """Plays the router: what the device asks of the trackers of zones."""
        assert isinstance(body, ZoneQuery)
        assert key == zone_key(body.zone)
        self.queries.append(body.zone)
        anchors, members = self.zones.get(body.zone, ((), 0))
        self.later(0.05, TRACKER, ZoneInfo(body.zone, anchors, members, self.fleet))

    def lookup(self, key: int, now: float) -> int:
        """The router's, too; tests answer by hand."""
        self.asked.append(key)
        return len(self.asked)

    def later(self, after_s: float, sender: Contact, message: Message) -> None:
        self._numbers += 1
        self._due["play", self._numbers] = (sender, message)
        self.set_timer(("play", self._numbers), self.now + after_s)

    def on_timer(self, key: Any, now: float) -> bool:
        played = self._due.pop(key, None)
        if played is not None:
            self.receive(*played)
        return played is not None

    def on_message(self, sender: Contact, message: Message, now: float) -> bool:
        return False

    def receive(self, sender: Contact, message: Message) -> bool:
        return self.overlay.on_message(sender, message, self.now)

    def zone(self, label: int, rtt_s: float, members: int = 20) -> None:
        """There is such a zone, so far away."""
        anchors = tuple(contact(label * 100 + n, zone=label) for n in range(3))
        self.zones[label] = (anchors, members)
        self.rtts_s.update((anchor.node_id, rtt_s) for anchor in anchors)

    def begin(self) -> Seeker:
        """Join; one device of every zone is met."""
        self.start(TRACKER, *(anchors[0] for anchors, _ in self.zones.values()))
        return self


def test_the_nearest_zone_within_the_radius_is_adopted() -> None:
    seeker = Seeker()
    for label, rtt_s in ((3, 0.035), (4, 0.020), (5, 0.090)):
        seeker.zone(label, rtt_s)
    seeker.begin().advance(LOOK_S)
    assert seeker.moves == [4]
    report = seeker.overlay.zones(seeker.now)
    assert (report.zone, report.chosen, report.method) == (4, "adopted", ZoneMethod.ANCHORS)
    assert {z.label: z.view.rtt_s for z in report.known if z.view is not None} == pytest.approx(
        {3: 0.035, 4: 0.020, 5: 0.090}
    )


def test_without_a_near_zone_one_is_founded_at_the_second_look() -> None:
    seeker = Seeker()
    seeker.zone(3, 0.090)
    seeker.begin().advance(4.5)
    assert seeker.moves == []
    seeker.advance(22.0)
    (label,) = seeker.moves
    assert label not in (0, 3)
    assert seeker.overlay.zones(seeker.now).chosen == "founded"
    alone = Seeker().begin()
    alone.advance(30.0)
    assert len(alone.moves) == 1


def test_an_operator_s_label_is_never_touched() -> None:
    seeker = Seeker(ZoneMethod.SITE, zone=8)
    seeker.zone(3, 0.001)
    seeker.begin().advance(3000)
    assert (seeker.moves, seeker.queries) == ([], [])
    assert seeker.overlay.zones(seeker.now).chosen == "operator's label"


def settled(own_s: float = 0.020, members: int = 20) -> Seeker:
    seeker = Seeker()
    seeker.zone(3, own_s, members)
    seeker.begin().advance(LOOK_S)
    assert seeker.moves == [3]
    seeker.moves.clear()
    seeker.queries.clear()
    return seeker


def farther(seeker: Seeker, label: int, rtt_s: float, members: int = 20) -> None:
    seeker.zone(label, rtt_s, members)
    seeker.meet(seeker.zones[label][0][0])


def test_a_settled_device_asks_about_its_own_zone_and_pings_each_anchor_once() -> None:
    seeker = settled()
    farther(seeker, 4, 0.001)
    del seeker.rtts_s[seeker.zones[3][0][0].node_id]
    seeker.sent.clear()
    seeker.advance(CHECK_S)
    assert seeker.queries == [3]
    assert seeker.moves == []  # 1 ms is nearer, but 20 ms are near enough


def test_beyond_the_radius_it_moves_when_two_looks_agree() -> None:
    seeker = settled()
    farther(seeker, 3, 0.050)
    farther(seeker, 4, 0.039)
    seeker.advance(CHECK_S)
    assert (seeker.queries[:2], seeker.moves) == ([3, 4], [])
    seeker.advance(CHECK_S)
    assert seeker.moves == [4]
    assert seeker.overlay.zones(seeker.now).chosen == "moved: nearer"


def test_one_bad_look_and_a_small_gain_move_nobody() -> None:
    seeker = settled()
    farther(seeker, 4, 0.030)
    for _ in range(3):
        farther(seeker, 3, 0.060)
        seeker.advance(CHECK_S)
        farther(seeker, 3, 0.020)
        seeker.advance(CHECK_S)
    farther(seeker, 3, 0.045)
    farther(seeker, 4, 0.038)
    seeker.advance(4 * CHECK_S)
    assert seeker.moves == []


def test_far_from_everything_twice_a_new_zone_is_founded() -> None:
    seeker = settled()
    farther(seeker, 3, 0.190)
    farther(seeker, 4, 0.170)
    seeker.advance(2 * CHECK_S)
    assert len(seeker.moves) == 1
    assert seeker.moves[0] not in (3, 4)


def test_a_small_zone_dissolves_after_ten_minutes_into_a_larger_one_within_reach() -> None:
    seeker = settled(members=5)
    farther(seeker, 4, 0.075, members=6)
    farther(seeker, 5, 0.010, members=4)
    seeker.advance(500)
    assert seeker.moves == []
    seeker.advance(200)
    assert seeker.moves == [4]
    assert seeker.overlay.zones(seeker.now).chosen == "moved: the zone was too small"


def test_half_a_percent_of_the_fleet_is_the_least() -> None:
    seeker = settled(members=30)
    farther(seeker, 4, 0.075, members=100)
    seeker.fleet = 30_000
    seeker.advance(CHECK_S)
    assert seeker.moves == [4]


def test_a_tracker_that_has_lost_its_members_moves_nobody() -> None:
    seeker = settled()
    farther(seeker, 4, 0.001)
    seeker.zones[3] = ((), 0)
    seeker.advance(3 * CHECK_S)
    assert seeker.moves == []
    seeker.zones.pop(3)
    seeker.rtts_s.clear()
    seeker.advance(3 * CHECK_S)
    assert seeker.moves == []


def test_a_new_address_is_a_reason_to_look_at_once() -> None:
    seeker = settled()
    own = seeker.overlay.contact
    seeker.overlay.set_contact(replace(own, host="10.9.9.9", incarnation=own.incarnation + 1), seeker.now)
    seeker.advance(LOOK_S)
    assert seeker.queries == [3]


def test_an_anchor_that_is_in_another_zone_by_now_does_not_count() -> None:
    seeker = Seeker()
    seeker.zone(3, 0.030)
    a, b, c = seeker.zones[3][0]
    liar = replace(a, zone=3)
    seeker.zones[3] = ((liar, b, c), 20)
    seeker.begin()
    moved = replace(a, zone=4, incarnation=1)
    seeker.rtts_s[a.node_id] = 0.001

    def send(to: Contact, message: Message) -> None:
        if isinstance(message, Ping) and to.node_id == a.node_id:
            seeker.later(0.001, moved, Pong(message.request, True))
        else:
            Seeker.send(seeker, to, message)

    seeker.send = send  # type: ignore[method-assign]
    seeker.advance(LOOK_S)
    view = {z.label: z.view for z in seeker.overlay.zones(seeker.now).known}[3]
    assert view is not None
    assert view.rtt_s == pytest.approx(0.030)


def test_answers_that_were_not_asked_for_are_ignored() -> None:
    seeker = settled()
    seeker.receive(TRACKER, ZoneInfo(9, (contact(900, zone=9),), 1000, 10))
    assert seeker.overlay.zones(seeker.now).known[0].label == 3
    assert len(seeker.overlay.zones(seeker.now).known) == 1


def test_leaving_in_the_middle_of_a_look() -> None:
    seeker = Seeker()
    seeker.zone(3, 0.030)
    seeker.begin().advance(0.1)
    seeker.overlay.leave(seeker.now)
    seeker.advance(3000)
    assert seeker.moves == []


def test_landmarks_bin_a_device() -> None:
    seeker = Seeker(ZoneMethod.LANDMARKS)
    seeker.begin()
    zones = seeker.overlay._zones
    seeker.advance(LOOK_S)
    assert seeker.asked == [landmark_key(index) for index in range(LANDMARKS)]
    rtts_s = (0.150, 0.020, 0.300)
    owners = [contact(n + 1) for n in range(3)]
    seeker.rtts_s = {owner.node_id: rtt_s for owner, rtt_s in zip(owners, rtts_s, strict=True)}
    for number, owner in enumerate(owners):
        assert zones.on_lookup(number + 1, owner, seeker.now)
    assert zones.on_lookup(4, seeker.overlay.contact, seeker.now)
    assert not zones.on_lookup(5, None, seeker.now)
    seeker.advance(1.0)
    assert seeker.moves == [zone_of_bin(landmark_bin([*rtts_s, 0.0]))]
    assert seeker.overlay.zones(seeker.now).chosen == "landmarks"


def test_a_landmark_that_does_not_answer_is_asked_again_soon() -> None:
    seeker = Seeker(ZoneMethod.LANDMARKS)
    seeker.begin()
    zones = seeker.overlay._zones
    seeker.advance(LOOK_S)
    for number in range(1, 4):
        zones.on_lookup(number, seeker.overlay.contact, seeker.now)
    zones.on_lookup(4, None, seeker.now)
    seeker.advance(25.0)
    assert len(seeker.asked) == 2 * LANDMARKS
    assert seeker.moves == []
