"""The trimmed mean over the root's children: its law, its memory, and what a liar can do to a model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.learning_world import World, lying, make_manifest

from edgefl.errors import WireError
from edgefl.learning.aggregate import Accumulator, DuplicateError
from edgefl.learning.groups import MAX_GROUPS, GroupedSum, trimmed_mean
from edgefl.wire.learning import CHUNK_PARAMETERS

STAR = {2: 1, 3: 1, 4: 1, 5: 1, 6: 1, 7: 1}
TWO_LEVELS = {2: 1, 3: 1, 4: 1, 5: 2, 6: 3, 7: 4}


def reference(column: list[float], weights: list[float], cut: int) -> float:
    """One coordinate, with the values sorted and the ends cut off (all values different)."""
    capped = np.minimum(weights, np.median(weights))
    order = np.argsort(column)[cut : len(column) - cut]
    return float(np.average(np.array(column)[order], weights=capped[order]))


@settings(deadline=None)  # the first call imports what NumPy has left for later
@given(st.integers(3, 16), st.floats(0.01, 0.49), st.integers(0, 2**32 - 1))
def test_the_ends_are_cut_off_in_every_coordinate(groups: int, share: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(groups, 7)).astype(np.float32)
    weights = generator.integers(1, 100, groups).astype(np.float32)
    cut = min(max(1, int(share * groups)), (groups - 1) // 2)
    expected = [reference(list(values[:, i]), list(weights), cut) for i in range(7)]
    np.testing.assert_allclose(trimmed_mean(values.copy(), weights, share), expected, rtol=1e-4, atol=1e-5)


@settings(deadline=None)
@given(
    st.integers(3, 16),
    st.floats(0.01, 0.49),
    st.integers(0, 2**32 - 1),
    st.floats(-1e6, 1e6, width=32),
    st.integers(1, 10**6),
)
def test_no_liar_leads_out_of_the_range_of_the_others(
    groups: int, share: float, seed: int, lie: float, claim: int
) -> None:
    """As many as are cut off at one end, whatever they say about their samples."""
    generator = np.random.default_rng(seed)
    cut = min(max(1, int(share * groups)), (groups - 1) // 2)
    values = generator.integers(-3, 3, size=(groups, 9)).astype(np.float32)  # with equal ones among them
    weights = generator.integers(1, 100, groups).astype(np.float32)
    liars = generator.permutation(groups)[:cut]
    honest = np.delete(values, liars, axis=0)
    values[liars] = lie
    weights[liars] = claim
    result = trimmed_mean(values, weights, share)
    assert (result >= honest.min(axis=0)).all()
    assert (result <= honest.max(axis=0)).all()


@pytest.mark.parametrize("groups", [1, 2])
def test_of_two_groups_nobody_can_say_which_is_wrong(groups: int) -> None:
    values = np.array([[1.0], [5.0]], np.float32)[:groups]
    assert trimmed_mean(values, np.ones(groups, np.float32), 0.4)[0] == pytest.approx(1.0 if groups == 1 else 3.0)


def add(sum_: Accumulator, index: int, values: np.ndarray, samples: int, name: int, group: int) -> None:
    (bit,) = sum_.bits([name])
    sum_.add_chunk(index, values, samples, 1, bit, group)


def test_each_chunk_is_trimmed_over_those_who_are_in_it() -> None:
    """Group 4 dies after its first chunk; this device's own part comes between."""
    size = CHUNK_PARAMETERS + 3
    sum_ = GroupedSum(size, 100, 0.3)
    sum_.expect(9)
    parts = [np.full(size, value, np.float32) for value in (1.0, 2.0, 3.0, 100.0)]
    for group, part in enumerate(parts):
        add(sum_, 0, part[:CHUNK_PARAMETERS] * 10, 10, 20 + group, group)
    sum_.add_own(np.full(size, 4.0, np.float32), 10, ())
    for group, part in enumerate(parts[:3]):
        add(sum_, 1, part[CHUNK_PARAMETERS:] * 10, 10, 20 + group, group)
    assert (sum_.seal_mean() == 3.0).all()  # of 1 2 3 4 100
    assert (sum_.seal_mean() == 2.5).all()  # of 1 2 3 4
    assert sum_.weight(0)[:2] == (50, 5)
    assert sum_.weight(1)[:2] == (40, 4)
    assert sum_.participants == 4
    assert sum_.total is not None
    assert sum_.total.shape == (size,)


def test_refusals_are_those_of_every_sum() -> None:
    sum_ = GroupedSum(3, 100, 0.3)
    add(sum_, 0, np.ones(3, np.float32), 5, 1, 1)
    with pytest.raises(DuplicateError):
        add(sum_, 0, np.ones(3, np.float32), 5, 1, 2)
    for bad in (np.full(3, np.nan, np.float32), np.ones(2, np.float32)):
        with pytest.raises(WireError):
            add(sum_, 0, bad, 5, 3, 3)
    with pytest.raises(WireError):
        add(sum_, 0, np.ones(3, np.float32), 500, 4, 4)
    assert (sum_.seal_mean() == 0.2).all()


def test_memory_is_bounded_by_the_number_of_groups_and_given_back() -> None:
    sum_ = GroupedSum(2 * CHUNK_PARAMETERS, 100, 0.3)
    for child in range(3 * MAX_GROUPS):
        for index in (0, 1):
            add(sum_, index, np.ones(CHUNK_PARAMETERS, np.float32), 1, child + 1, child * 7919)
    assert [len(parts) for parts in sum_._parts] == [MAX_GROUPS - 1] * 2  # and this device's own
    assert sum(samples for _, samples in sum_._parts[0].values()) == 3 * MAX_GROUPS
    assert (sum_.seal_mean() == 1.0).all()
    assert [len(parts) for parts in sum_._parts] == [0, MAX_GROUPS - 1]
    sum_.seal_mean()
    assert sum_._parts == [{}, {}]


def test_an_empty_sum_has_no_mean() -> None:
    assert GroupedSum(3, 100, 0.3).seal_mean() is None


def range_of(world: World, honest: list[int]) -> tuple[np.ndarray, np.ndarray]:
    targets = np.array([world.devices[number].target for number in honest])
    return targets.min(axis=0), targets.max(axis=0)


@pytest.mark.parametrize("liars", [(4,), (2, 7)])
def test_liars_do_not_lead_the_model_away(liars: tuple[int, ...]) -> None:
    errors = {}
    for strategy in ("fedavg", "trimmed:share=0.3"):
        world = World(7, manifest=make_manifest(rounds=8, strategy=strategy))
        for device in world.devices.values():
            device.samples = 20
        lying(world, *liars)
        world.start(STAR)
        world.run(world.finished)
        honest = [number for number in world.devices if number not in liars]
        low, high = range_of(world, honest)
        model = world.model_of(3)
        middle = np.mean([world.devices[number].target for number in honest], axis=0)
        errors[strategy] = float(np.linalg.norm(model - middle))
        if strategy != "fedavg":
            assert (model >= np.minimum(low, 0) - 1e-3).all()
            assert (model <= np.maximum(high, 0) + 1e-3).all()
    assert errors["trimmed:share=0.3"] < 2 < 1e6 < errors["fedavg"]


def test_a_liar_below_spoils_its_own_subtree_alone() -> None:
    world = World(7, manifest=make_manifest(rounds=8, strategy="trimmed:share=0.3"))
    lying(world, 6)
    world.start(TWO_LEVELS)
    world.run(world.finished)
    model = world.model_of(2)
    low, high = range_of(world, [1, 2, 4, 5, 7])  # 3 is in the liar's group
    assert (model >= np.minimum(low, 0) - 1e-3).all()
    assert (model <= np.maximum(high, 0) + 1e-3).all()
    assert world.devices[1].app.ledger.history.get(8).participants == 7  # type: ignore[union-attr]


def test_without_liars_and_with_equal_groups_it_comes_near_to_the_mean() -> None:
    """Nothing is lost but what the ends would have added: the model is one of the middle."""
    world = World(7, manifest=make_manifest(rounds=10, strategy="trimmed:share=0.15"))
    for device in world.devices.values():
        device.samples = 20
    world.start(STAR)
    world.run(world.finished)
    targets = np.array([device.target for device in world.devices.values()], np.float64)
    expected = np.sort(targets, axis=0)[1:-1].mean(axis=0)
    # Every round moves half-way to the trimmed mean of what the devices see, always the same one here.
    np.testing.assert_allclose(world.model_of(5), expected, rtol=0, atol=2e-3)


def test_a_model_of_several_chunks() -> None:
    size = 2 * CHUNK_PARAMETERS + 100
    world = World(4, manifest=make_manifest(rounds=1, strategy="trimmed:share=0.3", parameters=size))
    for device in world.devices.values():
        device.samples = 7
    world.start({2: 1, 3: 1, 4: 1})
    world.run(world.finished)
    targets = np.array([device.target for device in world.devices.values()])
    expected = np.sort(targets * np.float32(0.5), axis=0)[1:-1].mean(axis=0)
    np.testing.assert_allclose(world.model_of(2), expected, rtol=1e-4, atol=1e-5)
