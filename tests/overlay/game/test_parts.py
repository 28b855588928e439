"""The parts of the game that run on devices: ledger, residuals, epsilon."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.overlay.game.bandits import OnePlayer
from edgefl.overlay.game.equilibrium import BINS_S, Epsilon, of_player, total
from edgefl.overlay.game.ledger import MAX_PROMISES, RESERVED_S, Ledger, Price
from edgefl.overlay.game.model import margin_s
from edgefl.overlay.game.residuals import MAX_REMEMBERED, Residuals
from edgefl.overlay.game.rules import DEFAULT, Rule

promises = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 1000), st.sampled_from("pra")))


@given(promises)
def test_the_ledger_is_the_sum_of_its_promises(steps):
    ledger, kept = Ledger(), {}
    for app, child, size, what in steps:
        if what == "p":
            ledger.promise(app, child, size)
            kept[app, child] = size
        elif what == "r":
            ledger.release(app, child)
            kept.pop((app, child), None)
        else:
            ledger.release_app(app)
            kept = {key: value for key, value in kept.items() if key[0] != app}
        assert ledger.load_bytes == sum(kept.values())
        assert len(ledger) == len(kept)


def test_who_asks_second_hears_of_the_first():
    ledger = Ledger()
    ledger.price = Price(s_per_byte=1e-6)
    assert ledger.admit(1, 10, 1_000_000, budget_s=1.5, now=0.0)
    assert not ledger.admit(1, 11, 1_000_000, budget_s=1.5, now=0.0)
    assert ledger.admit(1, 10, 1_000_000, budget_s=1.5, now=1.0)  # asking again takes no second place
    assert ledger.load_bytes == 1_000_000


def test_a_place_that_is_not_taken_lapses():
    ledger = Ledger()
    assert ledger.admit(1, 10, 500, budget_s=1.0, now=0.0)
    ledger.expire(RESERVED_S - 1)
    assert ledger.load_bytes == 500
    ledger.expire(RESERVED_S)
    assert ledger.load_bytes == 0
    ledger.promise(1, 10, 500)
    ledger.expire(1e9)
    assert ledger.load_bytes == 500


def test_a_closed_device_takes_nobody_and_the_ledger_is_bounded():
    ledger = Ledger()
    ledger.price = Price(closed=True)
    assert not ledger.admit(1, 10, 1, budget_s=1e9, now=0.0)
    for child in range(MAX_PROMISES + 10):
        ledger.promise(1, child, 1)
    assert len(ledger) == ledger.load_bytes == MAX_PROMISES


def test_the_surprise_of_a_parent_that_says_it_has_become_busier_passes():
    residuals = Residuals(DEFAULT)
    residuals.learn(7, observed_s=3.0, predicted_s=1.0)
    residuals.excuse(7, observed_s=22.0, predicted_s=1.0)
    assert residuals.of(7) == pytest.approx(1.0 + 10.0)
    for _ in range(10):
        residuals.fade()
    assert residuals.of(7) == pytest.approx(1.0, rel=0.03)
    residuals.excuse(7, observed_s=1.0, predicted_s=5.0)
    assert residuals.of(7) > 0.9  # a pleasant surprise excuses nothing
    for node_id in range(100, 100 + 2 * MAX_REMEMBERED):
        residuals.excuse(node_id, 1.0, 0.5)
    assert len(residuals) <= 2 * MAX_REMEMBERED
    for _ in range(20):
        residuals.fade()
    assert len(residuals) == 1


def test_residuals_learn_fade_and_are_bounded():
    residuals = Residuals(DEFAULT)
    for _ in range(20):
        residuals.learn(7, observed_s=8.0, predicted_s=1.0)
    assert residuals.of(7) == pytest.approx(7.0, rel=1e-3)
    residuals.fade()
    assert residuals.of(7) < 7.0
    for node_id in range(100, 100 + 2 * MAX_REMEMBERED):
        residuals.learn(node_id, 1.0, 0.5)
    assert len(residuals) == MAX_REMEMBERED
    assert residuals.of(7) == 0.0
    for _ in range(20_000):
        residuals.fade()
    assert len(residuals) == 0


players = st.lists(st.tuples(st.floats(-10, 1e4), st.floats(0, 1e4), st.floats(1, 1e8)), max_size=20)


@given(players, st.integers(0, 20))
def test_epsilon_is_the_same_however_the_tree_groups_it(drawn, cut):
    parts = [of_player(*player) for player in drawn]
    whole, grouped = total(parts), total([total(parts[:cut]), total(parts[cut:])])
    assert (whole.max_s, whole.players, whole.bins) == (grouped.max_s, grouped.players, grouped.bins)
    assert whole.gain_byte_s == pytest.approx(grouped.gain_byte_s)
    assert whole.cost_byte_s == pytest.approx(grouped.cost_byte_s)
    assert sum(whole.bins) == whole.players == len(drawn)


def test_epsilon_in_words():
    assert "compared" in Epsilon().sentence()
    said = total([of_player(0.5, 10.0, 100.0), of_player(0.0, 10.0, 300.0)])
    assert said.share == pytest.approx(0.0125)
    assert "0.5 s" in said.sentence()
    assert "1.25%" in said.sentence()
    assert of_player(BINS_S[0], 1.0, 1.0).bins[0] == 1
    assert of_player(1e9, 1.0, 1.0).bins[-1] == 1


@given(st.floats(0, 1e4))
def test_the_margin_is_the_larger_of_both(now_s):
    assert margin_s(now_s, 0.02, 0.02) == pytest.approx(max(0.02, 0.02 * now_s))


@pytest.mark.parametrize("rule", [Rule.KLUCB, Rule.EXP3])
def test_a_bandit_comes_to_prefer_the_cheap_candidate(rule):
    bandit, random, costs = OnePlayer(rule, 5), Random(1), [4.0, 0.1, 4.0, 4.0, 4.0]
    choice, chosen = 0, []
    for time in range(1, 1500):
        choice, delay_s = bandit.choose(choice, costs[choice], 0.05, [0.0] * 5, time, random.random())
        assert (delay_s is not None) == (rule is Rule.KLUCB)
        chosen.append(choice)
    assert chosen[-500:].count(1) > 200
