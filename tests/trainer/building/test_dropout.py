"""Dropout by a seed that is fed. Seeds are fixed, so that every statistic is a constant; the bounds are what truly
independent masks keep to in all but one of 15,000 cases (four standard deviations)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from edgefl.errors import ModelError
from edgefl.trainer.building.dropout import dropout
from edgefl.trainer.files.manifest import Tensor
from edgefl.trainer.graph import Graph, Value

Array = Any
FOUR_SIGMA = 4.0
RATIOS = (0.1, 0.5, 0.8)
SEEDS = (0, 1, 2, 12345, -1, 2**62)


@cache
def layer(shape: tuple[int | None, ...], ratio: float, salt: int) -> ort.InferenceSession:
    graph = Graph(taken={"x", "seed"})
    y = dropout(graph, Value(graph, "x", shape), ratio, Value(graph, "seed", ()), salt)
    (name,) = graph.name_results([y], ["y"])
    inputs = [Tensor("x", "float32", shape), Tensor("seed", "int64", ())]
    model = graph.model("dropout", inputs, [Tensor(name, "float32", shape)])
    return ort.InferenceSession(model.SerializeToString())


def kept(shape: tuple[int, ...], ratio: float, seed: int, salt: int = 0) -> Array:
    """The mask: 1 where ones come through."""
    (y,) = layer((None, *shape[1:]), ratio, salt).run(None, {"x": np.ones(shape, np.float32), "seed": np.array(seed)})
    np.testing.assert_allclose(y[y != 0], 1.0 / (1.0 - ratio), rtol=1e-6)
    return y != 0


def sigmas(products: Array) -> float:
    """How far the mean of independent numbers of mean 0 and variance 1 is from 0."""
    return float(abs(products.mean()) * np.sqrt(products.size))


def centred(mask: Array, ratio: float) -> Array:
    return (mask - (1.0 - ratio)) / np.sqrt(ratio * (1.0 - ratio))


def test_the_same_seed_drops_the_same_and_another_one_does_not() -> None:
    first = kept((8, 100), 0.5, seed=3)
    assert np.array_equal(first, kept((8, 100), 0.5, seed=3))
    assert not np.array_equal(first, kept((8, 100), 0.5, seed=4))
    assert not np.array_equal(first, kept((8, 100), 0.5, seed=3, salt=1))


def test_a_mask_is_the_same_on_every_device() -> None:
    """A literal, since a step that is computed twice must drop the same."""
    bits = kept((2, 16), 0.5, seed=1, salt=2).astype(int)
    assert "".join(map(str, bits.ravel())) == "10101110101000010011000110001010"


def test_what_is_kept_is_scaled_and_the_gradient_passes_where_it_is() -> None:
    shape = (4, 3, 5)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    (y,) = layer((None, 3, 5), 0.25, 0).run(None, {"x": x, "seed": np.array(9)})
    np.testing.assert_allclose(y, x * kept(shape, 0.25, seed=9) / 0.75, rtol=1e-6)


def test_the_last_node_multiplies_by_the_mask() -> None:
    graph = Graph(taken={"x", "seed"})
    y = dropout(graph, Value(graph, "x", (None, 7)), 0.3, Value(graph, "seed", ()), 0)
    assert graph.nodes[-1].op_type == "Mul"
    assert graph.nodes[-1].input[0] == "x"
    assert (graph.nodes[-1].output[0], y.shape) == (y.name, (None, 7))


def test_nothing_is_done_at_ratio_0_and_everything_cannot_be_dropped() -> None:
    graph = Graph()
    x, seed = Value(graph, "x", (None, 7)), Value(graph, "seed", ())
    assert dropout(graph, x, 0.0, seed, 0) is x
    assert not graph.nodes
    for ratio in (1.0, -0.1, float("nan")):
        with pytest.raises(ModelError, match="ratio"):
            dropout(graph, x, ratio, seed, 0)


@pytest.mark.parametrize(
    "shape",
    [(None,), (None, 1), (None, 10), (None, 5, 300), (7, None, 6), (None, None, 3), (None, 2, 3, 4, 5)],
    ids=str,
)
def test_any_shape_will_do(shape: tuple[int | None, ...]) -> None:
    x = np.ones([11 if n is None else n for n in shape], np.float32)
    graph = Graph(taken={"x", "seed"})
    y = dropout(graph, Value(graph, "x", shape), 0.5, Value(graph, "seed", ()), 0)
    (name,) = graph.name_results([y], ["y"])
    inputs = [Tensor("x", "float32", x.shape), Tensor("seed", "int64", ())]
    model = graph.model("dropout", inputs, [Tensor(name, "float32", shape)])
    (found,) = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x, "seed": np.array(1)})
    assert found.shape == x.shape
    assert set(found.ravel()) <= {0.0, 2.0}
    assert sigmas(centred(found != 0, 0.5)) < FOUR_SIGMA


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("shape", [(256, 1000), (64, 16, 16, 16), (4096, 10)], ids=str)
class TestStatistics:
    def test_the_share_that_is_kept(self, shape: tuple[int, ...], ratio: float) -> None:
        for seed in SEEDS:
            assert sigmas(centred(kept(shape, ratio, seed), ratio)) < FOUR_SIGMA

    def test_rows_and_columns_keep_as_many_as_chance_would(self, shape: tuple[int, ...], ratio: float) -> None:
        """Chi-square: the counts scatter neither more nor less than binomial ones."""
        for seed in SEEDS:
            mask = kept(shape, ratio, seed).reshape(shape[0], -1)
            for axis in (0, 1):
                n, counts = mask.shape[axis], mask.sum(axis)
                squares = (counts - n * (1 - ratio)) ** 2 / (n * ratio * (1 - ratio))
                assert abs(squares.sum() - squares.size) < FOUR_SIGMA * np.sqrt(2 * squares.size) * 1.1

    def test_neighbours_are_independent(self, shape: tuple[int, ...], ratio: float) -> None:
        """Pairs along each axis, triples, and the corners of squares: products of independent bits are even."""
        for seed in SEEDS:
            bits = centred(kept(shape, ratio, seed), ratio).reshape(shape[0], -1)
            for distance in (1, 2, 3, 8):
                assert sigmas(bits[distance:] * bits[:-distance]) < FOUR_SIGMA
                assert sigmas(bits[:, distance:] * bits[:, :-distance]) < FOUR_SIGMA
            assert sigmas(bits[2:] * bits[1:-1] * bits[:-2]) < FOUR_SIGMA
            assert sigmas(bits[:, 2:] * bits[:, 1:-1] * bits[:, :-2]) < FOUR_SIGMA
            assert sigmas(bits[1:, 1:] * bits[1:, :-1] * bits[:-1, 1:] * bits[:-1, :-1]) < FOUR_SIGMA

    def test_seeds_and_salts_are_independent(self, shape: tuple[int, ...], ratio: float) -> None:
        for seed in SEEDS:
            bits = centred(kept(shape, ratio, seed), ratio)
            others: list[Callable[[], Array]] = [
                lambda seed=seed: kept(shape, ratio, seed + 1),
                lambda seed=seed: kept(shape, ratio, seed, salt=1),
                lambda seed=seed: kept(shape, ratio, seed + 1, salt=1),
            ]
            for other in others:
                assert sigmas(bits * centred(other(), ratio)) < FOUR_SIGMA
                shifted = centred(other(), ratio).reshape(-1)
                assert sigmas(bits.reshape(-1)[1:] * shifted[:-1]) < FOUR_SIGMA
