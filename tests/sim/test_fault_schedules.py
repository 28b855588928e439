"""Random faults in small rings break no invariant (tools/fault_schedules runs as many as there is time for)."""

from __future__ import annotations

import pytest

from edgefl.sim.fault_schedules import Trial, Verdict, run, shrink, trial
from edgefl.sim.scenario import Crash, Partition, in_order
from edgefl.sim.world import World

BATCH = 25


@pytest.mark.parametrize("first", range(0, 125, BATCH))
def test_no_invariant_is_broken(first: int) -> None:
    for seed in range(first, first + BATCH):
        verdict = run(trial(seed))
        assert verdict.violation is None, f"{verdict.detail}: tools/fault_schedules --show {seed}"


def test_a_number_gives_one_schedule_and_one_run() -> None:
    assert str(trial(5)) == str(trial(5)) != str(trial(6))
    assert run(trial(5)) == run(trial(5))


def test_a_failing_schedule_is_made_as_small_as_it_gets() -> None:
    guilty = Crash(start=3, share=0.5)
    innocent = [Partition(start=float(n), duration=1, pick=n) for n in range(4)]
    failing = Trial(1, 5, 1, in_order([guilty, *innocent]))

    def judge(trial: Trial) -> Verdict:
        return Verdict("tree" if guilty in trial.scenario.phases else None, "", 0.0, 0)

    assert shrink(failing, "tree", judge=judge).scenario.phases == (guilty,)
    assert 'kind = "crash"' in str(failing)


def test_devices_that_nobody_else_knows_of_are_torn_off() -> None:
    world = World(devices=4)
    world.grow(3, 6.0)
    world.run(30.0)
    assert not world.is_torn()
    world.start(world.add(), first=True)  # founds a fleet of its own ...
    assert not world.is_torn()  # ... but was told of others, and could turn to them
    stranger = world.add()
    stranger.overlay.start(stranger.now, first=True)
    assert world.is_torn()
