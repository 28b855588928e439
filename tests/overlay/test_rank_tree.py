"""One device in one tree, its neighbours played by hand: attaching, refusing, evicting, repairing, agreeing."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.overlay_contacts import contact
from support.solo import SoloOverlay

from edgefl.errors import UsageError
from edgefl.overlay import Position, TreeView
from edgefl.overlay.attempt import MAX_ATTEMPTS, MAX_WAITING
from edgefl.overlay.candidates import MAX_POOL
from edgefl.overlay.children import OTHER_CHILDREN, ZONE_CHILDREN
from edgefl.overlay.forest import MAX_DETACHES, MAX_TREES
from edgefl.overlay.profile import WAN
from edgefl.overlay.rank import rank
from edgefl.wire import Capacity, Contact, Role, decode
from edgefl.wire.overlay import (
    MAX_BEAT_TREES,
    Attach,
    Attached,
    Candidates,
    Detach,
    Leaving,
    Ping,
    Refusal,
    Refused,
    Route,
    Scope,
    Track,
    TreeBeat,
    TreeEdge,
    Untrack,
)

APP = 42


def order(contacts: list[Contact], app: int = APP) -> list[Contact]:
    """Highest rank first."""
    return sorted(contacts, key=lambda c: rank(c, app), reverse=True)


CROWD = order([contact(n * 0x0123_4567_89AB_CDEF % 2**64) for n in range(1, 41)])
MIDDLE = CROWD[20]
HIGHER, LOWER = CROWD[:20], CROWD[21:]
TRACKER = contact(APP)  # owns the application's key


class Member(SoloOverlay):
    """A device of middle rank that has joined the application's tree; its tracker is played by the test."""

    def __init__(self, own: Contact = MIDDLE, *, scope: Scope = Scope.GLOBAL, observer: bool = False) -> None:
        super().__init__(own.node_id, zone=own.zone, capacity=own.capacity, role=own.role)
        self.start(TRACKER)
        self.overlay.join_tree(APP, self.now, scope=scope, observer=observer)

    def asks(self) -> list[Track]:
        """What the tracker was asked since the last time."""
        bodies = [decode(m.body) for m in self.take(Route, TRACKER) if m.key == APP]
        return [body for body in bodies if isinstance(body, Track)]

    def told(self, *members: Contact, kept: bool = True) -> Member:
        """The tracker answers."""
        self.receive(TRACKER, Candidates(APP, members, len(members), kept))
        self.advance(0)
        return self

    def attached_to(self, parent: Contact, depth: int = 1, root: int = HIGHER[0].node_id) -> Member:
        """Become a child of this parent."""
        self.reachable[parent.node_id] = parent
        self.told(parent)
        assert self.take(Attach, parent)
        self.receive(parent, Attached(APP, depth, root))
        assert self.view().parent == parent
        return self

    def as_root(self) -> Member:
        return self.told()

    def adopts(self, child: Contact, **fields: Any) -> bool:
        self.reachable[child.node_id] = child
        self.receive(child, Attach(APP, **fields))
        return bool(self.take(Attached, child))

    def view(self) -> TreeView:
        view = self.overlay.tree(APP)
        assert view is not None
        return view

    def events(self) -> list[str]:
        return [name for name in self.log.names() if name in ("root", "parent", "orphaned", "child", "child_gone")]


# Finding a place


def test_whom_nobody_outranks_is_the_root() -> None:
    member = Member()
    assert member.asks() == [Track(APP)]
    assert member.view().position is Position.SEEKING
    member.told(*LOWER[:4])
    assert member.view().is_root
    assert member.view().root == MIDDLE.node_id
    assert member.events() == ["root"]
    assert member.overlay.top_ranked(APP, 2) == tuple(LOWER[:2])


def test_a_member_attaches_to_the_nearest_of_a_higher_level() -> None:
    member = Member().told(*HIGHER[:3])
    pinged = [c for c in HIGHER[:3] if member.take(Ping, c)]
    assert len(pinged) == 3
    for silent in HIGHER[:3]:
        assert member.take(Attach, silent) == []
    member = Member()
    member.reachable[HIGHER[1].node_id] = HIGHER[1]
    member.told(*HIGHER[:3])
    member.advance(2.1)  # two of three do not answer the ping
    assert member.take(Attach, HIGHER[1]) == [Attach(APP)]
    member.receive(HIGHER[1], Attached(APP, 3, HIGHER[0].node_id))
    view = member.view()
    assert (view.position, view.parent, view.depth, view.root) == (
        Position.ATTACHED,
        HIGHER[1],
        3,
        HIGHER[0].node_id,
    )
    member.advance(2)
    assert member.asks()[-1].failed  # the tracker hears of the silent ones


def test_a_member_prefers_its_zone_and_crosses_only_if_it_is_the_head() -> None:
    far = replace(HIGHER[0], zone=9)
    near = HIGHER[19]
    member = Member()
    member.reachable |= {far.node_id: far, near.node_id: near}
    member.told(far, near)
    assert member.take(Attach, far) == []
    assert member.take(Attach, near)
    head = Member()
    head.reachable[far.node_id] = far
    head.told(far)
    assert head.take(Attach, far)


def test_a_head_moves_below_a_newcomer_of_its_zone_and_makes_before_it_breaks() -> None:
    far = replace(HIGHER[0], zone=9)
    member = Member().attached_to(far)
    newcomer = HIGHER[10]
    member.reachable[newcomer.node_id] = newcomer
    member.told(newcomer, far)
    assert member.view().parent == far
    assert member.take(Detach) == []
    assert member.take(Attach, newcomer)
    member.receive(newcomer, Attached(APP, 2, far.node_id))
    assert member.view().parent == newcomer
    assert member.take(Detach, far) == [Detach(APP, Refusal.SWITCHED)]
    assert member.events() == ["parent", "parent"]
    member.told(HIGHER[1], far)
    assert member.take(Attach) == []  # inside the zone it stays where it is


def test_a_root_attaches_to_whoever_outranks_it() -> None:
    member = Member().as_root()
    member.reachable[HIGHER[0].node_id] = HIGHER[0]
    member.told(HIGHER[0])
    assert member.view().is_root  # until it is accepted
    member.receive(HIGHER[0], Attached(APP, 1, HIGHER[0].node_id))
    assert member.view().position is Position.ATTACHED
    assert member.events() == ["root", "parent"]


def test_a_refused_member_goes_down_to_the_children() -> None:
    member = Member()
    member.reachable |= {c.node_id: c for c in HIGHER[:4]}
    member.told(HIGHER[0])
    member.take(Attach)
    member.receive(HIGHER[0], Refused(APP, Refusal.FULL, (LOWER[0], HIGHER[1], HIGHER[2])))
    asked = [c for c in HIGHER[:4] if member.take(Attach, c)]
    assert len(asked) == 1
    assert asked[0] in HIGHER[1:3]  # never one that ranks lower
    member.receive(asked[0], Refused(APP, Refusal.NOT_A_MEMBER))
    (other,) = [c for c in HIGHER[1:3] if c is not asked[0]]
    assert member.take(Attach, other)
    member.receive(other, Refused(APP, Refusal.RANK))
    assert member.take(Attach) == []
    member.asks()
    member.advance(1.2)
    assert member.asks()[0].failed == (asked[0].node_id,)  # it is no member; the others are just no parents for us


def test_of_equally_near_members_the_highest_is_asked_first() -> None:
    member = Member()
    member.reachable |= {c.node_id: c for c in HIGHER[:8]}
    member.told(*HIGHER[:8])
    member.advance(0.1)
    highest = max(HIGHER[:8], key=lambda c: rank(c, APP))
    assert [c for c in HIGHER[:8] if member.take(Attach, c)] == [highest]


def test_of_those_named_by_a_full_parent_the_own_zone_comes_first() -> None:
    asked_first = set()
    foreign = [contact(c.node_id, zone=MIDDLE.zone + 1) for c in HIGHER[1:5]]
    for at in range(5, 9):
        member = Member()
        member.reachable |= {c.node_id: c for c in (HIGHER[0], *foreign, *HIGHER[5:9])}
        member.told(HIGHER[0])
        member.take(Attach)
        member.receive(HIGHER[0], Refused(APP, Refusal.FULL, (*foreign, HIGHER[at])))
        asked_first |= {c.node_id for c in (*foreign, HIGHER[at]) if member.take(Attach, c)}
    assert asked_first == {c.node_id for c in HIGHER[5:9]}


def test_descending_ends() -> None:
    member = Member()
    chain = [contact(c.node_id) for c in HIGHER]
    member.reachable |= {c.node_id: c for c in chain}
    member.told(chain[0])
    attempts = 0
    for _ in range(200):
        asked = [c for c in chain if member.take(Attach, c)]
        if not asked:
            break
        attempts += 1
        member.receive(asked[0], Refused(APP, Refusal.FULL, tuple(chain[:12])))
    assert attempts <= MAX_ATTEMPTS


def test_silence_is_reported_and_the_next_one_tried() -> None:
    member = Member()
    member.reachable |= {HIGHER[0].node_id: HIGHER[0], HIGHER[1].node_id: HIGHER[1]}
    member.told(HIGHER[0], HIGHER[1])
    first, second = (HIGHER[0], HIGHER[1]) if member.take(Attach, HIGHER[0]) else (HIGHER[1], HIGHER[0])
    member.advance(0.6)
    assert member.take(Attach, second)
    member.receive(second, Attached(APP, 1, second.node_id))
    member.asks()
    member.advance(1.2)
    assert member.asks()[0] == Track(APP, failed=(first.node_id,))


def test_an_answer_that_comes_too_late_is_sent_back() -> None:
    member = Member().attached_to(HIGHER[0])
    member.receive(HIGHER[5], Attached(APP, 1, HIGHER[5].node_id))
    assert member.take(Detach, HIGHER[5]) == [Detach(APP, Refusal.SWITCHED)]
    assert member.view().parent == HIGHER[0]
    member.receive(HIGHER[0], Attached(APP, 7, HIGHER[0].node_id))
    assert member.view().depth == 7
    member.receive(HIGHER[5], Refused(APP, Refusal.FULL))
    assert member.view().parent == HIGHER[0]


def test_who_acts_as_a_parent_and_is_not_hears_so_at_once() -> None:
    """It has a dead edge to us, and would wait for us in its round until the next heartbeat."""
    member = Member()
    member.reachable[HIGHER[3].node_id] = HIGHER[3]
    member.told(HIGHER[3])
    assert member.take(Attach, HIGHER[3])
    member.overlay.disown(APP, HIGHER[3], member.now)
    assert not member.take(Detach), "its acceptance is still on the way"
    member.receive(HIGHER[3], Attached(APP, 1, HIGHER[3].node_id))
    member.overlay.disown(APP, HIGHER[3], member.now)
    assert not member.take(Detach)
    member.overlay.disown(APP, HIGHER[5], member.now)
    assert member.take(Detach, HIGHER[5]) == [Detach(APP, Refusal.SWITCHED)]
    member.overlay.disown(APP + 1, HIGHER[5], member.now)
    assert not member.take(Detach), "of trees that are not ours nothing is said"


@pytest.mark.parametrize("dead", [True, False])
def test_neighbours_that_seem_dead_are_told_that_their_edge_is_gone(dead: bool) -> None:
    """If they only stood still, they ask for it again at once. Who has left by itself needs no word."""
    member = Member().attached_to(HIGHER[0])
    assert member.adopts(LOWER[0])
    for neighbour in (LOWER[0], HIGHER[0]):
        if dead:
            del member.reachable[neighbour.node_id]
            member.overlay.on_link_lost(neighbour.node_id, member.now)
            member.advance(3)
        else:
            member.receive(neighbour, Leaving())
        assert member.take(Detach, neighbour) == [Detach(APP, Refusal.SWITCHED)] * dead


def test_a_root_whose_children_have_another_one_asks_and_is_heard() -> None:
    """It has stood still: the child that has become the root meanwhile shall know that it is here."""
    member = Member().as_root()
    assert member.adopts(LOWER[0])
    member.asks()
    member.receive(LOWER[0], Detach(APP, Refusal.SWITCHED))
    assert member.take(TreeBeat, LOWER[0]) == [TreeBeat(())]
    member.advance(2)
    assert member.asks()


def test_a_root_by_its_parents_silence_goes_below_it_when_it_speaks_again() -> None:
    only = HIGHER[0]
    member = Member().attached_to(only)
    member.told(only)  # nobody else outranks it
    del member.reachable[only.node_id]
    member.overlay.on_link_lost(only.node_id, member.now)
    member.advance(3)
    assert member.view().is_root
    member.reachable[only.node_id] = only
    member.take(Attach)
    member.receive(only, TreeBeat(()))
    member.advance(1)
    assert member.take(Attach, only)


def test_a_parent_that_was_silent_and_is_back_is_no_longer_shunned() -> None:
    """Only one device outranks this one, so it had no other place for 20 s."""
    only = HIGHER[0]
    member = Member().attached_to(only)
    del member.reachable[only.node_id]
    member.overlay.on_link_lost(only.node_id, member.now)
    member.advance(3)
    assert member.view().parent is None
    member.asks()
    member.take(Attach)
    member.told(only)
    assert not member.take(Attach, only), "it was silent a moment ago"
    member.reachable[only.node_id] = only
    member.advance(1)
    member.receive(only, TreeBeat(()))
    member.advance(1)
    assert member.take(Attach, only)
    assert all(only.node_id not in track.failed for track in member.asks()[1:])


def test_a_parent_that_turns_out_to_rank_lower_is_not_taken() -> None:
    candidate = replace(LOWER[0], capacity=Capacity.GATEWAY)
    member = Member(HIGHER[19])
    assert rank(candidate, APP) > rank(HIGHER[19], APP)
    member.reachable[candidate.node_id] = candidate
    member.told(candidate)
    assert member.take(Attach, candidate)
    honest = replace(candidate, capacity=Capacity.NORMAL, incarnation=1)
    member.receive(honest, Attached(APP, 1, honest.node_id))
    assert member.take(Detach, honest) == [Detach(APP, Refusal.RANK)]
    assert member.view().parent is None


def test_while_it_seeks_it_asks_again_less_and_less_often() -> None:
    member = Member()
    times = []
    for _ in range(100):
        if member.asks():
            times.append(member.now)
        member.advance(1)
    gaps = [b - a for a, b in pairwise(times)]
    assert gaps == sorted(gaps) or max(gaps) > 8
    assert max(gaps) <= WAN.seek_s[-1] * 1.1 + 1
    assert len(times) <= 9


@pytest.mark.parametrize(("kept", "earliest", "latest"), [(True, 100, 140), (False, 1600, 2000)])
def test_renewals_are_rare_and_rarer_if_the_tracker_has_no_room(kept: bool, earliest: float, latest: float) -> None:
    member = Member().attached_to(HIGHER[0])
    alive = TreeBeat((TreeEdge(APP, False, depth=1, root=HIGHER[0].node_id),))
    for _ in range(3):  # what an answer says counts from the next renewal on
        member.asks()
        start = member.now
        while not (asked := member.asks()):
            member.advance(10)
            member.receive(HIGHER[0], alive)
        member.told(HIGHER[0], kept=kept)
    assert asked == [Track(APP, renewal=True)]
    assert earliest < member.now - start < latest


# Serving children


def test_children_are_counted_and_their_subtrees_added_up() -> None:
    member = Member().as_root()
    assert member.adopts(LOWER[0], height=2, members=5)
    assert member.adopts(LOWER[1])
    assert member.adopts(LOWER[2], observer=True, height=9, members=9)
    view = member.view()
    assert (view.height, view.members) == (3, 7)
    assert [c.observer for c in view.children] == [False, False, True]
    member.receive(LOWER[1], TreeBeat((TreeEdge(APP, True, height=5, members=9),)))
    assert (member.view().height, member.view().members) == (6, 15)
    assert member.adopts(LOWER[0], height=0, members=1)  # attached again: its state is new
    assert member.view().members == 11
    assert member.events() == ["root", "child", "child", "child", "child"]


def test_who_outranks_us_is_refused() -> None:
    member = Member().as_root()
    member.receive(HIGHER[0], Attach(APP))
    assert member.take(Refused, HIGHER[0]) == [Refused(APP, Refusal.RANK)]
    member.receive(HIGHER[0], Attach(APP, observer=True))
    assert member.take(Attached, HIGHER[0])


def test_a_full_parent_evicts_its_lowest_child_for_a_higher_one() -> None:
    member = Member().as_root()
    lowest_first = list(reversed(LOWER))
    for child in lowest_first[:ZONE_CHILDREN]:
        assert member.adopts(child)
    newcomer = lowest_first[ZONE_CHILDREN]
    assert member.adopts(newcomer)
    (told,) = member.take(Detach, lowest_first[0])
    assert told.reason is Refusal.EVICTED
    assert told.alternatives[0] == newcomer
    assert set(told.alternatives) == {newcomer, *lowest_first[1:ZONE_CHILDREN]}
    assert len(member.view().children) == ZONE_CHILDREN
    assert member.events()[-2:] == ["child_gone", "child"]


def test_a_full_parent_sends_lower_ones_down_to_its_children() -> None:
    member = Member().as_root()
    for child in LOWER[:ZONE_CHILDREN]:
        assert member.adopts(child)
    assert not member.adopts(LOWER[ZONE_CHILDREN])
    assert member.take(Refused, LOWER[ZONE_CHILDREN]) == [Refused(APP, Refusal.FULL, tuple(LOWER[:ZONE_CHILDREN]))]


def test_zones_have_places_of_their_own() -> None:
    member = Member().as_root()
    for child in LOWER[:ZONE_CHILDREN]:
        assert member.adopts(child)
    strangers = [replace(c, zone=3) for c in LOWER[ZONE_CHILDREN : ZONE_CHILDREN + OTHER_CHILDREN + 1]]
    for child in strangers[:OTHER_CHILDREN]:
        assert member.adopts(child)
    assert not member.adopts(strangers[-1])
    assert len(member.view().children) == ZONE_CHILDREN + OTHER_CHILDREN


def test_observers_give_way_to_members() -> None:
    member = Member().as_root()
    for watcher in HIGHER[:ZONE_CHILDREN]:
        assert member.adopts(watcher, observer=True)
    assert member.adopts(LOWER[-1])
    assert len(member.take(Detach)) == 1


def test_those_who_cannot_serve_say_so() -> None:
    observer = Member(observer=True)
    undialable = Member(replace(MIDDLE, role=Role.LEAF))
    outsider = SoloOverlay().start()
    for world in (observer, undialable, outsider):
        world.receive(LOWER[0], Attach(APP))
        assert world.take(Refused, LOWER[0]) == [Refused(APP, Refusal.NOT_A_MEMBER)]


def test_an_application_of_a_zone_takes_nobody_from_outside() -> None:
    member = Member(scope=Scope.ZONE)
    stranger = replace(LOWER[0], zone=5)
    member.receive(stranger, Attach(APP))
    assert member.take(Refused, stranger) == []  # even a refusal would cross the border
    assert member.overlay.counters["refused_foreign_zone"] == 1
    member.told(replace(HIGHER[0], zone=5))
    assert member.take(Attach) == []
    assert member.adopts(LOWER[1])
    member.receive(replace(LOWER[1], zone=5, incarnation=1), Ping(1))
    member.receive(replace(LOWER[1], zone=5, incarnation=1), TreeBeat(()))
    assert member.view().children == ()


# Losing neighbours


def test_an_orphan_repairs_with_what_it_knows_and_tells_the_tracker() -> None:
    member = Member().attached_to(HIGHER[0])
    member.told(HIGHER[0], HIGHER[1])
    member.asks()
    member.cut(HIGHER[0])
    member.reachable[HIGHER[1].node_id] = HIGHER[1]
    member.overlay.on_link_lost(HIGHER[0].node_id, member.now)
    assert member.view().position is Position.ATTACHED  # a hint, no proof
    member.advance(0.6)
    assert member.events()[-1] == "orphaned"
    assert member.take(Attach, HIGHER[1])
    assert member.asks() == [Track(APP, failed=(HIGHER[0].node_id,))]
    member.receive(HIGHER[1], Attached(APP, 1, HIGHER[1].node_id))
    assert member.view().parent == HIGHER[1]


def test_an_evicted_child_goes_where_it_is_sent() -> None:
    member = Member().attached_to(HIGHER[0])
    member.told(HIGHER[0], HIGHER[1])
    member.receive(HIGHER[0], Detach(APP, Refusal.EVICTED, (HIGHER[7],)))
    assert member.take(Attach, HIGHER[7])
    assert member.take(Attach, HIGHER[1]) == []
    assert member.events() == ["parent", "orphaned"]


@pytest.mark.parametrize("reason", [Refusal.LEAVING, Refusal.NOT_A_MEMBER])
def test_a_parent_that_is_no_member_any_more_is_reported(reason: Refusal) -> None:
    member = Member().attached_to(HIGHER[0])
    member.asks()
    member.receive(HIGHER[0], Detach(APP, reason))
    assert member.asks()[0].failed == (HIGHER[0].node_id,)


def test_a_detach_while_attaching_is_a_refusal() -> None:
    member = Member()
    member.reachable |= {c.node_id: c for c in HIGHER[:2]}
    member.told(HIGHER[0])
    assert member.take(Attach, HIGHER[0])
    member.receive(HIGHER[0], Detach(APP, Refusal.EVICTED, (HIGHER[1],)))
    assert member.take(Attach, HIGHER[1])


def test_a_parent_that_knows_no_edge_is_no_refusal_and_is_asked_again() -> None:
    member = Member()
    member.reachable[HIGHER[0].node_id] = HIGHER[0]
    member.told(HIGHER[0])
    assert member.take(Attach, HIGHER[0])
    member.receive(HIGHER[0], Detach(APP, Refusal.SWITCHED))  # the answer to a heartbeat of before
    member.receive(HIGHER[0], Attached(APP, 1, HIGHER[0].node_id))
    assert member.view().parent == HIGHER[0]
    member.receive(HIGHER[0], Detach(APP, Refusal.SWITCHED))
    assert member.view().parent is None
    assert member.take(Attach, HIGHER[0]) == [Attach(APP)]


def test_a_child_that_leaves_is_gone() -> None:
    member = Member().as_root()
    for child in LOWER[:3]:
        member.adopts(child)
    member.receive(LOWER[0], Detach(APP, Refusal.SWITCHED))
    member.receive(LOWER[1], Leaving())
    member.receive(LOWER[5], Detach(APP, Refusal.SWITCHED))
    assert [c.contact for c in member.view().children] == [LOWER[2]]


def test_silent_neighbours_are_verified_and_dropped_if_dead() -> None:
    member = Member().attached_to(HIGHER[0])
    member.adopts(LOWER[0])
    member.cut(LOWER[0])
    member.advance(40)
    assert member.view().children == ()
    assert member.view().parent == HIGHER[0]  # silent about the edge, too, but it answers pings


def test_a_neighbour_that_is_alive_but_never_speaks_of_the_edge_loses_it() -> None:
    member = Member().attached_to(HIGHER[0])
    member.adopts(LOWER[0])
    member.told(HIGHER[0], HIGHER[1])
    member.take(Detach)
    member.advance(70)
    assert member.view().parent is None
    assert member.view().children == ()
    assert member.take(Detach, HIGHER[0]) == [Detach(APP, Refusal.SWITCHED)]


# Heartbeats


def test_one_heartbeat_per_neighbour_pair_carries_all_edges() -> None:
    apps = list(range(100, 100 + MAX_TREES))
    root = SoloOverlay(MIDDLE.node_id).start()
    for app in apps:
        root.overlay.join_tree(app, root.now)
    child = replace(LOWER[0], capacity=Capacity.CONSTRAINED)  # below us in most trees
    root.meet(child)
    shared = [app for app in apps if rank(child, app) < rank(MIDDLE, app)]
    for app in shared:
        root.receive(child, Attach(app))
    root.advance(0.1)
    root.take(TreeBeat)
    root.advance(15)
    beats = root.take(TreeBeat, child)
    assert sum(len(beat.edges) for beat in beats) == len(shared)
    assert len(shared) > MAX_BEAT_TREES
    assert len(beats) == 2


def test_news_rides_at_once_but_not_more_than_once_a_second() -> None:
    member = Member().attached_to(HIGHER[0])
    member.advance(2)
    member.take(TreeBeat)
    for n in range(20):
        member.receive(LOWER[0], Attach(APP, members=n + 1))
        member.advance(0.1)
    beats = member.take(TreeBeat, HIGHER[0])
    assert 2 <= len(beats) <= 4
    assert beats[0].edges[0].members == 2


def test_unknown_edges_are_answered_with_detach() -> None:
    member = Member().attached_to(HIGHER[0])
    forged = [TreeEdge(app, True) for app in range(1000, 1030)]
    member.receive(LOWER[3], TreeBeat((TreeEdge(APP, True), TreeEdge(APP, False), *forged)))
    answers = member.take(Detach, LOWER[3])
    assert len(answers) == MAX_DETACHES
    assert [a.reason for a in answers[:3]] == [Refusal.SWITCHED, Refusal.SWITCHED, Refusal.NOT_A_MEMBER]


def test_a_heartbeat_that_overtakes_the_acceptance_does_no_harm() -> None:
    member = Member()
    member.reachable[HIGHER[0].node_id] = HIGHER[0]
    member.told(HIGHER[0])
    member.receive(HIGHER[0], TreeBeat((TreeEdge(APP, False, depth=1, root=HIGHER[0].node_id),)))
    assert member.take(Detach) == []
    member.receive(HIGHER[0], Attached(APP, 1, HIGHER[0].node_id))
    assert member.view().parent == HIGHER[0]


def test_depth_and_root_ride_down() -> None:
    member = Member().attached_to(HIGHER[0])
    member.adopts(LOWER[0])
    member.advance(2)
    member.take(TreeBeat)
    member.receive(HIGHER[0], TreeBeat((TreeEdge(APP, False, depth=255, root=5),)))
    assert (member.view().depth, member.view().root) == (255, 5)
    member.advance(1.1)
    assert member.take(TreeBeat, LOWER[0])[-1].edges == (TreeEdge(APP, False, depth=255, root=5),)


# Changes


def test_a_parent_that_falls_below_us_is_left() -> None:
    strong = replace(LOWER[0], capacity=Capacity.GATEWAY)
    member = Member(HIGHER[19]).attached_to(strong)
    member.receive(replace(strong, capacity=Capacity.CONSTRAINED, incarnation=1), TreeBeat(()))
    assert member.view().parent is None
    assert member.take(Detach, strong) == [Detach(APP, Refusal.RANK)]


def test_a_child_that_rises_above_us_is_let_go() -> None:
    member = Member().as_root()
    member.adopts(LOWER[0])
    member.receive(replace(LOWER[0], capacity=Capacity.GATEWAY, incarnation=1), TreeBeat(()))
    assert member.view().children == ()
    assert member.take(Detach, LOWER[0]) == [Detach(APP, Refusal.RANK)]


def test_our_own_fall_lets_higher_children_go_first() -> None:
    member = Member().attached_to(HIGHER[0])
    for child in LOWER[:4]:
        member.adopts(child)
    fallen = replace(MIDDLE, capacity=Capacity.CONSTRAINED, incarnation=1)
    member.overlay.set_contact(fallen, member.now)
    for child in member.view().children:
        assert rank(child.contact, APP) < rank(fallen, APP)
    assert member.view().parent == HIGHER[0]
    assert member.asks()


def test_our_own_rise_leaves_a_parent_that_is_now_below() -> None:
    member = Member().attached_to(HIGHER[19])
    risen = replace(MIDDLE, capacity=Capacity.GATEWAY, incarnation=1)
    assert rank(risen, APP) > rank(HIGHER[19], APP)
    member.overlay.set_contact(risen, member.now)
    assert member.view().parent is None
    assert member.take(Detach, HIGHER[19]) == [Detach(APP, Refusal.RANK)]


def test_contacts_in_the_pool_are_kept_up_to_date() -> None:
    member = Member().attached_to(HIGHER[0])
    moved = replace(HIGHER[0], port=9000, incarnation=1)
    member.receive(moved, TreeBeat(()))
    assert member.take(Attach, moved) == [Attach(APP)]  # it may have restarted, and know no child any more
    member.receive(moved, Attached(APP, 1, moved.node_id))
    assert member.view().parent == moved
    assert member.overlay.top_ranked(APP, 1) == (moved,)
    member.told(HIGHER[0])  # hearsay of the old address
    assert member.overlay.top_ranked(APP, 1) == (moved,)


def test_who_failed_us_may_try_again_after_a_restart() -> None:
    member = Member()
    member.told(HIGHER[0])
    member.advance(10)
    assert [m.failed for m in member.asks()][-1] == (HIGHER[0].node_id,)
    member.told(HIGHER[0])
    assert member.take(Attach) == []
    again = replace(HIGHER[0], incarnation=1)
    member.reachable[again.node_id] = again
    member.told(again)
    assert member.take(Attach, again) == [Attach(APP)]


# Leaving


def test_leaving_tells_both_sides_and_the_tracker() -> None:
    member = Member().attached_to(HIGHER[0])
    for child in LOWER[:3]:
        member.adopts(child)
    member.sent.clear()
    member.overlay.leave_tree(APP, member.now)
    assert member.take(Detach, HIGHER[0]) == [Detach(APP, Refusal.LEAVING)]
    (told,) = member.take(Detach, LOWER[2])
    assert told.alternatives == (HIGHER[0], *LOWER[:2])
    assert [decode(m.body) for m in member.take(Route, TRACKER)] == [Untrack(APP)]
    assert member.overlay.tree(APP) is None
    member.overlay.leave_tree(APP, member.now)
    for message in (Attached(APP, 1, 1), Refused(APP, Refusal.FULL), Detach(APP, Refusal.RANK), Candidates(APP)):
        member.receive(HIGHER[0], message)
    assert member.take(Detach, HIGHER[0]) == [Detach(APP, Refusal.NOT_A_MEMBER)]


def test_leaving_in_the_middle_of_an_attempt() -> None:
    member = Member()
    member.reachable[HIGHER[0].node_id] = HIGHER[0]
    member.told(HIGHER[0])
    member.overlay.leave_tree(APP, member.now)
    member.advance(100)
    assert member.overlay.tree(APP) is None
    assert member.overlay.top_ranked(APP, 3) == ()


def test_joining_twice_changes_nothing_and_changing_sides_starts_anew() -> None:
    member = Member().attached_to(HIGHER[0])
    member.overlay.join_tree(APP, member.now)
    assert member.view().parent == HIGHER[0]
    member.overlay.join_tree(APP, member.now, observer=True)
    assert (member.view().parent, member.view().observer) == (None, True)


def test_the_number_of_trees_is_bounded() -> None:
    world = SoloOverlay().start()
    for app in range(MAX_TREES):
        world.overlay.join_tree(app, 0.0)
    with pytest.raises(UsageError, match="128 applications"):
        world.overlay.join_tree(MAX_TREES, 0.0)
    assert len(world.overlay.trees()) == MAX_TREES


# A round is open


def test_a_silent_parent_is_asked_at_once_while_a_round_is_open() -> None:
    for open_ in (True, False):
        member = Member().attached_to(HIGHER[0])
        if open_:
            member.overlay.watch_tree(APP, member.now + 60, member.now)
        member.cut(HIGHER[0])
        member.advance(4.0)
        assert (member.view().parent is None) == open_
    member = Member().attached_to(HIGHER[0])
    member.overlay.watch_tree(APP, member.now + 60, member.now)
    member.overlay.watch_tree(APP, member.now, member.now)
    member.cut(HIGHER[0])
    member.advance(4.0)
    assert member.view().parent == HIGHER[0]  # the round is over


def test_a_parent_that_stands_still_now_and_then_is_not_left() -> None:
    member = Member().attached_to(HIGHER[0])
    member.overlay.watch_tree(APP, member.now + 300, member.now)
    for _ in range(20):
        member.cut(HIGHER[0])
        member.advance(0.9)
        member.reachable[HIGHER[0].node_id] = HIGHER[0]
        member.receive(HIGHER[0], TreeBeat((TreeEdge(APP, False, depth=1, root=HIGHER[0].node_id),)))
        member.advance(2.0)
    assert member.view().parent == HIGHER[0]
    assert member.events() == ["parent"]


def test_an_orphan_goes_to_a_spare_parent_that_lives_without_the_tracker() -> None:
    member = Member().attached_to(HIGHER[0])
    spares = HIGHER[1:4]
    member.reachable |= {c.node_id: c for c in spares}
    member.told(HIGHER[0], *HIGHER[1:10])  # the rest is hearsay, and dead
    member.overlay.watch_tree(APP, member.now + 60, member.now)
    alive = TreeBeat((TreeEdge(APP, False, depth=1, root=HIGHER[0].node_id),))
    for _ in range(20):  # those that do not answer are replaced, until three do
        member.advance(1.0)
        member.receive(HIGHER[0], alive)
    member.take(Attach)
    member.asks()
    member.cut(HIGHER[0])
    member.advance(4.0)
    asked = {contact.node_id for contact, message in member.sent if isinstance(message, Attach)}
    assert asked
    assert asked <= {c.node_id for c in spares}


def orphan_of(cold: list[Contact]) -> Member:
    """Its parent is gone, and it only knows these, to which it has no link."""
    member = Member().attached_to(HIGHER[0])
    member.told(HIGHER[0], *cold)
    member.asks()
    member.receive(HIGHER[0], Detach(APP, Refusal.RANK))
    return member


def asked_by(member: Member) -> list[Contact]:
    asked = [contact for contact, message in member.sent if isinstance(message, Attach)]
    member.take(Attach)
    return asked


def test_an_orphan_does_not_wait_for_who_must_be_dialled_first() -> None:
    member = orphan_of(HIGHER[1:9])
    (first,) = asked_by(member)
    member.advance(WAN.rpc_timeout_s - 0.01)
    assert asked_by(member) == []
    member.advance(0.02)
    (second,) = asked_by(member)
    assert member.receive(second, Attached(APP, 1, second.node_id))
    assert member.view().parent == second
    member.receive(first, TreeBeat((TreeEdge(APP, False, depth=1, root=HIGHER[0].node_id),)))
    member.receive(first, Attached(APP, 1, first.node_id))
    assert member.view().parent == second
    assert [message.reason for message in member.take(Detach, first)] == [Refusal.SWITCHED] * 2, "it knows where it is"
    member.advance(WAN.cold_timeout_s + 1)
    assert asked_by(member) == []
    assert all(first.node_id not in track.failed for track in member.asks()), "slow is not dead"


def test_the_slow_one_may_still_be_the_first_to_accept() -> None:
    member = orphan_of(HIGHER[1:9])
    (first,) = asked_by(member)
    member.advance(WAN.rpc_timeout_s + 0.01)
    (second,) = asked_by(member)
    member.receive(first, Attached(APP, 1, first.node_id))
    assert member.view().parent == first
    member.receive(second, Refused(APP, Refusal.FULL, (HIGHER[9],)))
    assert asked_by(member) == [], "what it was asked is over"
    member.receive(second, Attached(APP, 1, second.node_id))
    assert member.take(Detach, second) == [Detach(APP, Refusal.SWITCHED)]


def test_an_orphan_asks_few_at_the_same_time_and_everybody_has_its_time() -> None:
    member = orphan_of(HIGHER[1:9])
    asked = asked_by(member)
    member.advance(WAN.cold_timeout_s - 0.01)
    asked += asked_by(member)
    assert len(asked) == MAX_WAITING
    assert all(not track.failed for track in member.asks())
    member.advance(0.02)
    asked += asked_by(member)
    assert len(asked) == MAX_WAITING + 1
    member.advance(20.0)
    asked += asked_by(member)
    assert len(asked) == len(set(asked)) == 8, "nobody is asked twice"


def test_a_refusal_does_not_end_the_wait_for_others() -> None:
    member = orphan_of(HIGHER[1:3])
    (first,) = asked_by(member)
    member.advance(WAN.rpc_timeout_s + 0.01)
    (second,) = asked_by(member)
    member.receive(second, Refused(APP, Refusal.FULL))
    member.advance(1.0)
    member.receive(first, Attached(APP, 1, first.node_id))
    assert member.view().parent == first


def test_in_quiet_times_one_is_asked_after_the_other() -> None:
    member = Member()
    member.reachable |= {c.node_id: c for c in HIGHER[:3]}
    member.told(*HIGHER[:3])
    assert len(asked_by(member)) == 1
    member.advance(WAN.rpc_timeout_s - 0.1)
    assert asked_by(member) == []


def test_few_spare_parents_are_a_reason_to_ask_the_tracker_but_not_often() -> None:
    member = Member().attached_to(HIGHER[0])
    member.overlay.watch_tree(APP, member.now + 200, member.now)
    member.asks()
    alive = TreeBeat((TreeEdge(APP, False, depth=1, root=HIGHER[0].node_id),))
    for _ in range(95):
        member.advance(1.0)
        member.receive(HIGHER[0], alive)
    asked = [track for track in member.asks() if not track.renewal]
    assert 2 <= len(asked) <= 4


def test_the_next_in_rank_succeeds_the_root_without_waiting_for_the_tracker() -> None:
    member = Member().attached_to(HIGHER[0])
    member.told(HIGHER[0], *LOWER[:2])  # the three of highest rank
    member.cut(HIGHER[0])
    member.overlay.on_link_lost(HIGHER[0].node_id, member.now)
    member.advance(1.0)
    assert member.view().is_root
    assert member.asks()[-1].failed == (HIGHER[0].node_id,)


def test_who_may_not_know_everybody_above_it_waits_for_the_tracker() -> None:
    member = Member().attached_to(HIGHER[0])
    member.told(*HIGHER[:3])  # and perhaps a fourth
    for dead in HIGHER[:3]:
        member.cut(dead)
    member.overlay.on_link_lost(HIGHER[0].node_id, member.now)
    member.advance(3.0)
    assert member.view().position is Position.SEEKING


# Moves between zones


def test_children_of_other_zones_beyond_their_places_are_let_go_lowest_first() -> None:
    member = Member().as_root()
    for child in LOWER[:ZONE_CHILDREN]:
        assert member.adopts(child)
    moved = [replace(c, zone=3, incarnation=1) for c in LOWER[:6]]
    for child in moved:
        member.receive(child, TreeBeat((TreeEdge(APP, True, members=1),)))
    foreign = [c.contact for c in member.view().children if c.contact.zone == 3]
    assert foreign == moved[:OTHER_CHILDREN]  # LOWER is in the order of rank
    told, _ = member.take(Detach, moved[5])  # and the answer to its word about the edge that it had
    assert told.reason is Refusal.EVICTED
    assert moved[0].node_id in {c.node_id for c in told.alternatives}
    member.overlay.set_contact(replace(MIDDLE, zone=3, incarnation=1), member.now)
    zones = [c.contact.zone for c in member.view().children]
    assert (zones.count(3), zones.count(MIDDLE.zone)) == (4, 2)
    member.overlay.set_contact(replace(MIDDLE, zone=9, incarnation=2), member.now)
    assert len(member.view().children) == OTHER_CHILDREN


def test_an_acceptance_that_comes_after_a_move_is_not_answered_across_the_border() -> None:
    member = Member(scope=Scope.ZONE)
    member.reachable[HIGHER[0].node_id] = HIGHER[0]
    member.told(HIGHER[0])
    assert member.take(Attach, HIGHER[0])
    member.overlay.set_contact(replace(MIDDLE, zone=3, incarnation=1), member.now)
    assert member.overlay.tree(APP) is None
    member.sent.clear()
    member.receive(HIGHER[0], Attached(APP, 1, HIGHER[0].node_id))
    member.receive(HIGHER[0], TreeBeat((TreeEdge(APP, False, depth=1, root=HIGHER[0].node_id),)))
    member.receive(HIGHER[0], Attach(APP))
    for kind in (Attached, Detach, Refused, TreeBeat):
        assert member.take(kind, HIGHER[0]) == []
    assert member.overlay.counters["refused_foreign_zone"] == 3
    inside = replace(HIGHER[1], zone=3)
    member.receive(inside, Attach(APP))
    assert member.take(Refused, inside) == [Refused(APP, Refusal.NOT_A_MEMBER)]


# Laws


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(CROWD),
            st.sampled_from(
                [
                    "attach",
                    "watch",
                    "attached",
                    "full",
                    "detach",
                    "candidates",
                    "beat",
                    "cut",
                    "wait",
                    "round",
                    "change",
                    "own-class",
                    "own-zone",
                ]
            ),
            st.integers(0, 3),
        ),
        max_size=60,
    )
)
def test_whatever_happens_edges_follow_the_ranks(steps: list[tuple[Contact, str, int]]) -> None:
    """Both ends of an edge check it by what is known of either now: ranks and zones change under way."""
    member = Member()
    member.overlay.watch_tree(APP, 1000.0, member.now)
    own, known = MIDDLE, {c.node_id: c for c in CROWD}
    for who, what, number in steps:
        who = known[who.node_id]
        some = tuple(CROWD[number :: number + 2][:12])
        if what == "attach":
            member.receive(who, Attach(APP, height=number, members=number))
        elif what == "watch":
            member.receive(who, Attach(APP, observer=True))
        elif what == "attached":
            member.receive(who, Attached(APP, number, who.node_id))
        elif what == "full":
            member.receive(who, Refused(APP, Refusal(number), some))
        elif what == "detach":
            member.receive(who, Detach(APP, Refusal(number), some))
        elif what == "candidates":
            member.told(*some)
        elif what == "beat":
            member.receive(who, TreeBeat((TreeEdge(APP, number % 2 == 0, number, number, number, number),)))
        elif what == "cut":
            member.cut(who)
        elif what == "round":
            member.overlay.watch_tree(APP, member.now + number * 5, member.now)
        elif what == "change":
            incarnation = who.incarnation + 1
            who = replace(who, zone=number % 2, capacity=Capacity(number), incarnation=incarnation)
            known[who.node_id] = who
            member.receive(who, TreeBeat(()))
        elif what.startswith("own"):
            changes = {"zone": number % 2} if what == "own-zone" else {"capacity": Capacity(number)}
            own = replace(own, incarnation=own.incarnation + 1, **changes)
            member.overlay.set_contact(own, member.now)
        else:
            member.reachable[who.node_id] = who
            member.advance(number * 3)
        view = member.view()
        standing = rank(own, APP)
        assert view.parent is None or rank(view.parent, APP) > standing
        assert (view.position is Position.ATTACHED) == (view.parent is not None)
        for child in view.children:
            assert rank(child.contact, APP, child.observer) < standing
        zones = [child.contact.zone for child in view.children]
        assert zones.count(own.zone) <= ZONE_CHILDREN
        assert len(zones) - zones.count(own.zone) <= OTHER_CHILDREN
        assert view.members == 1 + sum(c.members for c in view.children)
        assert member.overlay.sizes()["pool"] <= MAX_POOL
