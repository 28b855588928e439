"""Normalisation over the batch, a layer or groups of channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper
from support.gradient_cases import C, Case, check

from edgefl.errors import UnsupportedOperatorError
from edgefl.trainer.gradients import RULES, Node
from edgefl.trainer.gradients.normalization import training_batch_norm
from edgefl.trainer.graph import OPSET, Graph, Value, attributes_of

Array = Any
EPSILON = 1e-3


def batch_norm(*x: int) -> Case:
    """In inference mode, with statistics of its own."""
    rng = np.random.default_rng(3)
    channels = x[0]
    statistics = {
        "mean": rng.normal(size=channels).astype(np.float32),
        "var": rng.uniform(0.5, 2.0, channels).astype(np.float32),
    }
    weights = {"w": (channels,), "b": (channels,)}
    inputs = ("s", "w", "b", "mean", "var")
    return Case("BatchNormalization", x, weights, statistics, {"epsilon": EPSILON}, inputs)


def group_norm(*x: int, groups: int, epsilon: float = EPSILON) -> Case:
    weights = {"w": x[:1], "b": x[:1]}
    attributes = {"num_groups": groups, "epsilon": epsilon}
    return Case("GroupNormalization", x, weights, attributes=attributes, inputs=("s", *weights), opset=21)


JUDGED_BY_ONNX = [
    batch_norm(3),
    batch_norm(3, 5),
    batch_norm(2, 4, 3),
    C("LayerNormalization", (3, 5), (5,), (5,)),
    C("LayerNormalization", (3, 5), (5,), epsilon=EPSILON),
    C("LayerNormalization", (6,), (6,), (6,), axis=1),
    C("LayerNormalization", (2, 3, 4), (3, 4), (3, 4), axis=-2),
    C("LayerNormalization", (2, 3, 4), (2, 3, 4), (2, 3, 4), axis=1),
    C("InstanceNormalization", (3, 6), (3,), (3,)),
    C("InstanceNormalization", (3, 4, 2), (3,), (3,), epsilon=EPSILON),
    C("LpNormalization", (3, 5)),
    C("LpNormalization", (3, 5), axis=1, p=2),
]
JUDGED_BY_NUMPY = [
    *[group_norm(6, 4, 2, groups=groups) for groups in (1, 2, 6)],
    group_norm(4, 5, groups=2),
    group_norm(4, groups=2, epsilon=0.1),
    *[C("LpNormalization", (3, 5), axis=axis, p=1) for axis in (-1, 1)],
    C("MeanVarianceNormalization", (3, 4, 2)),
    C("MeanVarianceNormalization", (3, 4, 2), axes=[1, 2, 3]),
]
"""What the reference implementation of ONNX lacks, gets wrong, or does in float32 only."""

CASES = JUDGED_BY_ONNX + JUDGED_BY_NUMPY


@pytest.mark.parametrize("case", JUDGED_BY_ONNX, ids=lambda case: case.id)
def test_gradient_matches_finite_differences(case: Case, session: Any) -> None:
    frozen = ("mean", "var") if case.operator == "BatchNormalization" else ()
    check(case, session, frozen=frozen)


@pytest.mark.parametrize("case", JUDGED_BY_NUMPY, ids=lambda case: case.id)
def test_gradient_and_forward_pass_match_numpy(case: Case) -> None:
    rng = np.random.default_rng(5)
    shapes = {"x": (3, *case.x), **case.weights}
    feeds = {name: case.draw(rng, shape) for name, shape in shapes.items()}
    dy = case.draw(rng, shapes["x"])
    graph = Graph(taken={*feeds, "dy"})
    open_batch = [(None, *case.x), *case.weights.values()]
    values = [Value(graph, name, shape) for name, shape in zip(feeds, open_batch, strict=True)]
    graph.op(case.operator, *values, names=["y"], **case.attributes)
    sent = backward(graph, graph.nodes[0], values, Value(graph, "dy", open_batch[0]))
    y, *found = run(graph, {**feeds, "dy": dy}, ["y", *(value.name for value in sent)])

    def function(*arrays: Array) -> Array:
        return NUMPY[case.operator](*arrays, **case.attributes)

    np.testing.assert_allclose(y, function(*feeds.values()), atol=1e-5)
    for one, other in zip(found, differences(function, feeds, dy, list(feeds)), strict=True):
        np.testing.assert_allclose(one, other, atol=case.tolerance * np.abs(other).max())


def group_normalised(x: Array, scale: Array, bias: Array, num_groups: int, epsilon: float) -> Array:
    rows = x.reshape(len(x), num_groups, -1)
    x_hat = (rows - rows.mean(2, keepdims=True)) / np.sqrt(rows.var(2, keepdims=True) + epsilon)
    column = (-1, *[1] * (x.ndim - 2))
    return x_hat.reshape(x.shape) * scale.reshape(column) + bias.reshape(column)


def mean_variance_normalised(x: Array, axes: Sequence[int] = (0, 2, 3)) -> Array:
    return (x - x.mean(tuple(axes), keepdims=True)) / (x.std(tuple(axes), keepdims=True) + 1e-9)


NUMPY: dict[str, Callable[..., Array]] = {
    "GroupNormalization": group_normalised,
    "LpNormalization": lambda x, axis, p: x / np.linalg.norm(x, p, axis, keepdims=True),
    "MeanVarianceNormalization": mean_variance_normalised,
}


class TestBatchStatistics:
    """BatchNormalization in training mode."""

    @pytest.mark.parametrize("shape", [(7, 3), (5, 3, 4), (3, 2, 4, 3), (1, 2, 5)], ids=str)
    def test_gradient_matches_finite_differences(self, shape: tuple[int, ...]) -> None:
        feeds, dy = sample(shape), np.random.default_rng(1).normal(size=shape).astype(np.float32)
        graph = Graph(taken={*feeds, "dy"})
        values = [Value(graph, name, array.shape) for name, array in feeds.items()]
        outputs = ["y", "mean.next", "var.next"]
        training_batch_norm(graph, *values, epsilon=EPSILON, momentum=0.8, names=outputs)
        proto = next(node for node in graph.nodes if node.op_type == "BatchNormalization")
        sent = backward(graph, proto, values, Value(graph, "dy", shape))
        names = [*(value.name for value in sent), *outputs]
        *found, y, new_mean, new_var = run(graph, {**feeds, "dy": dy}, names)

        expected = differences(lambda x, scale, bias, *_: normalised(x, scale, bias), feeds, dy, ["x", "scale", "bias"])
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=3e-5 * np.abs(other).max())
        np.testing.assert_allclose(y, normalised(*list(feeds.values())[:3]), atol=1e-5)
        over = (0, *range(2, len(shape)))
        np.testing.assert_allclose(new_mean, 0.8 * feeds["mean"] + 0.2 * feeds["x"].mean(over), atol=1e-6)
        np.testing.assert_allclose(new_var, 0.8 * feeds["var"] + 0.2 * feeds["x"].var(over), atol=1e-6)

    def test_the_callers_arrays_are_left_alone(self) -> None:
        feeds = sample((4, 3, 5))
        before = {name: array.copy() for name, array in feeds.items()}
        graph = Graph(taken=set(feeds))
        values = [Value(graph, name, array.shape) for name, array in feeds.items()]
        names = ["y", "mean.next", "var.next"]
        training_batch_norm(graph, *values, epsilon=EPSILON, momentum=0.9, names=names)
        first = run(graph, feeds, names)
        again = run(graph, feeds, names)
        assert all(np.array_equal(feeds[name], before[name]) for name in feeds)
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))

    def test_the_results_carry_their_shapes(self) -> None:
        graph = Graph()
        x, scale, bias, mean, var = (Value(graph, name, (3,)) for name in ("x", "scale", "bias", "mean", "var"))
        x = Value(graph, "x", (None, 3, 8))
        y, *moved = training_batch_norm(
            graph, x, scale, bias, mean, var, epsilon=EPSILON, momentum=0.9, names=["y", "m", "v"]
        )
        assert (y.name, y.shape) == ("y", (None, 3, 8))
        assert [(value.name, value.shape) for value in moved] == [("m", (3,)), ("v", (3,))]


def test_a_zero_vector_has_no_gradient_of_its_norm() -> None:
    graph = Graph(taken={"x", "dy"})
    x, dy = (Value(graph, name, (2, 3)) for name in ("x", "dy"))
    graph.op("LpNormalization", x, names=["y"])
    (dx,) = backward(graph, graph.nodes[0], [x], dy)
    feeds = {"x": np.array([[0, 0, 0], [3, 0, 4]], np.float32), "dy": np.ones((2, 3), np.float32)}
    (found,) = run(graph, feeds, [dx.name])
    np.testing.assert_allclose(found, [[0, 0, 0], [(1 - 0.84) / 5, 0.2, (1 - 1.12) / 5]], atol=1e-6)


@pytest.mark.parametrize(
    ("operator", "shapes", "attributes", "what"),
    [
        ("GroupNormalization", [(None, 4, 3), (2,), (2,)], {"num_groups": 2}, "per channel"),
        ("LayerNormalization", [(None, 4, 3), (3,)], {"axis": 1}, "broadcast"),
        ("LayerNormalization", [(None, 3), (3,)], {"stash_type": 11}, "stash_type"),
        ("LpNormalization", [(None, 3)], {"p": 3}, "p = 3"),
        ("InstanceNormalization", [(None, 3, None), (3,), (3,)], {}, "not fixed"),
        ("BatchNormalization", [(None, 3), *[(3,)] * 4], {"training_mode": 1}, "training_mode"),
    ],
)
def test_a_form_without_a_rule_is_refused(operator: str, shapes: Any, attributes: Any, what: str) -> None:
    graph = Graph()
    values = [Value(graph, name, shape) for name, shape in zip("xwbmv", shapes, strict=False)]
    graph.op(operator, *values, names=["y"], **attributes)
    with pytest.raises(UnsupportedOperatorError, match=what):
        backward(graph, graph.nodes[0], values, Value(graph, "dy", shapes[0]))


def sample(shape: tuple[int, ...]) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    drawn = {"x": rng.normal(1.0, 2.0, shape)}
    drawn |= {name: rng.normal(size=shape[1]) for name in ("scale", "bias", "mean")}
    drawn["var"] = rng.uniform(0.5, 2.0, shape[1])
    return {name: array.astype(np.float32) for name, array in drawn.items()}


def normalised(x: Array, scale: Array, bias: Array) -> Array:
    over = (0, *range(2, x.ndim))
    column = (1, -1, *[1] * (x.ndim - 2))
    x_hat = (x - x.mean(over, keepdims=True)) / np.sqrt(x.var(over, keepdims=True) + EPSILON)
    return x_hat * scale.reshape(column) + bias.reshape(column)


def differences(function: Callable[..., Array], feeds: dict[str, Array], dy: Array, wanted: list[str]) -> list[Array]:
    """The gradient of Σ function(*feeds) · dy by central differences in float64."""
    exact = {name: array.astype(np.float64) for name, array in feeds.items()}
    found = []
    for name in wanted:
        gradient = np.zeros_like(exact[name])
        for place in np.ndindex(gradient.shape):
            kept = exact[name][place]
            ends = []
            for h in (1e-6, -1e-6):
                exact[name][place] = kept + h
                ends.append(float((function(*exact.values()) * dy).sum()))
            exact[name][place] = kept
            gradient[place] = (ends[0] - ends[1]) / 2e-6
        found.append(gradient)
    return found


def backward(graph: Graph, proto: onnx.NodeProto, inputs: Sequence[Value], dy: Value) -> list[Value]:
    """The operator's rule, applied to a node of the graph whose first output has the shape of dy."""
    outputs = tuple(Value(graph, name, dy.shape if i == 0 else None) for i, name in enumerate(proto.output))
    node = Node(graph, proto.op_type, "under_test", tuple(inputs), outputs, attributes_of(proto))
    return [value for value in RULES[proto.op_type].gradient(node, dy) if value is not None]


def run(graph: Graph, feeds: dict[str, Array], wanted: list[str]) -> list[Array]:
    kind = helper.np_dtype_to_tensor_dtype
    proto = helper.make_graph(
        graph.nodes,
        "test",
        [helper.make_tensor_value_info(name, kind(array.dtype), array.shape) for name, array in feeds.items()],
        [onnx.ValueInfoProto(name=name) for name in wanted],
        list(graph.constants.values()),
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    return list(ort.InferenceSession(model.SerializeToString()).run(None, feeds))
