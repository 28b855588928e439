"""The routing game as arrays: laws of the model, and what the rules reach on small instances."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefl.overlay.game.rules import Parameters, Rule
from edgefl.sim.game import run_comparison, run_game
from edgefl.sim.game.instance import make_instance
from edgefl.sim.game.judge import game_potential, judge
from edgefl.sim.game.optimum import lower_bound
from edgefl.sim.game.play import Game
from edgefl.sim.scale.world import generator


def new_game(players=300, seed=1, *, rule=Rule.ACBR, delay_weight=0.2, sites=False, liars=0.0, **how):
    instance = make_instance(players, seed, sites=sites, liars=liars)
    return Game(instance, rule, generator(seed, 12), Parameters(delay_weight=delay_weight), **how)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), sites=st.booleans(), weight=st.sampled_from([0.0, 0.2]))
def test_a_move_changes_the_potential_by_its_gain_times_its_size(seed, sites, weight):
    game = new_game(60, seed, sites=sites, delay_weight=weight)
    random = np.random.default_rng(seed)
    game.choice = random.integers(0, game.instance.rtt_s.shape[1], len(game.choice))
    for _ in range(5):
        player, column = int(random.integers(len(game.choice))), int(random.integers(game.instance.rtt_s.shape[1]))
        costs, before = game.true_cost_s()[player], game_potential(game)
        expected = game.instance.size_bytes[player] * (costs[column] - costs[game.choice[player]])
        game.choice[player] = column
        assert game_potential(game) - before == pytest.approx(expected, rel=1e-9, abs=1e-9 * before)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_serial_better_responses_never_raise_the_potential_and_end_in_an_equilibrium(seed):
    game = new_game(60, seed, delay_weight=0.0)
    for _ in range(3000):
        costs = game.true_cost_s()
        gain = game.chosen(costs) - costs.min(axis=1)
        player = int(np.argmax(gain))
        if gain[player] <= 1e-9:
            break
        before = game_potential(game)
        game.choice[player] = int(np.argmin(costs[player]))
        assert game_potential(game) < before
    assert judge(game).eps_max_s <= 1e-9


def test_the_shipped_rule_settles_near_the_optimum_and_stops_moving():
    document = run_game(players=3000, rule=Rule.ACBR, epochs=60, seed=3, delay_weight=0.0)
    assert document["settled_epoch"]["0.05"] <= 10
    assert document["eps_rel"][-1] < 0.002
    assert document["cost_over_optimum"][-1] < 1.03
    assert max(document["moves_per_player"][-5:]) < 0.005
    assert document["potential_rises"] == 0


def test_it_beats_the_baselines_in_the_same_run():
    runs = run_comparison(players=1200, epochs=40, seed=2, report=lambda what, share: None)["runs"]
    by_rule = {(run["rule"], run["delay_weight"]): run for run in runs}
    ours, fast = by_rule["acbr", 0.0], by_rule["acbr", 0.2]
    for rule in ("rtt", "klucb", "exp3"):
        assert ours["eps_rel"][-1] < 0.1 * by_rule[rule, 0.0]["eps_rel"][-1]
        assert ours["cost_over_optimum"][-1] < by_rule[rule, 0.0]["cost_over_optimum"][-1]
        assert ours["round_time_s"][-1] < by_rule[rule, 0.0]["round_time_s"][-1]
    assert fast["round_time_s"][-1] < 0.8 * ours["round_time_s"][-1]


def test_residuals_see_through_liars():
    """The last epochs of a window: fresh candidates, of which some lie, have been tried."""
    how = {"players": 3000, "rule": Rule.ACBR, "epochs": 48, "seed": 4, "delay_weight": 0.0, "liars": 0.1}
    believed, learnt = run_game(**how, residuals=False), run_game(**how)
    assert learnt["cost_over_optimum"][-1] < 1.06
    assert believed["cost_over_optimum"][-1] > 1.2


def test_sites_have_a_price_too():
    document = run_game(players=2000, rule=Rule.ACBR, epochs=40, seed=5, delay_weight=0.0, sites=True)
    assert document["eps_rel"][-1] < 0.02
    assert document["cost_over_optimum"][-1] < 1.05


def test_it_finds_its_way_back_after_a_drift():
    document = run_game(players=1500, rule=Rule.ACBR, epochs=190, seed=6, delay_weight=0.0, drift=True)
    for epoch in document["drift"]:
        assert document["eps_rel"][epoch - 1] < 0.05
        assert min(document["eps_rel"][epoch : epoch + 6]) < 0.05


def test_what_players_report_is_close_to_what_is_so():
    game = new_game(2000, delay_weight=0.0)
    for _ in range(25):
        game.step()
    verdict = judge(game)
    assert verdict.eps_reported == pytest.approx(verdict.eps_rel, abs=0.01)


@pytest.mark.parametrize("rule", list(Rule))
def test_the_same_seed_gives_the_same_run(rule):
    first, again = (run_game(players=200, rule=rule, epochs=12, seed=9, delay_weight=0.2) for _ in range(2))
    assert {**first, "cpu_seconds": 0} == {**again, "cpu_seconds": 0}


def test_parents_outrank_their_children_whatever_is_played():
    game = new_game(500, rule=Rule.EXP3)
    for _ in range(12):
        game.step()
        parents = game.parents()
        rows = game.instance.player
        assert (game.instance.members.rank[parents[rows]] > game.instance.members.rank[rows]).all()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), sites=st.booleans())
def test_no_assignment_costs_less_than_the_bound(seed, sites):
    game = new_game(60, seed, delay_weight=0.0, sites=sites)
    bound, _ = lower_bound(game.instance)
    random = np.random.default_rng(seed)
    for _ in range(5):
        game.choice = random.integers(0, game.instance.rtt_s.shape[1], len(game.choice))
        assert judge(game).cost_byte_s >= bound * (1 - 1e-12)
