"""The interface of the overlay: life cycle, dispatch, what it says about itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.overlay_contacts import contact
from support.solo import SoloOverlay

from edgefl.overlay import LAN, WAN, Position, zone_of_site
from edgefl.sim.event_log import EventLog
from edgefl.wire.link import Hello
from edgefl.wire.overlay import (
    Announce,
    Beat,
    Candidates,
    Detach,
    Leaving,
    Lookup,
    Ping,
    Pong,
    Refusal,
    Ring,
    Route,
    Track,
    Untrack,
)

OWN = 1 << 63
PEER = contact(OWN + 10)


def test_messages_and_timers_of_other_layers_are_declined() -> None:
    world = SoloOverlay(OWN).start()
    assert not world.overlay.on_message(PEER, Hello(PEER), 0.0)
    assert world.overlay.on_message(PEER, Ping(1), 0.0)
    assert not world.overlay.on_timer(("learning", "deadline"), 0.0)
    assert world.overlay.on_timer(("routing", "lookup", 5), 0.0)
    for component in ("membership", "tracker", "directory", "routing"):
        assert not world.overlay.on_timer((component, "nothing"), 0.0)


def test_bodies_of_requests_do_nothing_on_their_own() -> None:
    world = SoloOverlay(OWN).start(PEER)
    for body in (Lookup(), Track(5), Untrack(5)):
        assert world.receive(PEER, body)
    assert world.sent == []


def test_before_it_starts_and_after_it_left_an_overlay_is_silent() -> None:
    world = SoloOverlay(OWN)
    world.receive(PEER, Announce())
    world.receive(PEER, Ping(1))
    assert (world.sent, world.overlay.contacts()) == ([], ())
    world.start(PEER)
    world.overlay.join_tree(5, world.now)
    world.overlay.leave(world.now)
    assert world.take(Leaving, PEER) == [Leaving()]
    assert not world.overlay.joined
    world.sent.clear()
    world.receive(PEER, Ping(1))
    world.advance(1000)
    world.overlay.leave(world.now)
    world.overlay.start(world.now)
    assert (world.sent, world.timers()) == ([], {})


def test_leaving_before_starting() -> None:
    world = SoloOverlay(OWN)
    world.overlay.leave(0.0)
    world.overlay.start(0.0, first=True)
    assert not world.overlay.joined


def test_what_we_hear_from_ourselves_is_ignored() -> None:
    world = SoloOverlay(OWN).start()
    world.receive(contact(OWN), Announce())
    assert world.overlay.contacts() == ()


def test_a_new_contact_is_announced_and_must_be_newer() -> None:
    world = SoloOverlay(OWN).start(PEER)
    moved = contact(OWN, port=9000, incarnation=1)
    world.overlay.set_contact(moved, world.now)
    assert world.overlay.contact == moved
    assert world.take(Announce, PEER) == [Announce()]
    for wrong in (moved, contact(OWN + 1, incarnation=9)):
        with pytest.raises(ValueError, match="higher incarnation"):
            world.overlay.set_contact(wrong, world.now)
    fresh = SoloOverlay(OWN)
    fresh.overlay.set_contact(moved, 0.0)
    assert fresh.sent == []


def test_a_change_of_zone_is_told_to_both_zones() -> None:
    world = SoloOverlay(OWN).start(PEER)
    world.overlay.set_contact(contact(OWN, zone=zone_of_site("attic"), incarnation=1), world.now)
    assert {c.node_id for c in world.overlay.zone_leaves()} == set()
    assert {c.node_id for c in world.overlay.global_leaves()} == {PEER.node_id}
    joining = SoloOverlay(OWN)
    joining.overlay.start(0.0)
    joining.overlay.set_contact(contact(OWN, zone=4, incarnation=1), 0.0)
    assert joining.take(Route) == []


def test_the_first_device_is_alone_and_joined() -> None:
    world = SoloOverlay(OWN).start()
    assert world.overlay.joined
    assert world.log.names() == ["joined"]
    world.advance(5000)
    assert world.sent == []
    assert world.overlay.joined


def test_who_loses_everybody_joins_again() -> None:
    world = SoloOverlay(OWN).start(PEER)
    world.cut(PEER)
    world.advance(120)
    assert world.log.names()[:2] == ["joined", "isolated"]
    assert not world.overlay.joined
    world.receive(PEER, Ping(1))
    assert world.take(Pong)[-1] == Pong(1, False)


def test_what_an_overlay_knows() -> None:
    world = SoloOverlay(OWN).start(PEER, contact(OWN + 20, zone=7))
    overlay = world.overlay
    assert {c.node_id for c in overlay.contacts()} == {PEER.node_id, OWN + 20}
    assert overlay.zone_leaves() == (PEER,)
    assert {c.node_id for c in overlay.global_leaves()} == {PEER.node_id, OWN + 20}
    assert (overlay.rtt_s(PEER.node_id), overlay.rtt_s(1)) == (None, None)
    assert (overlay.tree(1), overlay.parent_of(1), overlay.trees()) == (None, None, ())
    assert overlay.sizes()["contacts"] == 2
    overlay.join_tree(9, world.now)
    assert overlay.trees() == (9,)


def test_the_fast_profile_is_the_same_with_shorter_times() -> None:
    assert WAN.rpc_timeout_s / 5 == LAN.rpc_timeout_s
    assert tuple(s / 5 for s in WAN.self_join_s) == LAN.self_join_s
    assert WAN.list_every == LAN.list_every
    assert WAN.silent_beats == LAN.silent_beats


def test_stale_messages_of_an_earlier_incarnation_are_dropped() -> None:
    world = SoloOverlay(OWN).start(replace(PEER, incarnation=3))
    world.overlay.join_tree(9, world.now)
    world.receive(PEER, Beat(Ring.ZONE))
    world.receive(PEER, Detach(9, Refusal.RANK))
    assert [c.incarnation for c in world.overlay.contacts()] == [3]


def test_a_listener_may_call_the_overlay() -> None:
    world = SoloOverlay(OWN)
    seen: list[str] = []

    class Caller(EventLog):
        def on_joined(self, now: float) -> None:
            world.overlay.join_tree(9, now)
            seen.append("joined")
            assert world.overlay.tree(9).position is Position.SEEKING  # type: ignore[union-attr]

        def on_root(self, app: int, now: float) -> None:
            seen.append("root")
            world.overlay.leave_tree(app, now)

    world.log.listeners.append(Caller())
    world.start()
    assert seen == ["joined", "root"]
    assert world.overlay.tree(9) is None


def test_only_who_is_nearer_to_a_key_may_speak_as_its_tracker() -> None:
    app = OWN + 5
    world = SoloOverlay(OWN + 1).start(PEER, contact(app))
    world.overlay.join_tree(app, world.now)
    world.receive(PEER, Candidates(app))
    assert world.overlay.counters["implausible"] == 1
    assert world.overlay.tree(app).position is Position.SEEKING  # type: ignore[union-attr]
    world.receive(contact(app), Candidates(app))
    assert world.overlay.tree(app).is_root  # type: ignore[union-attr]
