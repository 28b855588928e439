"""What a joined device does all day, looked at message by message; and how it joins."""

from __future__ import annotations

from dataclasses import replace

from support.overlay_contacts import contact
from support.solo import SoloOverlay

from edgefl.overlay.joining import Phase, measured_at_joining
from edgefl.overlay.profile import NODE, WAN
from edgefl.wire import Contact, Role
from edgefl.wire.overlay import Announce, Beat, FindRows, Leaving, Ping, Pong, Ring, RowGossip, Rows

OWN = 1 << 63
NEXT, PREVIOUS = contact(OWN + 100), contact(OWN - 100)
SPREAD = [contact((OWN + n * 0x9E37_79B9_7F4A_7C15) % 2**64) for n in range(1, 40)]


class Day(SoloOverlay):
    """A device that counts what it sends."""

    def pass_time(self, seconds: float) -> None:
        """Peers answer; those that are reachable also beat."""
        end = self.now + seconds
        while self.now < end:
            self.advance(min(5.0, end - self.now))
            for peer in list(self.reachable.values()):
                self.receive(peer, Announce())


# All day


def test_both_neighbours_of_both_rings_hear_beats_and_sometimes_the_leaf_set() -> None:
    world = Day(OWN)
    world.start(NEXT, PREVIOUS, contact(OWN + 5000))
    world.pass_time(30)
    world.take(Beat)
    world.pass_time(600)
    for neighbour in (NEXT, PREVIOUS):
        beats = world.take(Beat, neighbour)
        zone = [b for b in beats if b.ring is Ring.ZONE]
        fleet = [b for b in beats if b.ring is Ring.GLOBAL]
        assert 52 <= len(zone) <= 68
        assert 16 <= len(fleet) <= 24
        assert 9 <= sum(bool(b.leaves) for b in zone) <= 12  # every sixth
        assert all(len(b.leaves) == 3 for b in zone if b.leaves)
    assert world.take(Beat) == []


def test_a_new_neighbour_hears_the_leaf_set_at_once() -> None:
    world = SoloOverlay(OWN).start(NEXT, PREVIOUS)
    world.advance(11)
    world.take(Beat)
    nearer = contact(OWN + 50)
    world.meet(nearer)
    world.advance(0.6)
    assert {b.ring for b in world.take(Beat, nearer) if b.leaves} == {Ring.ZONE, Ring.GLOBAL}


def test_a_silent_neighbour_is_noticed_within_three_beats() -> None:
    world = SoloOverlay(OWN).start(NEXT, PREVIOUS, *SPREAD)
    world.advance(1)
    world.cut(NEXT)
    world.advance(34)
    assert NEXT.node_id not in {c.node_id for c in world.overlay.contacts()}


def test_probing_goes_on_quickly_while_it_finds_dead_contacts() -> None:
    world = SoloOverlay(OWN).start(*SPREAD)
    world.advance(70)
    dead = SPREAD[::2]
    world.cut(*dead)
    world.advance(45)
    left = {c.node_id for c in world.overlay.contacts()}
    assert not left & {c.node_id for c in dead}
    assert world.overlay.counters["deaths"] == len(dead)


def test_an_idle_device_probes_at_a_constant_rate_and_never_those_just_heard() -> None:
    world = Day(OWN)
    world.start(*SPREAD)
    world.pass_time(1000)
    world.take(Ping)
    world.pass_time(500)
    assert len(world.take(Ping)) <= 3  # everybody was heard within a minute
    beating = [*world.overlay.zone_leaves(), *world.overlay.global_leaves()]
    quiet = [c for c in SPREAD if c not in beating]
    for _ in range(100):
        world.advance(5)
        for peer in beating:
            world.receive(peer, Announce())
    probed = sum(len(world.take(Ping, c)) for c in quiet)
    at_rate = 500 / WAN.probe_s
    assert 0.8 * at_rate <= probed <= 1.1 * at_rate


def test_rows_are_exchanged_the_deepest_first() -> None:
    deep = [contact(OWN ^ (1 << 20) ^ n) for n in range(3)]
    world = Day(OWN)
    world.start(*deep, *SPREAD)
    gossips: list[RowGossip] = []
    while len(gossips) < 2:
        world.pass_time(5)
        gossips += [g for g in world.take(RowGossip) if not g.reply]
    assert gossips[0].prefix > gossips[1].prefix
    assert gossips[0].prefix == 14 * 3
    assert all(c.node_id >> 24 == OWN >> 24 for c in gossips[0].contacts)


def test_a_row_is_answered_with_our_own_and_unknown_devices_in_it_are_asked() -> None:
    world = SoloOverlay(OWN).start(*SPREAD)
    sender, stranger = contact(OWN ^ 1 << 61), contact(OWN ^ 1 << 62)
    for peer in SPREAD:
        if peer.node_id >> 61 == stranger.node_id >> 61:
            world.receive(peer, Leaving())
    world.meet(sender)
    world.sent.clear()
    world.receive(sender, RowGossip(0, False, (stranger,)))
    (answer,) = world.take(RowGossip, sender)
    assert answer.reply
    assert 4 <= len(answer.contacts) <= 24
    assert len(world.take(Ping, stranger)) == 1
    world.receive(sender, RowGossip(0, True, ()))
    world.receive(sender, RowGossip(27, False, (stranger,)))  # we share fewer digits: its row is not ours
    assert world.take(RowGossip, sender) == []


def test_a_full_slot_is_represented_by_one_contact() -> None:
    crowd = [contact(n) for n in range(1, 7)]
    world = SoloOverlay(OWN).start(*crowd)
    world.receive(crowd[0], RowGossip(0, False))
    (answer,) = world.take(RowGossip, crowd[0])
    assert len(answer.contacts) == 2  # of the three in the slot at most two are others
    other = contact(1 << 62)
    world.meet(other)
    world.receive(other, RowGossip(0, False))
    (answer,) = world.take(RowGossip, other)
    assert len(answer.contacts) == 1


def test_whoever_takes_us_for_its_neighbour_is_corrected_once() -> None:
    between = contact(OWN + 500)
    far = contact(OWN + 1000)
    world = SoloOverlay(OWN).start(NEXT, PREVIOUS, between, far)
    world.receive(far, Beat(Ring.GLOBAL, (contact(OWN),)))
    (told,) = world.take(Beat, far)
    assert between in told.leaves
    world.receive(far, Beat(Ring.GLOBAL, (contact(OWN),)))
    world.receive(NEXT, Beat(Ring.GLOBAL, (contact(OWN),)))
    world.receive(far, Beat(Ring.GLOBAL))
    assert world.take(Beat) == []


def test_beats_of_another_zone_say_nothing_about_ours() -> None:
    foreign = replace(NEXT, zone=9)
    world = SoloOverlay(OWN).start(foreign)
    world.receive(foreign, Beat(Ring.ZONE, (contact(OWN + 1),)))
    assert world.take(Ping) == []
    world.receive(PREVIOUS, Beat(Ring.ZONE, (contact(OWN + 1, zone=9),)))
    assert world.take(Ping) == []


def test_a_lost_contact_is_tried_again_and_welcomed_back() -> None:
    world = SoloOverlay(OWN).start(NEXT, PREVIOUS)
    world.cut(NEXT)
    world.overlay.on_link_lost(NEXT.node_id, world.now)
    world.advance(2)
    assert [c.node_id for c in world.overlay.contacts()] == [PREVIOUS.node_id]
    world.advance(30)
    world.reachable[NEXT.node_id] = NEXT
    world.advance(70)
    assert NEXT.node_id in {c.node_id for c in world.overlay.contacts()}
    assert world.overlay.counters["reunions"] == 1


# Answers to others


def test_find_rows_is_answered_with_what_leads_to_the_target() -> None:
    world = SoloOverlay(OWN).start(NEXT, PREVIOUS, *SPREAD)
    asker = contact(OWN ^ 1 << 40)
    world.receive(asker, FindRows(7, asker.node_id))
    (rows,) = world.take(Rows, asker)
    assert (rows.request, rows.joined) == (7, True)
    assert {NEXT, PREVIOUS} <= set(rows.contacts)
    assert set(rows.contacts) >= {c for c in world.overlay.contacts() if c.node_id ^ asker.node_id < 1 << 63}
    world.receive(asker, FindRows(8, asker.node_id, brief=True))
    (brief,) = world.take(Rows, asker)
    assert len(brief.contacts) < len(rows.contacts)


def test_who_has_not_joined_says_so_and_names_nobody() -> None:
    world = SoloOverlay(OWN)
    world.overlay.start(0.0)
    world.receive(NEXT, FindRows(7, 1))
    assert world.take(Rows, NEXT) == [Rows(7, False)]
    world.receive(NEXT, Ping(8))
    assert world.take(Pong, NEXT) == [Pong(8, False)]


# Joining


class Newcomer(SoloOverlay):
    """A device that wants to join; the devices it meets are played by the test."""

    def __init__(self, *bootstrap: Contact, node_id: int = OWN) -> None:
        super().__init__(node_id)
        self.overlay.bootstrap(bootstrap, self.now)
        self.overlay.start(self.now)

    def answer(self, peer: Contact, *contacts: Contact, joined: bool = True) -> bool:
        """Answer all questions for rows that this peer was asked."""
        questions = self.take(FindRows, peer)
        for question in questions:
            self.receive(peer, Rows(question.request, joined, contacts))
        return bool(questions)

    @property
    def phase(self) -> Phase:
        return self.overlay._membership.joiner.phase


def test_a_newcomer_walks_to_its_place_in_silence_and_then_introduces_itself() -> None:
    door, near, nearest = SPREAD[0], contact(OWN ^ 1 << 30), contact(OWN ^ 1 << 10)
    world = Newcomer(door)
    world.reachable |= {c.node_id: c for c in (door, near, nearest)}
    assert world.answer(door, near)
    assert world.answer(near, nearest, door)
    assert world.answer(nearest, near, door)
    while world.phase is not Phase.MEASURING:
        assert world.take(Announce) == []
        answered = [world.answer(c, near, nearest, door) for c in (door, near, nearest)]
        assert any(answered)
    world.advance(0.1)
    assert world.overlay.joined
    assert world.log.names() == ["joined"]
    assert {c.node_id for c in world.overlay.contacts()} == {door.node_id, near.node_id, nearest.node_id}
    for peer in (door, near, nearest):
        assert world.take(Announce, peer) == [Announce()]


def test_unjoined_devices_are_knocked_at_but_never_learned() -> None:
    world = Newcomer(SPREAD[0], SPREAD[1])
    knocks = 0
    for _ in range(100):
        knocks += world.answer(SPREAD[0], joined=False) + world.answer(SPREAD[1], joined=False)
        world.advance(0.1)
    assert not world.overlay.joined
    assert world.overlay.contacts() == ()
    assert 6 <= knocks <= 8  # both, every three seconds


def test_the_lowest_of_those_who_hear_each_other_begins_after_a_while() -> None:
    low, high = Newcomer(contact(OWN), node_id=5), Newcomer(contact(5), node_id=OWN)
    for _ in range(200):
        low.answer(contact(OWN), joined=False)
        high.answer(contact(5), joined=False)
        low.advance(0.1)
        high.advance(0.1)
    assert low.overlay.joined
    assert not high.overlay.joined


def test_who_is_knocked_at_asks_back() -> None:
    """The survivor of two, and a third device that only knows the survivor: whoever has the lower id begins."""
    for own, other in ((5, OWN), (OWN, 5)):
        world = Newcomer(SPREAD[0], node_id=own)
        caller = contact(other)
        for _ in range(200):
            world.answer(caller, joined=False)
            world.advance(0.1)
            if world.now % 3 < 0.1:
                world.receive(caller, FindRows(1, other))
        assert world.overlay.joined == (own < other)


def test_who_cannot_be_dialled_never_begins_but_is_begun_for() -> None:
    leaf = contact(5, role=Role.LEAF)
    hub = Newcomer(SPREAD[0])
    for _ in range(200):
        hub.advance(0.1)
        if hub.now % 3 < 0.1:
            hub.receive(leaf, FindRows(1, 5))
    assert hub.overlay.joined
    leaf_world = SoloOverlay(5, role=Role.LEAF)
    leaf_world.overlay.bootstrap([SPREAD[0]], 0.0)
    leaf_world.overlay.start(0.0)
    for _ in range(300):
        for question in leaf_world.take(FindRows):
            leaf_world.receive(SPREAD[0], Rows(question.request, False))
        leaf_world.advance(0.1)
    assert not leaf_world.overlay.joined


def test_those_who_knock_are_remembered_only_so_far_and_only_while_it_matters() -> None:
    world = Newcomer()
    for n in range(50):
        world.receive(contact(1000 + n), FindRows(1, 5))
    assert len(world.overlay._membership.joiner._callers) == 8
    joined = SoloOverlay(OWN).start()
    joined.overlay._membership.joiner.on_knock_from(SPREAD[0], 0.0)
    assert joined.overlay._membership.joiner._callers == {}


def test_who_hears_nobody_waits() -> None:
    world = Newcomer(SPREAD[0])
    world.advance(120)
    assert not world.overlay.joined
    assert len(world.take(FindRows, SPREAD[0])) >= 22  # two seconds of waiting, three of pause


def test_without_any_address_it_waits_until_it_is_given_one() -> None:
    world = Newcomer()
    world.advance(10)
    assert world.sent == []
    world.overlay.bootstrap([SPREAD[0], contact(OWN)], world.now)
    assert len(world.take(FindRows)) == 1


def test_a_join_that_gets_stuck_begins_again() -> None:
    door = SPREAD[0]
    world = Newcomer(door)
    assert world.answer(door)
    world.advance(10)  # the door never answers again: neither the zone's walk nor the pings
    assert not world.overlay.joined
    world.reachable[door.node_id] = door
    for _ in range(100):
        world.answer(door)
        world.advance(0.1)
    assert world.overlay.joined


def test_lies_in_answers_do_not_matter() -> None:
    door = SPREAD[0]
    world = Newcomer(door)
    world.reachable[door.node_id] = door
    ghosts = [contact(OWN ^ n) for n in range(1, 200)] + [contact(OWN), contact(OWN + 500, role=Role.LEAF)]
    for _ in range(1000):
        world.answer(door, *ghosts[:128])
        world.advance(0.1)
    assert world.overlay.joined
    assert world.overlay.contacts() == (door,)


def test_a_join_measures_a_bounded_number_with_both_rings_and_every_slot() -> None:
    found = {c.node_id: c for c in (contact(n * 0x9E37_79B9_7F4A_7C15 % 2**64, zone=n % 3) for n in range(1, 500))}
    own = contact(OWN, zone=1)
    chosen = measured_at_joining(own, found, lambda: 0.5)
    assert len(chosen) <= NODE.join_pings
    ids = {c.node_id for c in chosen}
    assert min((i for i in found), key=lambda i: (i - OWN) % 2**64) in ids
    assert min((i for i, c in found.items() if c.zone == 1), key=lambda i: (OWN - i) % 2**64) in ids
    assert len(measured_at_joining(own, {}, lambda: 0.5)) == 0
