"""When the power goes: nothing here starts a guest."""

from __future__ import annotations

import random

from edgefl.image.cut_trial import BEFORE_S, instant


def test_every_second_cut_comes_before_the_settings_are_taken() -> None:
    chance = random.Random(0)
    for number in range(1, 200, 2):
        assert 81.0 - BEFORE_S <= instant(chance, number, 81.0, 99.3) <= 81.0
        assert 81.0 <= instant(chance, number + 1, 81.0, 99.3) <= 99.3


def test_no_cut_comes_before_there_is_power() -> None:
    assert instant(random.Random(0), 1, 2.0, 3.0) >= 1.0
