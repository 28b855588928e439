"""A share of every tree vanishes at once while a round is open: the small form of `edgefl sim fleet --repair`."""

from __future__ import annotations

import json
from random import Random

from click.testing import CliRunner

from edgefl.cli import main
from edgefl.sim.repair import choose, run_repair
from edgefl.sim.world import World

BOUND_S = 6.0
"""Virtual seconds: what Totoro reports for 5 % of all nodes."""


def test_every_live_member_gets_the_next_broadcast_within_six_virtual_seconds() -> None:
    document = run_repair(nodes=60, apps=8, members=24, seed=2)
    assert document["whole_before"] == 8
    assert document["vanished_per_tree"]["median"] >= 2
    assert document["trees_that_lost_their_root"] >= 1
    assert document["reached"] == document["live_members"]
    assert document["tree_reached_s"]["max"] <= BOUND_S
    assert document["trees_whole"] == 8
    assert document["tree_whole_s"]["max"] <= BOUND_S
    assert document["cycles"] == 0


def test_the_victims_are_a_share_of_every_tree() -> None:
    world = World(devices=40, seed=1)
    world.grow(40, 20.0)
    world.run(20.0)
    groups = {app: world.random.sample(world.alive(), 20) for app in (1, 2, 3)}
    for app, group in groups.items():
        for member in group:
            member.overlay.join_tree(app, member.now)
    victims = {member.node_id for member in choose(groups, 0.1, Random(1))}
    for group in groups.values():
        assert sum(member.node_id in victims for member in group) >= 2
    assert len(victims) <= 6


def test_the_command_tells_it_and_takes_no_scenario_beside() -> None:
    arguments = ["sim", "fleet", "--repair", "--nodes", "30", "--apps", "2", "--members", "10"]
    shown = CliRunner().invoke(main, arguments)
    assert shown.exit_code == 0, shown.output
    assert "got the next broadcast" in shown.output
    document = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    assert document["digest"] in shown.output  # the same run again
    assert CliRunner().invoke(main, [*arguments, "--apps", "0"]).exit_code == 2
