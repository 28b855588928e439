"""The policies that edgefl brings: what they do to a vector, against their formulas."""

from __future__ import annotations

import numpy as np
import pytest

from edgefl.policies import Context, charging_only, clip_and_noise, keep_largest, momentum


def context(seed: int = 0) -> Context:
    return Context("digits", 1, 100, np.random.default_rng(seed))


def delta(size: int = 1000, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(1).standard_normal(size) * scale).astype(np.float32)


def test_a_long_delta_is_scaled_to_the_norm_and_keeps_its_direction() -> None:
    given = delta(scale=10)
    clipped = clip_and_noise(given.copy(), context(), clip=2.0, noise=0)
    assert np.linalg.norm(clipped) == pytest.approx(2.0, rel=1e-5)
    np.testing.assert_allclose(clipped / np.linalg.norm(clipped), given / np.linalg.norm(given), rtol=1e-4)


def test_a_short_delta_stays_as_it_is() -> None:
    given = delta(scale=0.001)
    np.testing.assert_array_equal(clip_and_noise(given.copy(), context(), clip=2.0, noise=0), given)


def test_the_noise_has_the_deviation_that_was_asked_for_and_is_new_every_time() -> None:
    zeros = np.zeros(100_000, np.float32)
    noisy = clip_and_noise(zeros.copy(), context(1), clip=0.5, noise=3.0)
    assert noisy.dtype == np.float32
    assert noisy.std() == pytest.approx(1.5, rel=0.02)
    assert noisy.mean() == pytest.approx(0, abs=0.02)
    assert not np.array_equal(noisy, clip_and_noise(zeros.copy(), context(2), clip=0.5, noise=3.0))


def test_a_delta_whose_norm_is_beyond_float32_is_clipped_too() -> None:
    clipped = clip_and_noise(np.full(10, 3e38, np.float32), context(), clip=1.0, noise=0)
    assert np.linalg.norm(clipped) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(("share", "kept"), [(0.1, 100), (1.0, 1000), (1e-9, 1)])
def test_the_largest_values_are_kept(share: float, kept: int) -> None:
    given = delta()
    sparse = keep_largest(given.copy(), context(), share=share)
    chosen = np.argsort(-np.abs(given))[:kept]
    assert set(np.flatnonzero(sparse)) == set(chosen)
    np.testing.assert_array_equal(sparse[chosen], given[chosen])


def test_a_device_trains_on_mains_or_without_a_battery() -> None:
    assert charging_only(None, {"on_mains": True})
    assert charging_only(None, {"on_mains": None})
    assert charging_only(None, {})
    assert not charging_only(None, {"on_mains": False})


def test_momentum_remembers_in_its_state() -> None:
    model, state = np.zeros(3, np.float32), {}
    means = [np.array([1, 0, -1], np.float32), np.array([1, 1, 1], np.float32)]
    for mean in means:
        model = momentum(model, mean, state, beta=0.5, lr=2.0)
    np.testing.assert_allclose(model, 2 * means[0] + 2 * (0.5 * means[0] + means[1]))
