"""What a round teaches: the own link is no surprise, a parent that took longer than it said is one."""

from __future__ import annotations

import pytest

from edgefl.overlay.game.experience import OWN_DRIFT, Experience
from edgefl.overlay.game.residuals import Residuals
from edgefl.overlay.game.rules import DEFAULT
from edgefl.wire.game import PriceTold

PARENT = 7
WORD = PriceTold(app=1, s_per_byte=1e-6, penalty_s=0.5, load_bytes=1_000_000)  # 1.5 s


def after_rounds(*waits_s: float, word: PriceTold = WORD) -> Experience:
    experience = Experience(Residuals(DEFAULT))
    for waited_s in waits_s:
        experience.on_round_over(PARENT, WORD, 0.0, waited_s)
        experience.learn({PARENT: word})
    return experience


def test_what_the_own_link_takes_is_the_shortest_wait_and_drifts() -> None:
    assert after_rounds(4.0).own_s == 4.0
    assert after_rounds(4.0, 2.0).own_s == 2.0
    assert after_rounds(4.0, 2.0, 9.0).own_s == pytest.approx(2.0 * (1 + OWN_DRIFT))


def test_a_wait_beyond_word_and_link_is_a_surprise_of_the_parent_s() -> None:
    assert after_rounds(2.0).surprise_s(PARENT) == 0.0  # 1.5 + 2.0 were predicted; better than said counts for nothing
    assert after_rounds(2.0, 10.0).surprise_s(PARENT) > 1.0
    assert after_rounds(2.0, 10.0).surprise_s(PARENT + 1) == 0.0


def test_the_surprise_of_one_that_says_it_has_become_busier_passes_sooner() -> None:
    busier = PriceTold(app=1, s_per_byte=1.2e-6, penalty_s=0.5, load_bytes=1_000_000)
    excused, blamed = after_rounds(2.0, 10.0, word=busier), after_rounds(2.0, 10.0)
    assert excused.surprise_s(PARENT) > 1.0
    for experience in (excused, blamed):
        for _ in range(5):
            experience.on_round_over(PARENT, None, 0.0, 0.0)
    assert excused.surprise_s(PARENT) < blamed.surprise_s(PARENT) / 2


def test_without_a_word_and_without_a_parent_nothing_is_learnt() -> None:
    experience = after_rounds(2.0)
    for forget in (lambda: experience.on_round_over(PARENT, None, 0.0, 99.0), experience.forget_round):
        experience.on_round_over(PARENT, WORD, 0.0, 99.0)
        forget()
        experience.learn({PARENT: WORD})
    assert experience.surprise_s(PARENT) == 0.0
