"""Whom to knock at: what we were given and whom we lost, within bounds, never ourselves and never whom we know."""

from __future__ import annotations

from support.overlay_contacts import contact
from support.solo import SoloOverlay

from edgefl.overlay.lost import MAX_LOST
from edgefl.overlay.profile import WAN
from edgefl.overlay.reunion import MAX_BOOTSTRAP, SEEDS, TRIED
from edgefl.wire import Role
from edgefl.wire.overlay import FindRows, Ping

OWN = 1 << 63
FRIEND, LOST = contact(OWN + 1), [contact(OWN ^ 1 << n) for n in range(20, 60)]


def remembered(world: SoloOverlay) -> list[int]:
    return [c.node_id for c in world.overlay._membership.reunion.remembered()]


def test_strangers_alone_are_remembered() -> None:
    world = SoloOverlay(OWN).start(FRIEND)
    world.overlay.remember([FRIEND, contact(OWN), contact(OWN + 5, role=Role.LEAF), LOST[0]])
    assert remembered(world) == [LOST[0].node_id]


def test_what_was_given_and_what_was_lost_have_bounds_of_their_own() -> None:
    world = SoloOverlay(OWN)
    world.overlay.remember(LOST)
    world.overlay.bootstrap([contact(n) for n in range(1, MAX_BOOTSTRAP + 10)], 0.0)
    assert len(remembered(world)) == MAX_LOST + MAX_BOOTSTRAP
    assert MAX_BOOTSTRAP + 9 in remembered(world)  # the newest of those given
    assert len(world.overlay._membership.reunion.seeds()) == 2 * SEEDS


def test_three_a_minute_are_pinged_and_who_is_found_is_asked_who_is_near_us() -> None:
    world = SoloOverlay(OWN).start(FRIEND)
    world.overlay.remember(LOST[:4])
    world.reachable |= {c.node_id: c for c in LOST[:4]}
    strangers = {c.node_id for c in LOST[:4]}
    world.advance(1.1 * WAN.reunion_s)
    assert world.overlay.counters["reunions"] == TRIED
    found = strangers - set(remembered(world))
    assert len(found) == TRIED
    asked = {to.node_id for to, message in world.sent if isinstance(message, FindRows) and message.brief}
    assert found <= asked
    pinged = {to.node_id for to, message in world.sent if isinstance(message, Ping)}
    assert not (strangers - found) & pinged
