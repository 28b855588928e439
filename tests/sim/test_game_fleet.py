"""The routing game as it ships, on simulated devices whose links differ: rounds get faster, nothing else changes."""

from __future__ import annotations

from statistics import median

from edgefl.overlay.game.rules import Rule
from edgefl.sim.unequal import UnequalFleet

DEVICES, ROUNDS = 16, 14
SLOW_DEVICE = 1e6


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
