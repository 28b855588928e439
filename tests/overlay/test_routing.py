"""Routed requests: always nearer, inside the zone first, acknowledged hop by hop, delivered once."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from support.overlay_contacts import contact
from support.solo import SoloOverlay

from edgefl.overlay.ids import shared_digits
from edgefl.overlay.routing import MAX_FORWARDS_PER_PEER, MAX_TRIES
from edgefl.wire import Contact, Role, encode
from edgefl.wire.overlay import Announce, FindRows, Found, Lookup, Ping, Route, RouteAck, Rows, Scope

KEY = 0
OWN = 0b1111 << 60
ORIGIN = contact(OWN | 1 << 50)
NEARER = contact(0b0011 << 60)
NEAREST = contact(0b0001 << 60)
BODY = encode(Lookup())


def request(number: int = 1, origin: Contact = ORIGIN, hops: int = 1, scope: Scope = Scope.GLOBAL) -> Route:
    return Route(number, KEY, origin, BODY, hops, scope)


def hops(world: SoloOverlay) -> list[int]:
    """To whom requests for the key were passed on."""
    passed = [to.node_id for to, message in world.sent if isinstance(message, Route) and message.key == KEY]
    world.take(Route)
    return passed


ids = st.integers(0, 2**64 - 1)


@settings(max_examples=40)
@given(st.lists(ids, min_size=1, max_size=40, unique=True), ids, st.sampled_from((0, 1)), ids)
def test_every_hop_is_strictly_nearer_so_every_walk_ends(known: list[int], own: int, zone: int, key: int) -> None:
    world = SoloOverlay(own, zone=zone).start(*(contact(i, zone=i % 2) for i in known if i != own))
    router = world.overlay._router
    tried: list[int] = []
    while (peer := router._next_hop(key, Scope.GLOBAL, tried)) is not None:
        assert peer.node_id ^ key < own ^ key
        tried.append(peer.node_id)
    assert len(tried) == sum(c.node_id ^ key < own ^ key for c in world.overlay.contacts())
    inside = router._next_hop(key, Scope.ZONE, ())
    assert inside is None or inside.contact.zone == zone
    first = router._next_hop(key, Scope.GLOBAL, ())
    if inside is not None:
        nearest = [c.node_id for c in world.overlay.contacts() if c.zone == zone]
        assert inside.node_id == min(nearest, key=lambda i: i ^ key)
        if shared_digits(inside.node_id, key) > shared_digits(own, key):
            assert first is inside  # the zone has somebody with the next digit: the request stays
    if first is not None and first is not inside:
        nearest = [c.node_id for c in world.overlay.contacts()]
        assert shared_digits(first.node_id, key) == max(shared_digits(i, key) for i in nearest)  # nobody settles more


def test_a_request_is_acknowledged_and_passed_on() -> None:
    world = SoloOverlay(OWN).start(ORIGIN, NEARER)
    world.receive(ORIGIN, request(hops=4))
    assert world.take(RouteAck, ORIGIN) == [RouteAck(ORIGIN.node_id, 1)]
    (passed,) = world.take(Route, NEARER)
    assert passed == request(hops=5)
    world.advance(20)
    assert hops(world) == []
    assert world.overlay.sizes()["forwards"] == 0


def test_the_owner_answers_the_origin() -> None:
    world = SoloOverlay(OWN).start(ORIGIN)
    world.receive(ORIGIN, request(hops=3))
    assert world.take(Found, ORIGIN) == [Found(1, 3)]


def test_a_repeated_request_is_acknowledged_but_not_repeated() -> None:
    world = SoloOverlay(OWN).start(ORIGIN)
    for _ in range(3):
        world.receive(ORIGIN, request())
    assert len(world.take(RouteAck, ORIGIN)) == 3
    assert len(world.take(Found, ORIGIN)) == 1


def test_a_silent_hop_is_routed_around_and_suspected() -> None:
    world = SoloOverlay(OWN).start(ORIGIN, NEARER, NEAREST)
    world.cut(NEAREST)
    world.receive(ORIGIN, request())
    assert hops(world) == [NEAREST.node_id]
    world.advance(2.1)
    assert hops(world) == [NEARER.node_id]
    assert world.overlay.is_suspect(NEAREST.node_id)
    world.receive(ORIGIN, request(2))
    assert hops(world) == [NEARER.node_id]  # others do not wait for it


def test_the_second_nearest_does_not_answer_while_the_nearest_may_be_alive() -> None:
    world = SoloOverlay(OWN).start(ORIGIN, NEAREST)
    world.cut(NEAREST)
    world.receive(ORIGIN, request())
    world.advance(2.05)
    assert hops(world) == [NEAREST.node_id] * 2  # asked again: perhaps only the acknowledgement was lost
    assert world.take(Found) == []
    world.advance(4)
    assert len(world.take(Found, ORIGIN)) == 1  # now it is known to be dead


def test_an_acknowledgement_counts_for_one_request_of_one_hop() -> None:
    world = SoloOverlay(OWN).start(ORIGIN, NEARER, NEAREST)
    world.cut(NEAREST, NEARER)
    world.receive(ORIGIN, request(1))
    world.receive(ORIGIN, request(2))
    world.receive(NEAREST, RouteAck(ORIGIN.node_id, 1))
    world.receive(NEARER, RouteAck(ORIGIN.node_id, 2))  # not the hop that was asked
    world.take(Route)
    world.advance(2.1)
    assert [m.request for m in world.take(Route)] == [2]


def test_attempts_are_bounded() -> None:
    crowd = [contact(n << 40) for n in range(1, 20)]
    world = SoloOverlay(OWN).start(ORIGIN, *crowd)
    world.cut(*crowd)
    world.receive(ORIGIN, request())
    for _ in range(100):
        world.advance(0.2)
        for peer in crowd:
            for ping in world.take(Ping, peer):
                world.receive(peer, Announce())  # alive, but they do not acknowledge
                assert ping
    assert len(hops(world)) == MAX_TRIES
    assert world.overlay.counters["forwards_given_up"] == 1
    assert world.take(Found) == []


def test_one_neighbour_cannot_make_us_wait_for_more_than_its_share() -> None:
    world = SoloOverlay(OWN).start(ORIGIN, NEARER)
    world.cut(NEARER)
    for number in range(MAX_FORWARDS_PER_PEER + 10):
        world.receive(ORIGIN, request(number))
    assert len(world.take(RouteAck, ORIGIN)) == MAX_FORWARDS_PER_PEER
    assert world.overlay.counters["forwards_refused"] == 10


def test_requests_that_cannot_be_right_are_dropped() -> None:
    world = SoloOverlay(OWN).start(ORIGIN)
    world.receive(ORIGIN, request(1, hops=64))
    world.receive(ORIGIN, request(2, origin=replace(ORIGIN, zone=3), scope=Scope.ZONE))
    assert world.take(RouteAck) == []
    assert world.overlay.counters["refused_foreign_zone"] == 1
    world.receive(ORIGIN, replace(request(3), body=b"\xff"))
    world.receive(ORIGIN, replace(request(4), body=encode(Ping(1))))
    assert world.overlay.counters["bad_bodies"] == 1
    unjoined = SoloOverlay(OWN)
    unjoined.overlay.start(0.0)
    unjoined.receive(ORIGIN, request())
    assert unjoined.take(RouteAck) == []


# Lookups


def lookup(world: SoloOverlay) -> tuple[int, list[Route]]:
    number = world.overlay.lookup(KEY, world.now)
    world.advance(0)
    return number, [m for m in world.take(Route) if m.key == KEY]


def test_a_lookup_reports_the_owner() -> None:
    world = SoloOverlay(OWN).start(NEARER)
    number, (sent,) = lookup(world)
    world.receive(NEAREST, Found(sent.request + 1, 2))
    assert world.log.lookups == {}
    world.receive(NEAREST, Found(sent.request, 2))
    world.receive(NEARER, Found(sent.request, 2))
    assert world.log.lookups == {number: (NEAREST, 2)}


def test_who_owns_the_key_itself_finds_itself() -> None:
    world = SoloOverlay(KEY).start(ORIGIN)
    number, sent = lookup(world)
    assert sent == []
    assert world.log.lookups == {number: (world.overlay.contact, 0)}


def test_a_lookup_is_repeated_by_another_way_and_then_fails() -> None:
    world = SoloOverlay(OWN).start(NEARER, NEAREST)
    number, (first,) = lookup(world)
    world.advance(5.1)
    (second,) = [m for m in world.take(Route, NEARER) if m.key == KEY]
    assert second.request != first.request
    world.advance(5.1)
    assert world.log.lookups == {number: (None, 0)}
    assert world.overlay.counters["lookups_failed"] == 1
    assert world.overlay.sizes()["lookups"] == 0


def test_the_only_way_is_taken_twice() -> None:
    world = SoloOverlay(OWN).start(NEARER)
    lookup(world)
    world.advance(5.1)
    assert hops(world) == [NEARER.node_id]


def test_who_is_not_joined_finds_nobody() -> None:
    world = SoloOverlay(OWN)
    world.overlay.start(0.0)
    number, _ = lookup(world)
    assert world.log.lookups == {number: (None, 0)}


def test_who_cannot_be_dialled_walks_to_the_owner_itself() -> None:
    world = SoloOverlay(OWN, role=Role.LEAF).start(NEARER)
    number, sent = lookup(world)
    assert sent == []
    (question,) = [q for q in world.take(FindRows, NEARER) if q.target == KEY]
    assert question.brief
    world.receive(NEARER, Rows(question.request, True, (NEAREST,)))
    (question,) = [q for q in world.take(FindRows, NEAREST) if q.target == KEY]
    world.receive(NEAREST, Rows(question.request, True, ()))
    (sent_route,) = [m for m in world.take(Route, NEAREST) if m.key == KEY]
    world.receive(NEAREST, RouteAck(OWN, sent_route.request))
    world.receive(NEAREST, Found(sent_route.request, 1))
    assert world.log.lookups == {number: (NEAREST, 1)}


def test_a_walk_that_ends_nowhere_fails_in_time() -> None:
    world = SoloOverlay(OWN, role=Role.LEAF).start(NEARER)
    number, _ = lookup(world)
    world.advance(2)
    for question in world.take(FindRows, NEARER):
        world.receive(NEARER, Rows(question.request, True, ()))
    world.cut(NEARER)
    world.advance(30)
    assert world.log.lookups == {number: (None, 0)}
