"""The rendezvous of an application: who is remembered, who is proposed, what is copied."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.overlay_contacts import contact
from support.solo import SoloOverlay

from edgefl.overlay.ids import zone_key
from edgefl.overlay.proposals import ALWAYS_KEPT, ZONE_SEEDS
from edgefl.overlay.rank import rank
from edgefl.overlay.records import MAX_APPS, MAX_APPS_PER_MEMBER, MAX_COPIED_APPS
from edgefl.wire import Capacity, Contact, Message, Role, encode
from edgefl.wire.overlay import (
    MAX_TRACKER_ENTRIES,
    Candidates,
    Ping,
    Pong,
    Route,
    Scope,
    Track,
    TrackerCopy,
    TrackerEntry,
    TreeBeat,
    Untrack,
)

APP = 0x1234_5678_9ABC_DEF0
FRIEND = contact(APP ^ 1 << 60)
FARTHER = contact(APP ^ 1 << 63)


class Owner(SoloOverlay):
    """A tracker; members speak to it through a friend."""

    def __init__(self, *friends: Contact) -> None:
        super().__init__(APP)
        self.start(FRIEND, *friends)
        self._requests = 0

    def ask(self, origin: Contact, body: Message, scope: Scope = Scope.GLOBAL, key: int = APP) -> None:
        self._requests += 1
        self.receive(FRIEND, Route(self._requests, key, origin, encode(body), 1, scope))

    def track(self, origin: Contact, **fields: Any) -> Candidates:
        """Register a member and return the answer."""
        self.take(Candidates)
        self.ask(origin, Track(APP, **fields))
        (answer,) = self.take(Candidates, origin)
        return answer

    def recorded(self) -> set[int]:
        return {c.node_id for c in self.overlay._tracker.members(APP)}


def ranked(members: list[Contact]) -> list[Contact]:
    return sorted(members, key=lambda c: rank(c, APP), reverse=True)


MEMBERS = ranked([contact(n * 0x0123_4567_89AB_CDEF % 2**64) for n in range(1, 30)])


# At the tracker


def test_members_are_remembered_answered_and_forgotten_on_request() -> None:
    world = Owner()
    answers = [world.track(member) for member in MEMBERS[:5]]
    assert [answer.total for answer in answers] == [1, 2, 3, 4, 5]
    assert answers[4].members[:3] == tuple(MEMBERS[:3])
    assert all(answer.kept for answer in answers)
    world.ask(MEMBERS[0], Untrack(APP))
    world.ask(MEMBERS[0], Untrack(APP ^ 1))
    assert world.recorded() == {m.node_id for m in MEMBERS[1:5]}


def test_observers_are_answered_but_not_remembered() -> None:
    world = Owner()
    world.track(MEMBERS[9])
    answer = world.track(MEMBERS[0], observer=True)
    assert (answer.members, answer.total, answer.kept) == ((MEMBERS[9],), 1, False)
    assert world.recorded() == {MEMBERS[9].node_id}


def test_leases_expire_unless_they_are_renewed() -> None:
    world = Owner()
    for member in MEMBERS[:3]:
        world.track(member)
    for _ in range(3):
        world.advance(120)
        world.track(MEMBERS[0], renewal=True)
    assert world.recorded() == {MEMBERS[0].node_id}
    world.advance(400)
    assert world.overlay.sizes()["tracked_apps"] == 1  # the zone's own record, with ourselves
    assert world.recorded() == set()


def test_a_newer_contact_replaces_an_older_one_and_not_the_other_way_round() -> None:
    world = Owner()
    newer = contact(MEMBERS[0].node_id, incarnation=3)
    for candidate in (MEMBERS[0], newer, MEMBERS[0]):
        assert world.track(candidate).kept
    assert [c.incarnation for c in world.overlay._tracker.members(APP)] == [3]


def test_root_and_head_of_a_zone_hear_of_a_newcomer_that_outranks_them() -> None:
    world = Owner()
    top, root, head, low = (
        MEMBERS[0],
        MEMBERS[3],
        contact(MEMBERS[9].node_id, zone=5),
        MEMBERS[20],
    )
    newcomer = contact(MEMBERS[6].node_id, zone=5)
    for member in (root, head, low):
        world.track(member)
    world.track(newcomer)
    world.ask(newcomer, Track(APP, renewal=True))
    assert world.take(Candidates, root) == []
    world.ask(top, Track(APP))
    (told,) = world.take(Candidates, root)
    assert top in told.members
    assert world.take(Candidates, low) == []
    world = Owner()
    for member in (root, head):
        world.track(member)
    world.ask(newcomer, Track(APP))
    (told,) = world.take(Candidates, head)
    assert newcomer in told.members


@pytest.mark.parametrize("first_hand", [True, False])
def test_a_root_hears_that_an_old_member_has_come_to_outrank_it(first_hand: bool) -> None:
    """Also when the member has told us of its new class before its renewal says so."""
    world = Owner()
    root, low = MEMBERS[15], MEMBERS[20]
    world.track(root)
    world.track(low)
    risen = replace(low, capacity=Capacity.GATEWAY, incarnation=1)
    assert rank(risen, APP) > rank(root, APP)
    if first_hand:
        world.receive(low, TreeBeat(()))
        world.receive(risen, TreeBeat(()))
    else:
        world.ask(risen, Track(APP, renewal=True))
    (told,) = world.take(Candidates, root)
    assert risen in told.members


def test_of_a_crowd_the_highest_and_every_zone_s_head_are_kept() -> None:
    world = Owner()
    crowd = [contact(n * 0x9E37_79B9_7F4A_7C15 % 2**64, zone=0 if n % 10 else n % 7 + 1) for n in range(1, 300)]
    kept = [member.node_id for member in crowd if world.track(member).kept]
    assert len(world.recorded()) == MAX_TRACKER_ENTRIES
    assert {m.node_id for m in ranked(crowd)[:ALWAYS_KEPT]} <= world.recorded()
    heads = {ranked([m for m in crowd if m.zone == zone])[0].node_id for zone in {m.zone for m in crowd}}
    assert heads <= world.recorded()
    assert len(kept) > MAX_TRACKER_ENTRIES  # some were kept first and gave way later


# Reports


def test_a_member_reported_dead_is_asked_and_forgotten_only_if_it_is_silent() -> None:
    world = Owner()
    alive, dead, reporter = MEMBERS[:3]
    for member in (alive, dead, reporter):
        world.track(member)
    world.reachable[alive.node_id] = alive
    answer = world.track(reporter, failed=(alive.node_id, dead.node_id, 99, APP))
    assert dead in answer.members  # not yet believed
    assert len(world.take(Ping, dead)) == 1
    world.track(MEMBERS[3], failed=(dead.node_id,))
    world.advance(5)
    assert len(world.take(Ping, dead)) == 1  # asked twice in all, however many report
    assert world.recorded() == {alive.node_id, reporter.node_id, MEMBERS[3].node_id}
    (news,) = world.take(Candidates, reporter)
    assert dead not in news.members
    assert len(world.take(Candidates, MEMBERS[3])) == 1


def test_a_member_that_answers_the_second_ping_stays() -> None:
    world = Owner()
    member, reporter = MEMBERS[:2]
    world.track(member)
    world.track(reporter, failed=(member.node_id,))
    world.take(Ping, member)
    world.advance(1.1)
    (ping,) = world.take(Ping, member)
    world.receive(member, Pong(ping.request, True))
    world.advance(5)
    assert world.recorded() == {member.node_id, reporter.node_id}


def test_a_device_known_to_be_gone_is_forgotten_in_all_applications() -> None:
    world = Owner(FARTHER)
    world.track(FARTHER)
    world.track(MEMBERS[0])
    world.cut(FARTHER)
    world.overlay.on_link_lost(FARTHER.node_id, world.now)
    world.advance(3)
    assert world.recorded() == {MEMBERS[0].node_id}


# Copies


def test_changes_are_copied_within_a_second_and_everything_every_minute() -> None:
    world = Owner(FARTHER, contact(APP ^ 1 << 61))
    world.track(MEMBERS[0])
    world.track(MEMBERS[1])
    assert world.take(TrackerCopy) == []
    world.advance(1.1)
    copies = [m for m in world.take(TrackerCopy, FRIEND) if m.app == APP]
    assert [[e.member for e in c.entries] for c in copies] == [MEMBERS[:2]]
    assert world.take(TrackerCopy, FARTHER) == []  # the third nearest
    world.ask(MEMBERS[0], Untrack(APP))
    world.advance(1.1)
    (copy,) = [m for m in world.take(TrackerCopy, FRIEND) if m.app == APP]
    assert copy.entries == (TrackerEntry(MEMBERS[0], 0),)
    world.advance(65)
    full = [m for m in world.take(TrackerCopy, FRIEND) if m.app == APP]
    assert [e.member for e in full[-1].entries] == [MEMBERS[1]]
    assert 200 < full[-1].entries[0].lease_s < 300


def test_a_copy_makes_the_next_owner_ready() -> None:
    world = Owner()
    world.receive(FRIEND, TrackerCopy(APP, tuple(TrackerEntry(m, 250) for m in MEMBERS[:4])))
    assert world.track(MEMBERS[8]).members[:3] == tuple(MEMBERS[:3])
    world.receive(FRIEND, TrackerCopy(APP, (TrackerEntry(MEMBERS[0], 0), TrackerEntry(MEMBERS[8], 0))))
    assert world.recorded() == {m.node_id for m in (*MEMBERS[1:4], MEMBERS[8])}  # the last one has just renewed
    stale = contact(MEMBERS[8].node_id, incarnation=0)
    world.track(contact(MEMBERS[8].node_id, incarnation=4))
    world.receive(FRIEND, TrackerCopy(APP, (TrackerEntry(stale, 250),)))
    assert max(c.incarnation for c in world.overlay._tracker.members(APP)) == 4
    world.receive(FRIEND, TrackerCopy(APP, tuple(TrackerEntry(m, 0) for m in MEMBERS[:8])))
    assert world.recorded() == {MEMBERS[8].node_id}


def test_copies_of_strangers_are_ignored() -> None:
    world = Owner()
    stranger = contact(77, role=Role.LEAF)
    world.receive(stranger, TrackerCopy(APP, (TrackerEntry(MEMBERS[0], 250),)))
    assert world.recorded() == set()


def test_a_copy_tells_those_who_came_before_it_that_they_are_outranked() -> None:
    """A tracker that has just restarted knew nobody: the first to ask took itself for the root."""
    world = Owner()
    first, higher = MEMBERS[5], MEMBERS[2]
    assert world.track(first).members == ()
    world.receive(FRIEND, TrackerCopy(APP, (TrackerEntry(MEMBERS[9], 200), TrackerEntry(higher, 200))))
    (told,) = world.take(Candidates, first)
    assert higher in told.members
    world.receive(FRIEND, TrackerCopy(APP, (TrackerEntry(higher, 250),)))
    assert world.take(Candidates) == []


def test_who_is_nearer_to_the_key_is_handed_everything_and_copied_to_no_more() -> None:
    world = Owner()
    app = APP ^ 0b1000
    for member in MEMBERS[:3]:
        world.ask(member, Track(app), key=app)
    world.advance(2)
    world.sent.clear()
    nearer = contact(app)
    world.meet(nearer)
    (copy,) = [m for m in world.take(TrackerCopy, nearer) if m.app == app]
    assert [e.member for e in copy.entries] == MEMBERS[:3]
    world.sent.clear()
    world.advance(65)
    assert [m for m in world.take(TrackerCopy, FRIEND) if m.app == app] == []
    again = replace(nearer, incarnation=1)  # it has restarted, and knows nothing any more
    world.meet(again)
    (copy,) = [m for m in world.take(TrackerCopy, again) if m.app == app]
    assert [e.member for e in copy.entries] == MEMBERS[:3]


def test_a_copy_goes_back_to_the_owner_that_has_restarted() -> None:
    world = Owner()
    world.receive(FRIEND, TrackerCopy(FRIEND.node_id, (TrackerEntry(MEMBERS[0], 200),)))
    world.advance(400)
    world.receive(FRIEND, TrackerCopy(FRIEND.node_id, (TrackerEntry(MEMBERS[1], 200),)))
    again = replace(FRIEND, incarnation=1)
    world.meet(again)
    (copy,) = [m for m in world.take(TrackerCopy, again) if m.app == FRIEND.node_id]
    assert {e.member.node_id for e in copy.entries if e.lease_s} == {MEMBERS[1].node_id}


def test_members_that_came_to_another_tracker_hear_of_higher_ones_when_they_are_handed_over() -> None:
    """Somebody far from the key served them while the way was unknown: the highest of them took itself for the root."""
    world = Owner()
    world.track(MEMBERS[2])
    world.receive(FRIEND, TrackerCopy(APP, (TrackerEntry(MEMBERS[5], 200), TrackerEntry(MEMBERS[9], 200))))
    (told,) = world.take(Candidates, MEMBERS[5])
    assert MEMBERS[2] in told.members
    assert world.take(Candidates) == []


def test_what_belongs_to_a_zone_is_copied_inside_the_zone_alone() -> None:
    outside = contact(APP ^ 2, zone=9)
    inside = contact(APP ^ 1 << 50)
    world = Owner(outside, inside)
    world.ask(MEMBERS[0], Track(APP), scope=Scope.ZONE)
    world.advance(70)
    assert [m for m in world.take(TrackerCopy, outside) if m.app == APP] == []
    assert [m for m in world.take(TrackerCopy, inside) if m.app == APP] != []


# Zones


def test_the_members_of_a_zone_find_each_other() -> None:
    key = zone_key(4)
    world = Owner()
    world.reachable.clear()
    own = SoloOverlay(key).start(FRIEND)
    for n in range(20):
        own.receive(FRIEND, Route(n, key, contact(n * 0x0FED_CBA9_8765_4321 % 2**64, zone=4), encode(Track(key)), 1))
    asker = contact(5, zone=4)
    own.receive(FRIEND, Route(99, key, asker, encode(Track(key)), 1))
    (answer,) = own.take(Candidates, asker)
    assert 6 <= len(answer.members) <= ZONE_SEEDS
    assert own.overlay._tracker.zone_members(key, 5)
    assert own.overlay._tracker.zone_members(key ^ 1, 5) == []


# Bounds


@pytest.mark.parametrize("copied", [False, True])
def test_members_come_before_copies_and_everybody_has_a_share(copied: bool) -> None:
    world = Owner(FARTHER)
    if copied:
        for n in range(MAX_COPIED_APPS + 10):
            world.receive(FARTHER, TrackerCopy(n, (TrackerEntry(MEMBERS[n % 20], 250),)))
        assert world.overlay.sizes()["tracked_apps"] == MAX_COPIED_APPS + 1
        assert world.overlay.counters["tracker_refusals"] == 10
    # Requests for keys that nobody nearer is known for, from as many members as it takes.
    app = 0
    for n in range(MAX_APPS + 20):
        app = APP ^ (n << 8)
        world.advance(0.2)
        world.ask(MEMBERS[n % 3 + 20], Track(app), key=app)
    assert world.overlay.sizes()["tracked_apps"] == MAX_APPS
    served = sum(bool(world.overlay._tracker.members(APP ^ (n << 8))) for n in range(MAX_APPS + 20))
    assert served == MAX_APPS - 1  # all but the zone's own


def test_one_member_cannot_fill_the_tracker() -> None:
    world = Owner()
    greedy = MEMBERS[0]
    for n in range(MAX_APPS_PER_MEMBER + 10):
        world.advance(0.2)
        world.ask(greedy, Track(APP ^ (n << 8)), key=APP ^ (n << 8))
    answers = world.take(Candidates, greedy)
    assert [answer.kept for answer in answers].count(True) == MAX_APPS_PER_MEMBER
