"""The routing game as it ships, on simulated devices whose links differ: rounds get faster, nothing else changes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from statistics import median

import pytest

from edgefl.overlay.game.model import seconds_per_byte
from edgefl.overlay.game.rules import Rule
from edgefl.sim.training import LearningDevice
from edgefl.sim.unequal import PARAMETERS, UnequalFleet
from edgefl.telemetry.load import SAMPLE_S, Load, smooth
from edgefl.telemetry.price import price_of

DEVICES, ROUNDS = 16, 14
SLOW_DEVICE = 1e6
IDLE = Load(cpu=0.0, background_cpu=0.0, memory=0.3, memory_available_bytes=1 << 30, own_memory_bytes=1 << 26)
KAPPA = 1e-7
"""Seconds of processor a byte: a small board, for which it counts as much as the link."""
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


def test_a_device_that_is_busy_with_other_work_sheds_its_children_within_two_rounds_and_gets_some_back():
    """Sensors as they ship (smoothing, price), every 5 s; a hog leaves the device a twentieth of its processor."""
    fleet = UnequalFleet(Rule.ACBR, 3, DEVICES, 36)
    rates = {node_id: device.serving_bytes_s for node_id, device in fleet.learners.items()}

    def sense(device: LearningDevice, background: float, seen: float) -> None:
        rate = rates[device.member.node_id]
        device.member.overlay.set_price(price_of(replace(IDLE, cpu=seen, background_cpu=seen), rate, KAPPA))
        device.serving_bytes_s = 1 / seconds_per_byte(rate, KAPPA, background)

    def live(until: int, background: float, seen: float) -> float:
        deadline = fleet.world.clock.now + 1500.0
        while fleet.round() < until and fleet.world.clock.now < deadline:
            fleet.world.run(SAMPLE_S)
            seen = smooth(seen, background, SAMPLE_S)
            sense(busy, background, seen)
        assert fleet.round() >= until
        return seen

    for device in fleet.learners.values():
        sense(device, 0.0, 0.0)
    fleet.train(until=12)
    others = (device for device in fleet.learners.values() if not fleet.tree(device).is_root)
    busy = max(others, key=lambda device: len(fleet.tree(device).children))
    had = len(fleet.tree(busy).children)
    assert had >= 3
    seen = live(until=fleet.round() + 2, background=0.95, seen=0.0)
    assert len(fleet.tree(busy).children) < had / 2
    seen = live(until=fleet.round() + 6, background=0.95, seen=seen)
    relieved = fleet.round()
    assert not fleet.tree(busy).children
    live(until=relieved + 14, background=0.0, seen=seen)
    assert len(fleet.tree(busy).children) >= 2
    rounds = fleet.history()
    assert all((record.participants, record.attempts) == (DEVICES, 1) for record in rounds[2:])
    without, under = (median(r.seconds for r in rounds[a:b]) for a, b in ((8, 13), (relieved - 3, relieved + 1)))
    assert under < 1.15 * without


def test_whoever_is_unwell_loses_its_children():
    fleet = UnequalFleet(Rule.ACBR, 5, DEVICES, ROUNDS)
    fleet.train(until=6)
    others = (device for device in fleet.learners.values() if not fleet.tree(device).is_root)
    hot = max(others, key=lambda device: len(fleet.tree(device).children))
    had = len(fleet.tree(hot).children)
    assert had
    hot.member.overlay.set_price(replace(hot.member.overlay.price, closed=True))
    fleet.train(until=9)
    assert len(fleet.tree(hot).children) < had
    assert fleet.world.cycles == 0


@pytest.mark.parametrize("seed", [5, 6])
def test_the_line_that_a_site_shares_is_priced_as_a_whole(seed: int):
    """Eight sites of three devices: who crosses into a site is told what all its devices carry."""
    nearest, game = (UnequalFleet(rule, seed, 24, 12, sites=8) for rule in (Rule.RTT, Rule.ACBR))
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
