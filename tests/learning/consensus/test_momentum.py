"""Momentum between rounds: what is common goes on, and nobody runs away."""

from __future__ import annotations

import numpy as np
import pytest

from edgefl.learning.consensus.averaging import Averaging
from edgefl.learning.consensus.momentum import Momentum


def averaged(models: list[np.ndarray], own: int, momentum: Momentum) -> np.ndarray:
    shares = [(1 / len(models), model) for model in models] + momentum.terms()
    averaging = Averaging([shares[own], *shares[:own], *shares[own + 1 :]])
    while not averaging.go_on():
        pass
    return averaging.result


def run(pulls: list[float], share: float, rounds: int) -> list[float]:
    """Devices that all hear each other, each pulled by so much in every round: how far each is in the end."""
    models = [np.zeros(3, np.float32) for _ in pulls]
    momenta = [Momentum(share) for _ in pulls]
    for _ in range(rounds):
        for momentum, model in zip(momenta, models, strict=True):
            momentum.on_start(model)
        trained = [model + np.float32(pull) for model, pull in zip(models, pulls, strict=True)]
        for momentum in momenta:
            momentum.on_heard()
        models = [averaged(trained, own, momenta[own]) for own in range(len(pulls))]
    return [float(model[0]) for model in models]


def test_what_all_have_in_common_goes_on() -> None:
    plain, quick = run([1.0, 1.0], 0.0, 60), run([1.0, 1.0], 0.75, 60)
    assert plain == pytest.approx([60, 60])
    assert quick == pytest.approx([4 * 60, 4 * 60], rel=0.06)


def test_what_cancels_does_not() -> None:
    assert run([5.0, -5.0], 0.9, 40) == pytest.approx([0, 0], abs=1e-4)


def test_the_first_round_and_one_without_a_word_of_anybody_have_none() -> None:
    momentum = Momentum(0.5)
    first, second, third = (np.full(2, value, np.float32) for value in (0, 1, 3))
    momentum.on_start(first)
    momentum.on_heard()
    assert momentum.terms() == []
    momentum.on_start(second)
    assert momentum.terms() == [], "nobody was heard"
    momentum.on_heard()
    assert momentum.terms() == [(0.5, second), (-0.5, first)]
    momentum.on_start(third)
    momentum.on_heard()
    assert momentum.terms() == [(0.5, third), (-0.5, second)]
    momentum.forget()
    momentum.on_start(third)
    momentum.on_heard()
    assert momentum.terms() == []
