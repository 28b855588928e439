"""Random fault schedules for small rings: what must never happen, whatever fails (a property test of the overlay).

A trial is a number: it gives a ring of 3 to 12 devices in up to three zones, an application, and a scenario of one to
six faults within a minute or so (scenario.py): crashes, restarts with and without state, churn, partitions, loss,
repetition, reordering, delay, slow devices, clock jumps. The shipped overlay runs through it, and is judged:

* *no cycle*, at any time, in any tree;
* *one root*: once the last fault is over, an application has two roots for no longer than TWO_ROOTS_S;
* *repaired*: REPAIR_S after the last fault every live device has joined, every lookup is answered by the live device
  nearest to its key, and every live member is in the one tree. (A last survivor is no fleet: it cannot know whether the
  others are dead or it is cut off, so it knocks until somebody answers. Nor is a fleet one that the faults have torn:
with parts of which nobody, alive or remembered, knows the other. Such trials are counted, and judged for cycles alone.)

A trial that fails is made smaller: faults are left out one after the other as long as it fails in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Any

from edgefl.overlay.profile import WAN
from edgefl.sim.faults import FaultInjector
from edgefl.sim.fleet import app_id
from edgefl.sim.scenario import (
    BadNetwork,
    Churn,
    ClockJump,
    Crash,
    Partition,
    Phase,
    Scenario,
    Slow,
    ZoneFailure,
    as_toml,
    in_order,
)
from edgefl.sim.world import Member, World

LEAST_DEVICES, MOST_DEVICES = 3, 12
MOST_ZONES = 3
MOST_FAULTS = 6
LATEST_START_S, LONGEST_S = 60.0, 60.0

JITTER = 1.1
"""Device.jittered: the longest of a duration."""

REUNIONS = 5
"""Every device tries one lost contact a minute. Two parts of a ring of a dozen miss each other so often in a row with a
probability below 10^-3, even when half of what they remember is dead for good."""

MERGE_S = REUNIONS * WAN.reunion_s * JITTER + WAN.self_join_s[0] + WAN.self_join_s[1]
"""Parts of the fleet find each other again, and everybody looks itself up."""

ATTACH_S = 2 * WAN.cold_timeout_s + sum(WAN.seek_s[:3])
"""An attempt at a parent that does not answer, and the next ones."""

TWO_ROOTS_S = MERGE_S + WAN.root_renewal_s * JITTER + ATTACH_S
"""How long two roots may live side by side: until they ask one tracker. Each does so every 30 s, hears of the higher
one, and attaches; the two have one tracker once the rings have merged."""

REPAIR_S = TWO_ROOTS_S + WAN.renewal_s * JITTER + WAN.tree_edge_lifetime_s
"""When everything is right again: a member below nobody it should be below hears of it with its next renewal, and an
edge that one side has forgotten is given up by the other."""

JOIN_S, SETTLE_S = 6.0, 45.0
SAMPLE_S = 1.0
KEYS_PER_DEVICE = 3
ANSWER_S = 12.0


@dataclass(frozen=True, slots=True)
class Trial:
    """One ring and what happens to it."""

    seed: int
    devices: int
    zones: int
    scenario: Scenario

    def without(self, phase: Phase) -> Trial:
        left = tuple(other for other in self.scenario.phases if other is not phase)
        return Trial(self.seed, self.devices, self.zones, Scenario(left))

    def __str__(self) -> str:
        return f"# seed {self.seed}: {self.devices} devices in {self.zones} zones\n{as_toml(self.scenario)}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`violation` names what went wrong, with `detail`; None if nothing did. `two_roots_s` is how long after the last
    fault the last second root was seen, `events` what the run has cost, `torn` whether the last fault left parts
    that cannot know of each other."""

    violation: str | None
    detail: str
    two_roots_s: float
    events: int
    torn: bool = False


def trial(seed: int) -> Trial:
    """The trial of this number."""
    random = Random(f"fault schedule {seed}")
    devices = random.randint(LEAST_DEVICES, MOST_DEVICES)
    phases = [_phase(random) for _ in range(random.randint(1, MOST_FAULTS))]
    return Trial(seed, devices, random.randint(1, MOST_ZONES), in_order(phases))


def _phase(random: Random) -> Phase:
    times: dict[str, Any] = {
        "start": round(random.uniform(0, LATEST_START_S), 1),
        "duration": round(LONGEST_S ** random.uniform(-0.2, 1), 1),
        "pick": random.getrandbits(16),
    }
    share = round(random.uniform(0, 1), 2)
    makers: list[Callable[[], Phase]] = [
        lambda: Crash(**{**times, "duration": 0.0}, share=share / 2, noticed=random.random() < 0.5),
        lambda: Crash(**times, share=share, noticed=random.random() < 0.5),
        lambda: Crash(**times, share=share, forgetful=True, noticed=random.random() < 0.5),
        lambda: Churn(**times, joins_per_s=0.1, leaves_per_s=0.1, polite=share),
        lambda: ZoneFailure(**times),
        lambda: Partition(**times, parts=random.randint(2, 3), by_zone=random.random() < 0.5),
        lambda: BadNetwork(**times, loss=share / 2, duplicate=share / 2, reorder=share),
        lambda: BadNetwork(**times, delay_s=round(3 * share, 2)),
        lambda: Slow(**times, share=0.3, delay_s=round(5 * share, 2)),
        lambda: ClockJump(**times, share=share, seconds=round(600 ** random.random(), 1)),
    ]
    return random.choice(makers)()


def run(trial: Trial) -> Verdict:
    """What happens in this trial."""
    return _Run(trial).verdict()


class _Run:
    def __init__(self, trial: Trial) -> None:
        random = Random(f"fleet {trial.seed}")
        self._trial = trial
        self._world = World(devices=trial.devices, seed=trial.seed)
        self._app = app_id(trial.seed, 0)
        self._zones = trial.zones
        self._world.grow(trial.devices, JOIN_S, lambda _: {"zone": random.randint(1, trial.zones)})
        for member in self._world.alive():
            if self._is_member(member):
                member.overlay.join_tree(self._app, member.now)
        self._world.run(SETTLE_S)

    def _is_member(self, member: Member) -> bool:
        """Two devices of three, by address, so that a restart does not change it."""
        return Random(member.overlay.contact.host).random() < 2 / 3

    def _on_start(self, old: Member | None, member: Member) -> None:
        if self._is_member(member):
            member.overlay.join_tree(self._app, member.now)

    def verdict(self) -> Verdict:
        world = self._world
        FaultInjector(world, self._on_start).schedule(self._trial.scenario)
        quiet_at = world.clock.now + self._trial.scenario.end
        world.run(self._trial.scenario.end)
        torn, two_roots_at = world.is_torn(), quiet_at
        while world.clock.now < quiet_at + REPAIR_S:
            world.run(SAMPLE_S)
            if self._roots() > 1:
                two_roots_at = world.clock.now
            if world.cycles:
                break
        two_roots_s = 0.0 if torn else two_roots_at - quiet_at
        violation, detail = self._judge(two_roots_s, torn=torn)
        return Verdict(violation, detail, round(two_roots_s, 1), world.clock.events, torn)

    def _roots(self) -> int:
        views = [member.overlay.tree(self._app) for member in self._world.alive()]
        return sum(view is not None and view.is_root for view in views)

    def _judge(self, two_roots_s: float, *, torn: bool) -> tuple[str | None, str]:
        world = self._world
        if world.cycles:
            return "cycle", f"at {world.clock.now:.1f} s"
        if two_roots_s > TWO_ROOTS_S:
            return "two roots", f"{two_roots_s:.1f} s after the last fault, {TWO_ROOTS_S:.0f} s are allowed"
        if torn or len(world.alive()) < 2:
            return None, ""
        alone = [member for member in world.alive() if not member.overlay.joined]
        if alone:
            return "not joined", ", ".join(str(member.overlay.contact) for member in alone)
        report = world.tree(self._app)
        if report.members and not report.whole:
            return "tree", f"{report.attached} of {report.members} members attached, {report.roots} roots"
        wrong = self._wrong_lookups()
        return ("lookup", wrong[0]) if wrong else (None, "")

    def _wrong_lookups(self) -> list[str]:
        world, asked = self._world, []
        for member in world.alive():
            for _ in range(KEYS_PER_DEVICE):
                key = world.random.getrandbits(64)
                asked.append((member, key, member.overlay.lookup(key, member.now)))
        world.run(ANSWER_S)
        wrong = []
        for member, key, request in asked:
            answer, _ = member.log.lookups.get(request, (None, 0))
            owner = world.owner(key)
            if answer is None or answer.node_id != owner:
                said = "nobody" if answer is None else f"{answer.node_id:016x}"
                wrong.append(f"{member.node_id:016x} asked for {key:016x}: {said} instead of {owner:016x}")
        return wrong


def shrink(failing: Trial, violation: str, *, judge: Callable[[Trial], Verdict] = run) -> Trial:
    """The same trial with as few faults as still give the same violation: no single one can be left out any more."""
    smaller: Iterable[Phase] = failing.scenario.phases
    while True:
        for phase in smaller:
            candidate = failing.without(phase)
            if candidate.scenario.phases and judge(candidate).violation == violation:
                failing, smaller = candidate, candidate.scenario.phases
                break
        else:
            return failing
