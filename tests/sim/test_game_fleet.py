"""The routing game as it ships, on simulated devices whose links differ: rounds get faster, nothing else changes."""

from __future__ import annotations

from collections import Counter
from statistics import median

import pytest

from edgefl.overlay.game.rules import Rule
from edgefl.sim.unequal import PARAMETERS, UnequalFleet

DEVICES, ROUNDS = 16, 14
SLOW_DEVICE = 1e6
MODEL_BYTES = 4 * PARAMETERS


def test_rounds_get_faster_and_none_is_lost():
    nearest, game = (UnequalFleet(rule, 3, DEVICES, ROUNDS) for rule in (Rule.RTT, Rule.ACBR))
    before, after = nearest.train(), game.train()
    assert nearest.moves() == 0 < game.moves()
    assert [record.participants for record in after[1:]] == [DEVICES] * (len(after) - 1)
    assert all(record.attempts == 1 for record in after[2:])
    assert game.world.cycles == 0
    assert median(r.seconds for r in after[-5:]) < 0.75 * median(r.seconds for r in before[-5:])
    epsilon = game.root().member.overlay.epsilon(game.app)
    assert epsilon.players >= DEVICES // 2
    assert epsilon.share < nearest.root().member.overlay.epsilon(nearest.app).share


def test_a_device_that_gets_slow_sheds_its_children():
    fleet = UnequalFleet(Rule.ACBR, 5, DEVICES, ROUNDS)
    fleet.train(until=6)
    busy = max(
        (device for device in fleet.learners.values() if not fleet.tree(device).is_root),
        key=lambda device: len(fleet.tree(device).children),
    )
    children = len(fleet.tree(busy).children)
    assert children
    fleet.set_rate(busy, SLOW_DEVICE / 10)
    fleet.train(until=12)
    assert len(fleet.tree(busy).children) < children


def test_the_line_that_a_site_shares_is_priced_as_a_whole():
    """Eight sites of three devices: who crosses into a site is told what all its devices carry."""
    nearest, game = (UnequalFleet(rule, 5, 24, 12, sites=8) for rule in (Rule.RTT, Rule.ACBR))
    nearest.train()
    game.train()
    assert longest_line_s(game) < 0.5 * longest_line_s(nearest)
    streams = crossings(game)
    for device in game.learners.values():
        contact, known = device.member.overlay.contact, device.member.overlay.site_load_bytes
        outside = [child for child in game.tree(device).children if child.contact.zone != contact.zone]
        if outside:
            assert known == pytest.approx(streams[contact.zone] * MODEL_BYTES, rel=0.1)


def crossings(fleet: UnequalFleet) -> Counter[int]:
    """By site: children of its devices that are elsewhere."""
    zones = {node_id: device.member.overlay.contact.zone for node_id, device in fleet.learners.items()}
    pairs = [(zones[below], zones[above]) for below, above in fleet.parents().items() if above is not None]
    return Counter(above for below, above in pairs if below != above)


def longest_line_s(fleet: UnequalFleet) -> float:
    return max(streams * MODEL_BYTES / fleet.lines[zone].bytes_s for zone, streams in crossings(fleet).items())
