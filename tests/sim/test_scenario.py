"""Scenario files: what is taken, what is refused and in which words; and that phases do what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgefl.errors import ConfigError
from edgefl.sim import World, run_fleet
from edgefl.sim.faults import FaultInjector
from edgefl.sim.scenario import (
    KINDS,
    BadNetwork,
    Churn,
    ClockJump,
    Crash,
    Partition,
    Phase,
    Slow,
    ZoneFailure,
    as_toml,
    in_order,
    read_scenario,
)
from edgefl.sim.world import Member

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "scenario.toml"


def test_the_example_shows_every_kind_and_survives_being_written(tmp_path: Path) -> None:
    example = read_scenario(EXAMPLE)
    assert {phase.kind for phase in example.phases} == KINDS.keys()
    assert example.end == 260
    copy = tmp_path / "copy.toml"
    copy.write_text(as_toml(example))
    assert read_scenario(copy) == example


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "at least one"),
        ("phase = 3", "at least one"),
        ("nodes = 3", "unknown key 'nodes'"),
        ("[[phase]", "not TOML"),
        ("[[phase]]\nstart = 1", "phase 1: kind is one of churn"),
        ('[[phase]]\nkind = "crash"\nstart = 1', r"phase 1 \(crash\): share is missing"),
        ('[[phase]]\nkind = "slow"\nstart = 1\nshare = 1\ndelay_s = 1', "duration is missing"),
        ('[[phase]]\nkind = "crash"\nstart = 1\nshare = 2', "share is between 0 and 1, not 2"),
        ('[[phase]]\nkind = "crash"\nstart = nan\nshare = 1', "start is between"),
        ('[[phase]]\nkind = "crash"\nstart = "1"\nshare = 1', "start is a number, not '1'"),
        ('[[phase]]\nkind = "crash"\nstart = 1\nshare = true', "share is a number, not True"),
        ('[[phase]]\nkind = "crash"\nstart = 1\nshare = 1\nnoticed = 1', "noticed is true or false"),
        ('[[phase]]\nkind = "partition"\nstart = 1\nduration = 1\nparts = 2.5', "parts is a whole number"),
        ('[[phase]]\nkind = "crash"\nstart = 1\nshare = 1\nloss = 0', "unknown key 'loss'; known are start"),
        ("#" * 70_000, "longer than"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "scenario.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_scenario(file)


def test_a_missing_file_is_an_error_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_scenario(tmp_path / "none.toml")


def after(seconds: float, *phases: Phase) -> tuple[World, FaultInjector, list[Member | None]]:
    """A world of twenty devices some time after the beginning of these phases; and who was replaced."""
    world = World(devices=20, seed=3)
    world.grow(20, 10, lambda random: {"zone": random.randint(1, 2)})
    world.run(30)
    came: list[Member | None] = []
    injector = FaultInjector(world, lambda old, new: came.append(old))
    injector.schedule(in_order(phases))
    world.run(seconds)
    return world, injector, came


def test_who_crashes_comes_back_as_itself_or_as_somebody_new() -> None:
    for forgetful in (False, True):
        crash = Crash(start=1, duration=10, share=0.25, forgetful=forgetful, noticed=True)
        world, injector, came = after(5, crash)
        before = {member.node_id for member in world.members.values()}
        assert (len(world.alive()), came) == (15, [])
        world.run(40)
        assert (len(world.alive()), len(came)) == (20, 5)
        assert injector.counts == {"crashed": 5, "returned": 5}
        assert all(member.overlay.joined for member in world.alive())
        assert len({member.node_id for member in world.alive()} - before) == (5 if forgetful else 0)


def test_a_zone_goes_dark_and_returns() -> None:
    world, _, _ = after(5, ZoneFailure(start=1, duration=10))
    assert len({member.overlay.contact.zone for member in world.alive()}) == 1
    world.run(10)
    assert len(world.alive()) == 20


def test_churn_stops_when_it_is_over() -> None:
    world, injector, came = after(60, Churn(start=0, duration=50, joins_per_s=0.5, leaves_per_s=0.2, polite=0.5))
    assert came == [None] * injector.counts["joined"]
    assert 10 <= injector.counts["joined"] <= 45
    assert len(world.alive()) == 20 + injector.counts["joined"] - injector.counts["left"]
    counts = dict(injector.counts)
    world.run(60)
    assert injector.counts == counts


def test_networks_and_partitions_heal_and_overlap() -> None:
    world, _, _ = after(
        5,
        BadNetwork(start=0, duration=10, loss=0.1, delay_s=1),
        BadNetwork(start=0, duration=20, loss=0.3),
        Partition(start=0, duration=10),
        Partition(start=0, duration=20, by_zone=True, pick=1),
    )
    faults = world.network.faults
    assert (faults.loss, faults.delay_s) == (0.3, 1)
    sides = world.network.sides
    assert sides is not None
    assert len({sides(member.node) for member in world.alive()}) > 1
    world.run(10)
    assert (faults.loss, faults.delay_s, world.network.sides is None) == (0.3, 0, False)
    world.run(10)
    assert (faults.loss, world.network.sides) == (0, None)


def test_slow_devices_recover_and_clocks_do_not() -> None:
    world, _, _ = after(5, Slow(start=0, duration=10, share=0.5, delay_s=2), ClockJump(start=0, share=0.5, seconds=60))
    assert sorted(member.node.slow_s for member in world.alive()) == [0] * 10 + [2] * 10
    world.run(60)
    assert {member.node.slow_s for member in world.alive()} == {0}
    assert sum(member.now == pytest.approx(world.clock.now + 60) for member in world.alive()) == 10
    assert all(member.overlay.joined for member in world.alive())


def test_a_fleet_lives_through_the_example() -> None:
    example = read_scenario(EXAMPLE)
    result = run_fleet(nodes=40, apps=2, members=20, lookups=40, scenario=example, seed=2)
    assert result["scenario"] == example.documents()
    assert result["devices"]["crashed"] == result["devices"]["returned"] > 0
    assert result["lookups_correct"]["after_95s"] >= 0.95
    assert result["cycles"] == 0
    assert len(result["digest"]) == 8
