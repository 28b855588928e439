"""Volunteers, their neighbours played by hand: who calls, who is asked, who helps and for how long."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.overlay_contacts import contact
from support.solo import SoloOverlay

from edgefl.overlay import Position
from edgefl.overlay.forest import MAX_HELPED
from edgefl.overlay.ids import volunteers_key
from edgefl.overlay.profile import WAN
from edgefl.overlay.proposals import population
from edgefl.overlay.rank import rank
from edgefl.overlay.volunteers import MAX_CALLERS, MAX_CALLS
from edgefl.wire import Contact, Message, Role, decode, encode
from edgefl.wire.overlay import (
    Attach,
    Attached,
    Candidates,
    Detach,
    HelpWanted,
    Refusal,
    Refused,
    Route,
    Scope,
    SeekHelpers,
    Track,
    TreeBeat,
    Untrack,
)

APP = 42
TRACKER = contact(APP)
REGISTER = contact(volunteers_key(0) ^ 1)
MEMBERS = [contact(n * 0x0123_4567_89AB_CDEF % 2**64) for n in range(1, 6)]
LEAF = contact(3 << 60, role=Role.LEAF)


def bodies(device: SoloOverlay, key: int) -> list[Message]:
    """What was routed to a key since the last time."""
    routes = device.take(Route)
    device.sent += [(TRACKER, route) for route in routes if route.key != key]
    return [decode(route.body) for route in routes if route.key == key]


class Helper(SoloOverlay):
    """A device that volunteers and joins whatever tree it is wanted for."""

    def __init__(self, **changes: object) -> None:
        super().__init__(5 << 60, **{"role": Role.HELPER, **changes})
        self.start(TRACKER, *MEMBERS)
        self.meet(LEAF)

    def wanted(self, app: int = APP, sender: Contact = REGISTER, scope: Scope = Scope.GLOBAL) -> bool:
        """The register asks; True if that reaches the owner of this device."""
        before = len(self.log.times("help_wanted", app))
        self.receive(sender, HelpWanted(app, scope))
        return len(self.log.times("help_wanted", app)) > before

    def helping(self) -> Helper:
        """Carry the tree, below a member."""
        self.overlay.join_tree(APP, self.now, helper=True)
        self.receive(TRACKER, Candidates(APP, tuple(MEMBERS[:1]), 1))
        self.advance(0.1)
        (asked,) = self.take(Attach, MEMBERS[0])
        assert asked.members == 0, "it is no member"
        self.receive(MEMBERS[0], Attached(APP, 1, MEMBERS[0].node_id))
        return self

    def stays(self) -> bool:
        return self.overlay.tree(APP) is not None


# Helping


def test_a_helper_counts_its_children_and_not_itself() -> None:
    helper = Helper().helping()
    view = helper.overlay.tree(APP)
    assert view is not None
    assert (view.position, view.helper, view.members) == (Position.ATTACHED, True, 0)
    helper.receive(LEAF, Attach(APP))
    assert helper.take(Attached, LEAF) == [Attached(APP, 2, MEMBERS[0].node_id)]
    helper.advance(1.1)
    (beat,) = helper.take(TreeBeat, MEMBERS[0])[-1:]
    assert [(edge.upwards, edge.height, edge.members) for edge in beat.edges] == [(True, 1, 1)]


def test_a_helper_is_no_parent_of_members_that_can_be_dialled() -> None:
    helper = Helper().helping()
    helper.receive(MEMBERS[1], Attach(APP))
    assert helper.take(Refused, MEMBERS[1]) == [Refused(APP, Refusal.RANK)]


def test_a_helper_without_a_parent_draws_no_root_below_itself() -> None:
    """A member that volunteers elsewhere may be the root where nobody else can be dialled."""
    helper = Helper()
    lower = next(
        one
        for n in range(1, 99)
        if rank(one := contact(n << 44, role=Role.HELPER), APP) < rank(helper.overlay.contact, APP)
    )
    helper.overlay.join_tree(APP, helper.now, helper=True)
    helper.receive(lower, Attach(APP))
    assert helper.take(Refused, lower) == [Refused(APP, Refusal.FULL)]
    helper.receive(LEAF, Attach(APP))
    assert helper.take(Attached, LEAF), "leaves are another matter"
    helper.receive(TRACKER, Candidates(APP, tuple(MEMBERS[:1]), 1))
    helper.advance(0.1)
    helper.receive(MEMBERS[0], Attached(APP, 1, MEMBERS[0].node_id))
    helper.receive(lower, Attach(APP))
    assert helper.take(Attached, lower)


def test_a_helper_below_which_there_is_nobody_for_long_leaves() -> None:
    helper = Helper().helping()
    helper.receive(LEAF, Attach(APP))
    for _ in range(60):
        helper.receive(MEMBERS[0], TreeBeat(()))
        helper.receive(LEAF, Attach(APP))
        helper.receive(MEMBERS[0], Attached(APP, 1, MEMBERS[0].node_id))
        helper.advance(10.0)
    assert helper.stays()
    helper.receive(LEAF, Detach(APP, Refusal.LEAVING))
    helper.take(Detach)
    for _ in range(48):
        if helper.stays():
            helper.receive(MEMBERS[0], Attached(APP, 1, MEMBERS[0].node_id))
            helper.advance(10.0)
    assert not helper.stays()
    assert len(helper.log.times("dismissed", APP)) == 1
    assert helper.take(Detach, MEMBERS[0]) == [Detach(APP, Refusal.LEAVING)]
    assert any(isinstance(body, Untrack) for body in bodies(helper, APP))


def test_a_helper_that_would_be_the_root_leaves() -> None:
    helper = Helper()
    helper.overlay.join_tree(APP, helper.now, helper=True)
    helper.receive(TRACKER, Candidates(APP, (LEAF,), 1))
    assert not helper.stays()
    assert helper.log.times("dismissed", APP)
    assert helper.log.times("root") == []
    bodies(helper, APP)
    helper.advance(10.0)
    assert bodies(helper, APP) == [], "it is silent afterwards"


def test_a_helper_that_loses_parent_and_hope_tells_its_children() -> None:
    helper = Helper().helping()
    helper.receive(LEAF, Attach(APP))
    helper.cut(MEMBERS[0])
    helper.overlay.on_link_lost(MEMBERS[0].node_id, helper.now)
    helper.advance(3.0)
    assert helper.stays(), "the tracker may know more"
    helper.receive(TRACKER, Candidates(APP, (LEAF,), 1))
    assert not helper.stays()
    assert [message.reason for message in helper.take(Detach, LEAF)] == [Refusal.LEAVING]


def test_who_volunteers_no_longer_leaves_the_trees_that_it_helped() -> None:
    helper = Helper().helping()
    own = helper.overlay.contact
    helper.overlay.set_contact(replace(own, role=Role.NODE, incarnation=own.incarnation + 1), helper.now)
    assert not helper.stays()
    assert helper.log.times("dismissed", APP)


def test_a_helper_that_moves_to_another_zone_leaves_what_is_of_the_old_one() -> None:
    helper = Helper()
    helper.overlay.join_tree(APP, helper.now, helper=True, scope=Scope.ZONE)
    own = helper.overlay.contact
    helper.overlay.set_contact(replace(own, zone=7, incarnation=own.incarnation + 1), helper.now)
    assert helper.log.times("dismissed", APP)


# Being asked


def test_nobody_can_be_made_to_help() -> None:
    node = Helper(role=Role.NODE)
    assert not node.wanted()
    assert node.overlay.counters["help_refused"] == 1
    node.overlay.join_tree(APP, node.now, helper=True)
    assert not node.stays()
    assert node.log.times("dismissed", APP)


def test_a_helper_hears_its_own_zone_alone() -> None:
    helper = Helper()
    assert helper.wanted()
    assert not helper.wanted(sender=replace(REGISTER, zone=9))


def test_a_helper_has_its_fill() -> None:
    helper = Helper()
    for app in range(100, 100 + MAX_HELPED):
        assert helper.wanted(app)
        helper.overlay.join_tree(app, helper.now, helper=True)
        assert not helper.wanted(app), "it helps there already"
    assert not helper.wanted(99)
    helper.overlay.join_tree(99, helper.now, helper=True)
    assert helper.overlay.tree(99) is None
    helper.overlay.join_tree(99, helper.now)
    assert helper.overlay.tree(99) is not None, "its own applications are another matter"


def test_volunteers_register_in_their_zone() -> None:
    helper, node = SoloOverlay(5 << 60, role=Role.HELPER, zone=3), SoloOverlay(5 << 60, zone=3)
    key = volunteers_key(3)
    for device in (helper, node):
        device.start(contact(key ^ 1, zone=3))
        device.advance(2 * WAN.renewal_s)
    asked = [route for route in helper.take(Route) if route.key == key]
    assert asked
    assert all(route.scope is Scope.ZONE and decode(route.body) == Track(key) for route in asked)
    assert [route for route in node.take(Route) if route.key == key] == []


# Calling


@pytest.mark.parametrize("role", [Role.LEAF, Role.NODE])
def test_a_leaf_that_finds_every_place_taken_twice_calls(role: Role) -> None:
    own = max((contact(n << 56, role=role) for n in range(1, 9)), key=lambda c: -rank(c, APP)[1])
    device = SoloOverlay(own.node_id, role=role)
    device.start(TRACKER, REGISTER, *MEMBERS)
    device.overlay.join_tree(APP, device.now)
    above = [member for member in MEMBERS if rank(member, APP) > rank(own, APP)]
    assert above
    calls = []
    for _ in range(3):
        device.receive(TRACKER, Candidates(APP, tuple(above), len(above)))
        device.advance(0.1)
        for _ in above:
            for member in above:
                if device.take(Attach, member):
                    device.receive(member, Refused(APP, Refusal.FULL))
        calls.append(device.overlay.counters["help_calls"])  # a leaf asks its way to the register itself
        device.advance(WAN.avoid_s + 1)
    assert calls == ([0, 1, 2] if role is Role.LEAF else [0, 0, 0])


# The register


class Register(SoloOverlay):
    """Owner of the zone's register, with volunteers in it."""

    def __init__(self, helpers: int) -> None:
        super().__init__(volunteers_key(0))
        self.friend = contact(volunteers_key(0) ^ 1 << 60)
        self.start(self.friend)
        self._requests = 0
        self.helpers = [contact(n << 48, role=Role.HELPER) for n in range(1, helpers + 1)]
        for helper in self.helpers:
            self.ask(helper, Track(volunteers_key(0)))

    def ask(self, origin: Contact, body: Message, key: int = volunteers_key(0)) -> None:
        self._requests += 1
        self.receive(self.friend, Route(self._requests, key, origin, encode(body), 1, Scope.ZONE))

    def called(self, *numbers: int, app: int = APP) -> list[int]:
        """These members call; which volunteers are asked."""
        for number in numbers:
            self.ask(contact(number << 40, role=Role.LEAF), SeekHelpers(app))
        asked = [to.node_id for to, message in self.sent if isinstance(message, HelpWanted)]
        self.take(HelpWanted)
        return asked


def test_one_volunteer_is_asked_for_eight_callers_and_then_help_gets_time_to_arrive() -> None:
    register = Register(6)
    assert len(register.called(1)) == 1
    assert register.called(*range(2, 20)) == []
    register.advance(WAN.help_pause_s)
    assert len(register.called(20)) == 3, "nineteen have called since"
    register.advance(WAN.help_pause_s)
    assert len(register.called(20, 20, 20)) == 1


def test_all_volunteers_get_their_turn() -> None:
    register = Register(3)
    asked = []
    for _ in range(3):
        asked += register.called(1)
        register.advance(WAN.help_pause_s)
    assert sorted(asked) == [helper.node_id for helper in register.helpers]
    assert register.called(1)[0] in asked


def test_the_register_takes_volunteers_of_its_zone_alone_and_answers_nobody() -> None:
    register = Register(0)
    register.ask(contact(1 << 48), Track(volunteers_key(0)))
    register.ask(contact(2 << 48, role=Role.HELPER, zone=5), Track(volunteers_key(0)))
    assert register.take(Candidates) == []
    assert register.called(1) == []


def test_what_callers_can_make_it_hold_is_bounded() -> None:
    register = Register(1)
    for app in range(MAX_CALLS + 10):
        register.called(1, app=app)
        register.advance(0.02)
    assert register.overlay.sizes()["help_calls"] == MAX_CALLS
    register.called(*range(1, MAX_CALLERS + 20))
    (call,) = [call for app, call in register.overlay._volunteers._calls.items() if app == APP]
    assert len(call.callers) <= MAX_CALLERS


def test_volunteers_do_not_disturb_the_estimate_of_a_zone() -> None:
    """They stand in a tier of their own: that few of them are kept says nothing of how many nodes there are."""
    members = sorted((contact(n * 0x9E37_79B9_7F4A_7C15 % 2**64) for n in range(1000)), key=lambda c: rank(c, 7))
    helpers = [contact(n << 50, role=Role.HELPER) for n in range(1, 9)]
    assert population([*members[-120:], *helpers], 7, 128) == pytest.approx(1000, rel=0.25)
