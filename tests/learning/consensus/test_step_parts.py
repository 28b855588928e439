"""The small parts of a consensus step: whom it waits for, what it averages, what it shows."""

from __future__ import annotations

from typing import cast

import numpy as np

from edgefl.learning.consensus.averaging import SLICE, Averaging
from edgefl.learning.consensus.patience import Patience
from edgefl.learning.consensus.shown import MAX_SHOWN, ShownModels
from edgefl.learning.consensus.tree_neighbours import ring_peers
from edgefl.learning.effects import LearningEffects
from edgefl.wire import Contact
from edgefl.wire.blob import BlobRef, ref_of


def blob(number: int) -> BlobRef:
    return ref_of(bytes([number]))


def test_an_average_takes_as_many_steps_as_the_model_has_slices() -> None:
    a, b = np.arange(2 * SLICE + 5, dtype="<f4"), np.ones(2 * SLICE + 5, "<f4")
    averaging = Averaging([(0.25, a), (0.75, b)])
    assert [averaging.go_on() for _ in range(3)] == [False, False, True]
    np.testing.assert_allclose(averaging.result, 0.25 * a + 0.75, rtol=1e-6)


def test_who_was_silent_for_a_slot_is_not_waited_for_until_it_speaks() -> None:
    patience, wanted = Patience(), {1, 2, 3}
    patience.on_step()
    patience.on_word(2)
    patience.on_slot_over({1, 2})
    assert patience.waits_for({1}, wanted) == set()
    assert patience.waits_for({2}, wanted) == {2}, "slow, not silent"
    patience.on_word(1)
    assert patience.waits_for({1}, wanted) == {1}


def test_the_silent_are_waited_for_when_most_are_missing() -> None:
    patience, wanted = Patience(), {1, 2, 3}
    patience.on_slot_over({1, 2, 3})
    assert patience.waits_for({1, 2}, wanted) == {1, 2}
    patience.forget_all_but({2})
    assert patience.waits_for({1}, wanted) == {1}


class Blobs:
    """What is kept and given back."""

    def __init__(self) -> None:
        self.gone: list[BlobRef] = []
        self.named: list[tuple[object, ...]] = []

    def keep(self, app: int, token: tuple[object, ...], data: object) -> None:
        self.named.append(token)

    def discard(self, app: int, blob: BlobRef) -> None:
        self.gone.append(blob)


def shown_models() -> tuple[ShownModels, Blobs]:
    blobs = Blobs()
    return ShownModels(1, cast("LearningEffects", blobs)), blobs


def test_the_base_and_the_newest_models_are_shown_and_the_rest_is_given_back() -> None:
    shown, blobs = shown_models()
    shown.show(0, 0, blob(0), base=True)
    for step in range(MAX_SHOWN + 1):
        shown.show(1, step, blob(1 + step), base=False)
    assert blobs.gone == [blob(1)]
    assert blob(0) in shown
    assert shown.latest == (1, MAX_SHOWN, blob(MAX_SHOWN + 1))
    shown.show(1, 0, blob(9), base=True)
    assert blobs.gone == [blob(1), blob(2)]
    assert blob(0) in shown, "neighbours may still be fetching it"


def test_the_very_same_model_twice_is_not_given_back_while_it_is_shown() -> None:
    shown, blobs = shown_models()
    shown.show(0, 0, blob(0), base=True)
    for step in range(MAX_SHOWN):
        shown.show(1, step, blob(0), base=False)
    shown.show(2, 0, blob(1), base=False)
    shown.let_go([blob(0)])
    assert blobs.gone == []
    assert blob(0) in shown


def test_a_neighbours_model_that_may_be_the_one_being_named_waits_for_the_name() -> None:
    shown, blobs = shown_models()
    shown.name(("mix", 1, 0), b"")
    shown.let_go([blob(5), blob(6)])
    assert blobs.gone == []
    shown.on_named()
    shown.show(1, 0, blob(5), base=False)
    shown.let_go([])
    assert blobs.gone == [blob(6)]


def test_few_children_all_know_each_other_and_many_know_those_beside_them() -> None:
    ring = [Contact(number, "10.0.0.1", 4000) for number in range(1, 9)]
    few = ring[:5]
    assert [peer.node_id for peer in ring_peers(few, 2, 4)] == [3, 4, 5, 1]
    assert [peer.node_id for peer in ring_peers(ring, 8, 4)] == [1, 7]
    assert [peer.node_id for peer in ring_peers(ring, 1, 6)] == [2, 3, 7, 8]
    assert ring_peers(ring[:1], 1, 4) == ()
