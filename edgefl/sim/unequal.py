"""Devices whose links differ, training one application: what the routing game is judged by in the event simulator."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from random import Random

from edgefl.errors import TryAgainError
from edgefl.overlay.game.ledger import Price
from edgefl.overlay.game.rules import Rule
from edgefl.overlay.ids import zone_of_site
from edgefl.overlay.tree_view import TreeView
from edgefl.sim.training import LearningDevice, SiteLine, Transfers, make_application
from edgefl.sim.world import World
from edgefl.wire.learning import RoundRecord

PARAMETERS = 600_000
"""2.4 MB a model: a second through a household's uplink."""

SLOWEST, FASTEST = 6.0, 7.3
"""Powers of ten (log-uniform), bytes a second: 1 to 20 MB/s."""

SLOWEST_LINE, FASTEST_LINE = 6.0, 7.3
"""The same of the line that a site shares."""

PATIENCE_S = 1500.0
"""Of virtual time, for all rounds."""


class UnequalFleet:
    """Devices that take in between 1 and 20 MB/s from their children together; all train one application.

    With `sites`, devices belong to as many sites in turn, each of which has a line of 1 to 20 MB/s for what comes from
    outside; unless they are `priced`, nobody knows of the lines."""

    def __init__(
        self, rule: Rule, seed: int, devices: int, rounds: int, *, sites: int = 0, priced: bool = True
    ) -> None:
        self.learners: dict[int, LearningDevice] = {}
        self.rounds = rounds
        self.lines: dict[int, SiteLine] = {}
        self._priced = priced
        transfers = Transfers()
        self.world = World(
            devices=devices,
            seed=seed,
            zones=False,
            rule=rule,
            equip=lambda member: [LearningDevice(member, self.learners, transfers)],
        )
        turns = itertools.cycle(zone_of_site(f"site {number}") for number in range(sites))
        self.world.grow(devices, 10.0, lambda random: {"zone": next(turns)} if sites else {})
        self.world.run(20.0)
        random, lines = Random(seed), Random(seed + 1)
        for device in self.learners.values():
            device.data.add("digits")
            zone = device.member.overlay.contact.zone
            if zone and zone not in self.lines:
                self.lines[zone] = SiteLine(10 ** lines.uniform(SLOWEST_LINE, FASTEST_LINE))
            device.site_line = self.lines.get(zone)
            self.set_rate(device, 10 ** random.uniform(SLOWEST, FASTEST))
        manifest = make_application(
            "digits",
            "digits",
            rounds=rounds,
            min_members=devices,
            quorum=0.9,
            seed=1,
            parameters=PARAMETERS,
            deadline_s=900.0,
        )
        self.app = manifest.app_id
        next(iter(self.learners.values())).create(manifest, self.world.clock.now)

    def set_rate(self, device: LearningDevice, bytes_s: float) -> None:
        device.serving_bytes_s = bytes_s
        line = device.site_line if self._priced else None
        device.member.overlay.set_price(Price(1 / bytes_s, site_s_per_byte=1 / line.bytes_s if line else 0.0))

    def root(self) -> LearningDevice:
        return next(device for device in self.learners.values() if self.tree(device).is_root)

    def tree(self, device: LearningDevice) -> TreeView:
        view = device.member.overlay.tree(self.app)
        if view is None:
            raise TryAgainError("this device is not in the tree yet")
        return view

    def parents(self) -> dict[int, int | None]:
        """Who is below whom at this moment."""
        return {node_id: device.member.overlay.parent_of(self.app) for node_id, device in self.learners.items()}

    def history(self) -> tuple[RoundRecord, ...]:
        return self.root().learning.applications[self.app].ledger.history.all()

    def round(self) -> int:
        """The newest that any device knows of."""
        known = [a.ledger.round for device in self.learners.values() for a in device.learning.applications.values()]
        return max(known, default=0)

    def train(self, until: int | None = None) -> tuple[RoundRecord, ...]:
        """Until that round is done (all rounds if None). Raises TryAgainError if it is not in reasonable time."""
        until, deadline = self.rounds if until is None else until, self.world.clock.now + PATIENCE_S
        while self.world.clock.now < deadline:
            self.world.run(5.0)
            if self.round() >= until:
                return self.history()
        raise TryAgainError(f"{until} rounds were not done in {PATIENCE_S:g} s")

    def arrange(self, parents: Mapping[int, int | None]) -> None:
        """Let everybody go below its parent in a given tree, whatever its own rule says: one try each, those high up
        first. Call it until `parents()` are these; under Rule.RTT they stay."""
        for node_id, wanted in parents.items():
            device = self.learners[node_id]
            if wanted is not None and device.member.overlay.parent_of(self.app) != wanted:
                tree = device.member.overlay._forest.trees[self.app]
                tree.switch(self.learners[wanted].member.overlay.contact, device.member.now)

    def moves(self) -> int:
        return sum(device.member.overlay.counters["game_moves"] for device in self.learners.values())
