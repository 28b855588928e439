"""A device that has joined looks itself up, less and less often, and anew when something changes near it."""

from __future__ import annotations

from support.overlay_contacts import contact
from support.solo import SoloOverlay

from edgefl.overlay.profile import WAN
from edgefl.overlay.self_lookup import SELF_JOIN
from edgefl.wire.overlay import FindRows, Leaving

OWN = 1 << 63
NEXT, PREVIOUS = contact(OWN + 1), contact(OWN - 1)


def waits(world: SoloOverlay, count: int) -> list[float]:
    """How long each of the next lookups is waited for, from now."""
    found = []
    for _ in range(count):
        at = world.timers()[SELF_JOIN]
        found.append(at - world.now)
        world.advance(at - world.now)
    return found


def test_it_waits_longer_each_time_and_starts_anew_when_a_neighbour_leaves() -> None:
    world = SoloOverlay(OWN).start(NEXT, PREVIOUS)
    series = waits(world, 5)
    assert all(0.89 * s <= wait <= 1.11 * s for wait, s in zip(series, WAN.self_join_s, strict=False))
    world.receive(NEXT, Leaving())
    (wait,) = waits(world, 1)
    assert wait <= 1.11 * WAN.self_join_s[0]


def test_it_asks_for_its_own_place_and_not_for_all_rows() -> None:
    world = SoloOverlay(OWN).start(NEXT, PREVIOUS)
    waits(world, 1)
    asked = world.take(FindRows)
    assert 1 <= len(asked) <= 2
    assert all((question.target, question.brief) == (OWN, True) for question in asked)
