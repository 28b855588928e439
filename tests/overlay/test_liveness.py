"""First-hand knowledge, suspicion, verification, tombstones: one device and the peers that the test plays."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.overlay_contacts import contact
from support.solo import SoloOverlay

from edgefl.overlay.liveness import HEARSAY_SHARE, MAX_CHECKING
from edgefl.overlay.profile import WAN
from edgefl.wire import Role
from edgefl.wire.overlay import Announce, Beat, FindRows, Leaving, Ping, Pong, Ring, Rows, TreeBeat

OWN = 1 << 63
PEER = contact(OWN + 10)
OTHER = contact(OWN + 20)


def known(world: SoloOverlay) -> dict[int, int]:
    """Everybody in the tables, with incarnation."""
    return {c.node_id: c.incarnation for c in world.overlay.contacts()}


# First hand only


def test_only_joined_devices_are_learned() -> None:
    world = SoloOverlay(OWN).start()
    for message in (FindRows(1, 5), Ping(1), Pong(1, True), Rows(1, True), Pong(2, False), Leaving()):
        assert world.receive(PEER, message)
    assert known(world) == {}
    world.receive(PEER, Announce())
    assert known(world) == {PEER.node_id: 0}


def test_hearsay_causes_a_ping_and_only_its_answer_counts() -> None:
    world = SoloOverlay(OWN).start(PEER)
    world.receive(PEER, Beat(Ring.GLOBAL, (OTHER,)))
    assert known(world) == {PEER.node_id: 0}
    (ping,) = world.take(Ping, OTHER)
    world.receive(PEER, Pong(ping.request, True))  # not the one that was asked
    assert known(world) == {PEER.node_id: 0}
    world.receive(OTHER, Pong(ping.request, True))
    assert known(world) == {PEER.node_id: 0, OTHER.node_id: 0}
    assert world.take(Announce, OTHER) == [Announce()]  # it may not know us
    assert world.overlay.rtt_s(OTHER.node_id) == 0.0


def test_hearsay_about_a_device_that_does_not_answer_is_not_believed_again_soon() -> None:
    world = SoloOverlay(OWN).start(PEER)
    world.receive(PEER, Beat(Ring.GLOBAL, (OTHER,)))
    world.advance(2)
    assert len(world.take(Ping, OTHER)) == 1
    world.receive(PEER, Beat(Ring.GLOBAL, (OTHER,)))
    assert world.take(Ping, OTHER) == []
    world.receive(PEER, Beat(Ring.GLOBAL, (replace(OTHER, incarnation=1),)))
    assert len(world.take(Ping, OTHER)) == 1
    world.advance(70)
    world.take(Ping, OTHER)
    world.receive(PEER, Beat(Ring.GLOBAL, (OTHER,)))
    assert len(world.take(Ping, OTHER)) == 1


def test_hearsay_never_overwrites_what_a_device_said_itself() -> None:
    world = SoloOverlay(OWN).start(PEER, OTHER)
    newer = replace(OTHER, port=9000, incarnation=5)
    world.receive(PEER, Beat(Ring.GLOBAL, (newer,)))
    assert known(world)[OTHER.node_id] == 0
    (ping,) = world.take(Ping, OTHER)
    world.receive(newer, Pong(ping.request, True))
    assert known(world)[OTHER.node_id] == 5
    world.receive(OTHER, Announce())  # an old message, late
    assert known(world)[OTHER.node_id] == 5


def test_an_informant_can_cause_only_so_many_pings() -> None:
    world = SoloOverlay(OWN).start(PEER)
    for n in range(30):
        world.receive(PEER, Beat(Ring.GLOBAL, tuple(contact(OWN - 5 - n * 14 - k) for k in range(14))))
    assert len(world.take(Ping)) <= HEARSAY_SHARE


def test_pings_to_strangers_are_bounded_in_all() -> None:
    informants = [contact(OWN + 1000 + n) for n in range(20)]
    world = SoloOverlay(OWN).start(*informants)
    for n, informant in enumerate(informants):
        for k in range(10):
            world.receive(
                informant, Beat(Ring.GLOBAL, tuple(contact(OWN - 1 - n * 200 - k * 14 - j) for j in range(14)))
            )
    assert world.overlay.sizes()["checking"] == len(world.take(Ping)) == MAX_CHECKING


def test_devices_that_cannot_be_dialled_are_in_nobodys_table() -> None:
    world = SoloOverlay(OWN).start(PEER)
    leaf = replace(OTHER, role=Role.LEAF)
    world.receive(leaf, Announce())
    world.receive(PEER, Beat(Ring.GLOBAL, (leaf,)))
    assert known(world) == {PEER.node_id: 0}
    assert world.take(Ping, leaf) == []
    world.receive(replace(PEER, role=Role.LEAF, incarnation=1), TreeBeat(()))
    assert known(world) == {}


# Suspicion


def test_a_suspect_that_speaks_from_a_new_address_is_alive_at_once() -> None:
    """Its connections from the old address broke as it moved. That its old address does not answer means nothing."""
    world = SoloOverlay(OWN).start(PEER, OTHER)
    del world.reachable[PEER.node_id]
    world.overlay.on_link_lost(PEER.node_id, world.now)
    moved = replace(PEER, host="10.0.0.77", incarnation=1)
    world.receive(moved, Announce())
    assert not world.overlay.is_suspect(PEER.node_id)
    world.advance(3)
    assert known(world)[PEER.node_id] == 1
    assert world.overlay.counters["deaths"] == 0


def test_a_suspect_that_answers_stays() -> None:
    world = SoloOverlay(OWN).start(PEER)
    world.overlay.on_link_lost(PEER.node_id, world.now)
    assert world.overlay.is_suspect(PEER.node_id)
    world.advance(0.1)
    assert not world.overlay.is_suspect(PEER.node_id)
    assert world.overlay.counters["false_alarms"] == 1
    world.overlay.on_link_lost(OTHER.node_id, world.now)  # unknown: nothing to suspect
    assert not world.overlay.is_suspect(OTHER.node_id)


def test_one_lost_ping_drops_nobody_and_two_do() -> None:
    world = SoloOverlay(OWN).start(PEER, OTHER)
    world.cut(PEER, OTHER)
    for peer in (PEER, OTHER):
        world.overlay.on_link_lost(peer.node_id, world.now)
        world.overlay.on_link_lost(peer.node_id, world.now)  # already suspected
    assert len(world.take(Ping, PEER)) == 1
    world.advance(1.1)
    (second,) = world.take(Ping, PEER)
    world.receive(PEER, Pong(second.request, True))
    world.advance(2)
    assert known(world) == {PEER.node_id: 0}
    assert world.overlay.counters["deaths"] == 1


def test_what_was_sent_before_the_suspicion_proves_nothing() -> None:
    world = SoloOverlay(OWN).start(PEER, OTHER)
    world.cut(PEER)
    world.overlay.on_link_lost(PEER.node_id, world.now)
    world.receive(PEER, TreeBeat(()))  # it was on the way
    assert world.overlay.is_suspect(PEER.node_id)
    world.advance(0.6)
    world.receive(PEER, TreeBeat(()))  # this one was not
    assert not world.overlay.is_suspect(PEER.node_id)
    world.advance(5)
    assert PEER.node_id in known(world)


def test_the_dead_stay_dead_in_hearsay_but_may_speak_for_themselves() -> None:
    world = SoloOverlay(OWN).start(PEER, OTHER)
    world.cut(PEER)
    world.overlay.on_link_lost(PEER.node_id, world.now)
    world.advance(2)
    world.take(Ping)
    world.receive(OTHER, Beat(Ring.GLOBAL, (PEER,)))
    assert world.take(Ping, PEER) == []
    world.receive(PEER, TreeBeat(()))
    assert PEER.node_id in known(world)


def test_who_leaves_is_forgotten_at_once_and_late_messages_do_not_bring_it_back() -> None:
    world = SoloOverlay(OWN).start(PEER, OTHER)
    world.receive(PEER, Leaving())
    assert known(world) == {OTHER.node_id: 0}
    world.receive(PEER, TreeBeat(()))
    assert known(world) == {OTHER.node_id: 0}
    world.receive(replace(PEER, incarnation=1), Announce())  # it is back
    assert known(world)[PEER.node_id] == 1
    world.receive(PEER, Leaving())  # an old one
    assert known(world)[PEER.node_id] == 1


def test_a_restarted_device_that_has_not_joined_is_dropped() -> None:
    world = SoloOverlay(OWN).start(PEER, OTHER)
    again = replace(PEER, incarnation=1)
    world.cut(PEER)
    world.receive(again, Ping(5))
    (pong,) = world.take(Pong, PEER)
    assert pong.joined
    (ping,) = world.take(Ping, PEER)
    world.receive(again, Pong(ping.request, False))
    assert known(world) == {OTHER.node_id: 0}


def test_rtts_are_smoothed_and_set_the_patience() -> None:
    world = SoloOverlay(OWN).start(PEER)
    world.cut(PEER)
    liveness = world.overlay._liveness
    assert liveness.timeout_s(PEER.node_id, 0.0) == liveness.timeout_s(1, 0.0) == WAN.cold_timeout_s
    for rtt_s, smoothed_s in ((0.8, 0.8), (0.2, 0.5), (0.1, 0.3), (0.7, 0.4), (9.0, 0.4)):
        liveness.measured(PEER.node_id, rtt_s)
        assert world.overlay.rtt_s(PEER.node_id) == pytest.approx(smoothed_s)
    liveness.measured(1, 0.8)
    assert liveness.timeout_s(PEER.node_id, 0.0) == pytest.approx(1.6)
    for _ in range(9):
        liveness.measured(PEER.node_id, 0.0)
    assert liveness.timeout_s(PEER.node_id, 0.0) == WAN.rpc_timeout_s
    liveness.measured(PEER.node_id, 0.04)  # scheduling
    assert world.overlay.rtt_s(PEER.node_id) == pytest.approx(0.01, abs=0.002)
    assert liveness.timeout_s(PEER.node_id, WAN.cold_link_s + 1) == WAN.cold_timeout_s
