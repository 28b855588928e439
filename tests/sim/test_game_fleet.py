"""The routing game as it ships, on simulated devices whose links differ: rounds get faster, nothing else changes."""

from __future__ import annotations

from random import Random
from statistics import median

from edgefl.overlay.game.ledger import Price
from edgefl.overlay.game.rules import Rule
from edgefl.sim import World
from edgefl.sim.training import LearningDevice, Transfers, make_application
from edgefl.wire.learning import RoundRecord

DEVICES, ROUNDS, PARAMETERS = 16, 14, 600_000
SLOW_DEVICE = 1e6


class Fleet:
    """Devices that take in between 1 and 20 MB/s from their children together; all train one application."""

    def __init__(self, rule: Rule, seed: int) -> None:
        self.learners: dict[int, LearningDevice] = {}
        transfers = Transfers()
        self.world = World(
            devices=DEVICES,
            seed=seed,
            zones=False,
            rule=rule,
            equip=lambda member: [LearningDevice(member, self.learners, transfers)],
        )
        self.world.grow(DEVICES, 10.0)
        self.world.run(20.0)
        random = Random(seed)
        for device in self.learners.values():
            device.data.add("digits")
            self.set_rate(device, 10 ** random.uniform(6.0, 7.3))
        manifest = make_application(
            "digits",
            "digits",
            rounds=ROUNDS,
            min_members=DEVICES,
            quorum=0.9,
            seed=1,
            parameters=PARAMETERS,
            deadline_s=900.0,
        )
        self.app = manifest.app_id
        next(iter(self.learners.values())).create(manifest, self.world.clock.now)

    def set_rate(self, device: LearningDevice, bytes_s: float) -> None:
        device.serving_bytes_s = bytes_s
        device.member.overlay.set_price(Price(1 / bytes_s))

    def root(self) -> LearningDevice:
        return next(device for device in self.learners.values() if self.tree(device).is_root)

    def tree(self, device: LearningDevice):
        return device.member.overlay.tree(self.app)

    def history(self) -> tuple[RoundRecord, ...]:
        return self.root().learning.applications[self.app].ledger.history.all()

    def train(self, until: int = ROUNDS) -> tuple[RoundRecord, ...]:
        for _ in range(300):
            self.world.run(5.0)
            if any(a.ledger.round >= until for d in self.learners.values() for a in d.learning.applications.values()):
                return self.history()
        raise AssertionError(f"{until} rounds were not done in 1500 s")

    def moves(self) -> int:
        return sum(device.member.overlay.counters["game_moves"] for device in self.learners.values())


def test_rounds_get_faster_and_none_is_lost():
    nearest, game = Fleet(Rule.RTT, 3), Fleet(Rule.ACBR, 3)
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
    fleet = Fleet(Rule.ACBR, 5)
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
