"""Lets the phases of a scenario happen to a simulated fleet.

Every phase begins and ends as a call of the virtual clock. What a phase has changed it takes back when it ends; phases
may overlap. Who is hit is drawn by the phase's own generator (its `pick`), so the same phase hits the same devices of
the same fleet, whatever else happens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any

from edgefl.sim.network import SimNode
from edgefl.sim.scenario import BadNetwork, Churn, ClockJump, Crash, Partition, Phase, Scenario, Slow, ZoneFailure
from edgefl.sim.world import Member, World


class FaultInjector:
    """One scenario, and the fleet that it happens to. `on_start(old, new)` is called for every device that comes (new:
    old is None) or comes back, and makes it take part in what the fleet does."""

    def __init__(self, world: World, on_start: Callable[[Member | None, Member], None] = lambda old, new: None) -> None:
        self.counts: Counter[str] = Counter()
        """Devices that joined, left, crashed, returned."""
        self._world = world
        self._on_start = on_start
        self._network: list[BadNetwork] = []
        self._cuts: list[Callable[[SimNode], int]] = []
        faults = world.network.faults
        self._base = (faults.loss, faults.duplicate, faults.reorder, faults.delay_s)
        self._begin: dict[type[Phase], Callable[[Any], Callable[[], None]]] = {
            Churn: self._churn,
            Crash: self._crash,
            ZoneFailure: self._zone_failure,
            Partition: self._partition,
            BadNetwork: self._bad_network,
            Slow: self._slow_down,
            ClockJump: self._clock_jump,
        }

    def schedule(self, scenario: Scenario) -> None:
        """Its time zero is now."""
        clock = self._world.clock
        for phase in scenario.phases:
            clock.at(clock.now + phase.start, self._start, phase)

    def _start(self, phase: Phase) -> None:
        end = self._begin[type(phase)](phase)
        if phase.duration:
            self._world.clock.at(self._world.clock.now + phase.duration, end)

    def _some(self, phase: Phase, share: float, *, at_least: int = 1) -> list[Member]:
        alive = self._world.alive()
        return Random(phase.pick).sample(alive, min(len(alive), max(at_least, round(share * len(alive)))))

    # Devices come and go

    def _churn(self, phase: Churn) -> Callable[[], None]:
        random, over = Random(phase.pick), [False]
        for rate, happen in ((phase.joins_per_s, self._join), (phase.leaves_per_s, partial(self._leave, phase))):
            if rate > 0:
                self._next_arrival(random, rate, happen, over)
        return partial(over.__setitem__, 0, True)

    def _next_arrival(
        self, random: Random, rate_per_s: float, happen: Callable[[Random], None], over: list[bool]
    ) -> None:
        def arrive() -> None:
            if not over[0]:
                happen(random)
                self._next_arrival(random, rate_per_s, happen, over)

        self._world.clock.at(self._world.clock.now + random.expovariate(rate_per_s), arrive)

    def _join(self, random: Random) -> None:
        member = self._world.add()
        self._world.start(member)
        self.counts["joined"] += 1
        self._on_start(None, member)

    def _leave(self, phase: Churn, random: Random) -> None:
        alive = self._world.alive()
        if len(alive) > 2:
            member = random.choice(alive)
            if random.random() < phase.polite:
                member.overlay.leave(member.now)
            self._world.kill([member])
            self.counts["left"] += 1

    def _crash(self, phase: Crash) -> Callable[[], None]:
        victims = self._some(phase, phase.share)
        self._go_dark(victims)
        if phase.noticed:
            self._world.notice(victims)
        return partial(self._come_back, victims, forgetful=phase.forgetful)

    def _zone_failure(self, phase: ZoneFailure) -> Callable[[], None]:
        sizes = Counter(member.overlay.contact.zone for member in self._world.alive())
        dark = {zone for zone, _ in sizes.most_common(phase.zones)}
        victims = [member for member in self._world.alive() if member.overlay.contact.zone in dark]
        self._go_dark(victims)
        return partial(self._come_back, victims, forgetful=False)

    def _go_dark(self, members: Sequence[Member]) -> None:
        self._world.kill(members)
        self.counts["crashed"] += len(members)

    def _come_back(self, members: Sequence[Member], *, forgetful: bool) -> None:
        for member in members:
            again = self._world.replace(member) if forgetful else self._world.restart(member)
            self.counts["returned"] += 1
            self._on_start(member, again)

    # The network

    def _partition(self, phase: Partition) -> Callable[[], None]:
        sides: dict[int | str, int] = {}

        def cut(node: SimNode) -> int:
            name = node.contact.zone if phase.by_zone else node.contact.host  # who comes back stays on its side
            if name not in sides:
                sides[name] = Random(f"{phase.pick}/{name}").randrange(phase.parts)
            return sides[name]

        self._cuts.append(cut)
        self._set_sides()

        def heal() -> None:
            self._cuts.remove(cut)
            self._set_sides()

        return heal

    def _set_sides(self) -> None:
        cuts = list(self._cuts)
        self._world.network.sides = (lambda node: tuple(cut(node) for cut in cuts)) if cuts else None

    def _bad_network(self, phase: BadNetwork) -> Callable[[], None]:
        self._network.append(phase)
        self._set_network()

        def end() -> None:
            self._network.remove(phase)
            self._set_network()

        return end

    def _set_network(self) -> None:
        """The worst of all that goes on, each for itself."""
        faults, now = self._world.network.faults, self._network
        loss, duplicate, reorder, delay_s = self._base
        faults.loss = max([loss, *(phase.loss for phase in now)])
        faults.duplicate = max([duplicate, *(phase.duplicate for phase in now)])
        faults.reorder = max([reorder, *(phase.reorder for phase in now)])
        faults.delay_s = max([delay_s, *(phase.delay_s for phase in now)])

    # Devices that are not well

    def _slow_down(self, phase: Slow) -> Callable[[], None]:
        members = self._some(phase, phase.share)
        for member in members:
            member.node.slow_s += phase.delay_s

        def end() -> None:
            for member in members:
                member.node.slow_s = max(0.0, member.node.slow_s - phase.delay_s)

        return end

    def _clock_jump(self, phase: ClockJump) -> Callable[[], None]:
        for member in self._some(phase, phase.share):
            member.node.jump(phase.seconds)
        return lambda: None
