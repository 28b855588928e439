"""Push-sum: mass is neither lost nor made, whatever happens to messages."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.learning.consensus.averaging import Averaging
from edgefl.learning.consensus.push_sum import MAX_GAIN, Mass

NODES = 4


def averaged(shares: list[tuple[float, Any]]) -> Any:
    averaging = Averaging(shares)
    assert averaging.go_on()
    return averaging.result


class LossyFleet:
    """Devices that all know each other; every word is lost with some probability, and some come twice."""

    def __init__(self, random: Random, loss: float) -> None:
        self.random, self.loss = random, loss
        self.masses = [Mass() for _ in range(NODES)]
        self.models = [np.array([float(node + 1)], "<f4") for node in range(NODES)]
        for node, mass in enumerate(self.masses):
            mass.gain(10 * (node + 1))
        self.round = 0
        self.granted = 0.0

    def _arrives(self) -> bool:
        return self.random.random() >= self.loss

    def _claim(self, receiver: int, giver: int, key: tuple[int, int]) -> None:
        for _ in range(self.random.choice((1, 1, 2))):
            if not self._arrives():
                continue
            before = self.masses[giver].own
            answer = self.masses[giver].on_claim(receiver, key, (self.round, 0))
            self.granted += before - self.masses[giver].own
            if self._arrives() and self.masses[receiver].on_grant(giver, key, answer):
                self.granted -= answer

    def step(self) -> None:
        self.round += 1
        for mass in self.masses:
            mass.offer(NODES - 1)
        for receiver in self.random.sample(range(NODES), NODES):
            for giver in range(NODES):
                if giver == receiver:
                    continue
                if giver in self.masses[receiver].claims:
                    self._claim(receiver, giver, self.masses[receiver].claims[giver])
                elif self._arrives():
                    self.masses[receiver].claim(giver, (self.round, 0), self.models[giver].copy())
                    self._claim(receiver, giver, (self.round, 0))
        self.models = [averaged(mass.shares(model)) for mass, model in zip(self.masses, self.models, strict=True)]

    @property
    def total(self) -> float:
        return sum(mass.total for mass in self.masses) + self.granted


@given(st.integers(0, 2**32), st.floats(0, 0.9))
def test_no_mass_is_lost_or_made_at_any_time(seed: int, loss: float) -> None:
    fleet = LossyFleet(Random(seed), loss)
    for _ in range(20):
        fleet.step()
        assert fleet.total == pytest.approx(100)
        assert all(mass.own > 0 for mass in fleet.masses)


@given(st.integers(0, 2**32))
def test_all_agree_on_the_mean_weighted_by_samples_in_spite_of_loss(seed: int) -> None:
    """Models 1 to 4 with 10 to 40 samples: their mean is 3."""
    fleet = LossyFleet(Random(seed), 0.4)
    for _ in range(60):
        fleet.step()
    fleet.loss = 0.0  # what is in flight arrives
    for _ in range(20):
        fleet.step()
    assert fleet.granted == pytest.approx(0)
    assert [float(model[0]) for model in fleet.models] == pytest.approx([3.0] * NODES, rel=1e-4)


def test_the_same_claim_has_the_same_answer_and_is_deducted_once() -> None:
    mass = Mass()
    mass.gain(30)
    mass.offer(2)
    assert [mass.on_claim(7, (1, 0), (1, 0)) for _ in range(3)] == [10, 10, 10]
    assert mass.own == 20
    assert mass.on_claim(8, (1, 0), (1, 0)) == 10
    assert mass.on_claim(7, (1, 0), None) == 10  # asked again after the step


def test_a_late_claim_and_one_of_a_stranger_get_nothing() -> None:
    mass = Mass()
    mass.gain(30)
    mass.offer(2)
    assert mass.on_claim(7, (1, 0), (2, 0)) == 0
    assert mass.on_claim(9, (1, 0), None) == 0
    assert mass.own == 30


def test_an_answer_without_a_claim_gives_nothing() -> None:
    mass = Mass()
    mass.gain(30)
    assert not mass.on_grant(7, (1, 0), 1e6)
    assert mass.total == 30


def test_steps_are_scaled_so_that_they_count_samples_and_never_leap() -> None:
    mass = Mass()
    assert mass.gain(30) == 1
    mass.offer(1)
    mass.on_claim(7, (1, 0), (1, 0))
    assert mass.gain(30) == 2
    assert mass.gain(60) == pytest.approx(60 / 45)  # more data: more mass
    for step in range(8):
        mass.offer(1)
        mass.on_claim(7, (2, step), (2, step))
    assert mass.gain(60) == MAX_GAIN
