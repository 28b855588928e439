"""What a device holds of its neighbours' models is bounded, for each of them."""

from __future__ import annotations

import numpy as np

from edgefl.learning.consensus.heard import MAX_HELD_BYTES, Announced, Heard, HeardModels
from edgefl.wire import Contact
from edgefl.wire.blob import ref_of
from edgefl.wire.consensus import NeighbourModel

BLOB = ref_of(b"model")


def announced(sender: int, round_: int, step: int = 0) -> Announced:
    return Announced(Contact(sender, "10.0.0.1", 4000), NeighbourModel(1, round_, step, BLOB, 10, 2))


def model(value: float) -> Heard:
    return Heard(np.array([value], "<f4"), 10, 2)


def give(heard: HeardModels, sender: int, round_: int, neighbours: int = 4) -> bool:
    """Announce and deliver at once; False when it has no place."""
    if not heard.announce(announced(sender, round_), neighbours):
        return False
    heard.arrived(sender, (round_, 0), model(round_))
    return True


def test_a_neighbour_has_two_places_and_its_newest_models_keep_them() -> None:
    heard = HeardModels(4)
    assert all(give(heard, 7, round_) for round_ in (1, 2, 3, 4))
    assert len(heard) == 2
    taken = heard.take((4, 0), 2, {7})
    assert taken[7][0] == (4, 0)


def test_models_that_are_still_coming_fill_places_and_the_newest_announcement_waits() -> None:
    heard = HeardModels(4)
    assert [heard.announce(announced(7, round_), 4) for round_ in (1, 2, 3, 5, 4)] == [True, True, False, False, False]
    assert not heard.announce(announced(7, 2), 4)
    assert heard.announce(announced(8, 1), 4)  # another one's places are its own
    heard.arrived(7, (1, 0), None)
    assert [one.key for one in heard.waiting()] == [(5, 0)]
    assert heard.waiting() == []
    assert heard.announce(announced(7, 5), 4)


def test_large_models_have_one_place_each_and_never_more_than_fit() -> None:
    heard = HeardModels(MAX_HELD_BYTES // 3)
    assert heard.announce(announced(7, 1), 3)
    assert not heard.announce(announced(7, 2), 3)
    assert heard.announce(announced(8, 1), 3)
    assert heard.announce(announced(9, 1), 3)
    assert not heard.announce(announced(10, 1), 3)
    assert len(heard) == 3


def test_a_model_larger_than_the_limit_is_still_taken_one_at_a_time() -> None:
    heard = HeardModels(2 * MAX_HELD_BYTES)
    assert heard.announce(announced(7, 1), 3)
    assert not heard.announce(announced(8, 1), 3)


def test_what_is_taken_is_the_newest_that_is_not_ahead_or_else_the_least_ahead_of_a_neighbour() -> None:
    heard = HeardModels(4)
    for sender, round_ in ((1, 3), (1, 5), (2, 6), (2, 7), (3, 6), (4, 1)):
        give(heard, sender, round_)
    assert heard.heard_from((5, 0)) == {1, 2, 3}
    taken = heard.take((5, 0), 3, {1, 2, 4})
    assert {sender: key for sender, (key, _) in taken.items()} == {1: (5, 0), 2: (6, 0)}
    assert heard.heard_from((6, 0)) == {2, 3}  # what is ahead stays
    assert len(heard) == 3
