"""Operators that pick, join or repeat elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from support.gradient_cases import Case, check, finite_differences, forward, small_model

from edgefl.errors import UnsupportedOperatorError
from edgefl.trainer.gradients import RULES, Node
from edgefl.trainer.graph import IR_VERSION, OPSET, Array, Graph, Value

INT_MAX, INT_MIN = 2**63 - 1, -(2**63)


def of_samples(operator: str, x: tuple[int, ...], constants: dict[str, Any], **more: Any) -> Case:
    """x + shift, then constants: lists of int64, or arrays; None for an absent one."""
    given_ = {name: value for name, value in constants.items() if value is not None}
    inputs = ("s", *(name if name in given_ else "" for name in constants))
    note = "-".join(f"{name}{np.array(value).tolist()}" for name, value in given_.items()).replace(" ", "")
    return Case(operator, x, constants=given_, inputs=inputs, note=note, opset=19, **more)


def of_weights(
    operator: str, w: tuple[int, ...], constants: dict[str, Any], *updates: tuple[int, ...], **attributes: Any
) -> Case:
    """A weight, then constants, then another weight; the result, times each sample, is y."""
    weights = dict(zip(("w", "u"), (w, *updates), strict=False))
    inputs = ("w", *constants, *list(weights)[1:])
    tail = (("Mul", ["s", "z"], ["y"], {}),)
    note = "-".join(str(np.array(value).tolist()) for value in constants.values()).replace(" ", "")
    return Case(operator, (1, 3), weights, constants, attributes, inputs, ("z",), tail=tail, note=note, opset=19)


CASES = [
    *[Case("Concat", (2, 3), attributes={"axis": axis}, inputs=("s",) * k) for axis, k in [(1, 2), (-1, 3), (2, 1)]],
    Case("Split", (3, 2), attributes={"axis": 1, "num_outputs": 3}, outputs=("a", "y", "b"), opset=18),
    of_samples("Split", (2, 6), {"n": [1, 2, 3]}, attributes={"axis": -1}, outputs=("a", "b", "y")),
    of_samples(
        "Split",
        (2, 6),
        {"n": [2, 2, 2]},
        attributes={"axis": 2},
        outputs=("a", "b", "c"),
        tail=(("Mul", ["a", "c"], ["y"], {}),),
    ),
    of_samples("Slice", (4, 5), {"starts": [1, 0], "ends": [3, INT_MAX], "axes": [1, 2]}),
    of_samples("Slice", (4, 5), {"starts": [-2, 4], "ends": [9, INT_MIN], "axes": [-2, -1], "steps": [1, -2]}),
    of_samples("Slice", (4, 5), {"starts": [0, 1], "ends": [INT_MAX, 2]}),
    *[
        of_samples("Gather", (4, 3), {"i": np.array(indices, dtype)}, attributes={"axis": axis})
        for indices, dtype, axis in [
            (-1, np.int64, 1),
            ([3, 0], np.int32, 1),
            ([0, 2, 2, -1], np.int64, -1),
            ([[3, 0], [1, 1]], np.int64, 1),
        ]
    ],
    of_weights("Gather", (5, 3), {"i": np.array(2)}),
    of_weights("GatherElements", (4, 3), {"i": np.array([[0, -1, 0]])}, axis=0),
    of_weights("GatherND", (4, 2, 3), {"i": np.array([-1, 0])}),
    of_weights("GatherND", (4, 2), {"i": np.array([[0, 1], [3, -1], [0, 1]])}),
    of_weights("ScatterElements", (1, 3), {"i": np.array([[2, 0]])}, (1, 2), axis=1),
    of_weights("ScatterElements", (1, 3), {"i": np.array([[2, 2]])}, (1, 2), axis=-1, reduction="add"),
    of_weights("ScatterND", (3,), {"i": np.array([[2], [0]])}, (2,)),
    of_weights("ScatterND", (2, 3), {"i": np.array([[1], [1]])}, (2, 3), reduction="add"),
    of_samples("Pad", (2, 3), {"pads": [0, 1, 0, 0, 2, 1], "c": np.array(0.5, np.float32)}),
    of_samples("Pad", (2, 3), {"pads": [1, 2], "c": None, "axes": [-1]}),
    *[
        of_samples("Pad", (4, 5), {"pads": [1, 2, 0, 3], "c": None, "axes": [1, 2]}, attributes={"mode": mode})
        for mode in ("reflect", "edge", "wrap")
    ],
    of_samples("Expand", (2, 1), {"shape": [2, 3]}),
    of_weights("Expand", (3,), {"shape": [1, 2, 1]}),
    of_samples("Tile", (2, 3), {"repeats": [1, 2, 3]}),
    *[Case("Trilu", (3, 3), attributes={"upper": upper}) for upper in (0, 1)],
    of_samples("Trilu", (3, 4), {"k": np.array(-1)}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_gradient_matches_finite_differences(case: Case, session: Any) -> None:
    check(case, session)


def load(graph: Graph, feeds: dict[str, Array], result: Value, threads: int = 1) -> ort.InferenceSession:
    """A session that computes a result of unknown rank."""
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    outputs = [helper.make_tensor_value_info(result.name, 1, None)]
    body = helper.make_graph(graph.nodes, "test", inputs, outputs, list(graph.constants.values()))
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(model.SerializeToString(), options)


def compute(graph: Graph, feeds: dict[str, Array], result: Value) -> Array:
    found: Array = load(graph, feeds, result).run(None, feeds)[0]
    return found


def check_picking(
    operator: str,
    shape: tuple[int, ...],
    *others: Array | None,
    computed: tuple[int, ...] = (),
    **attributes: Any,
) -> None:
    """A node that only picks elements of x makes, from 1, 2, 3, …, a y that says which element of x is where (0: none).
    The gradient of an element is the sum of dy over the places where it is. The first dimension of x is open; `others`
    are constants but for the inputs in `computed`."""
    graph = Graph(taken={"x", "y", "dy"})
    feeds: dict[str, Array] = {"x": np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape)}
    values: list[Value | None] = [Value(graph, "x", (None, *shape[1:]))]
    for slot, other in enumerate(others, 1):
        if other is None or slot not in computed:
            values.append(None if other is None else graph.constant(other))
        else:
            name = graph.fresh("other")
            feeds[name] = other
            values.append(Value(graph, name, other.shape))
    y = graph.op(operator, *values, names=["y"], **attributes)
    origin = compute(graph, feeds, y).astype(int)
    if not origin.size:
        return
    dy = np.random.default_rng(0).integers(-8, 8, origin.shape).astype(np.float32)
    node = Node(graph, operator, "", tuple(values), (Value(graph, "y", (None, *origin.shape[1:])),), attributes)
    dx = RULES[operator].gradient(node, Value(graph, "dy"))[0]
    assert dx is not None
    found = compute(graph, {**feeds, "dy": dy}, dx)
    expected = np.bincount(origin.ravel(), dy.ravel(), 1 + np.prod(shape))[1:].reshape(shape)
    np.testing.assert_array_equal(found, expected)


shapes = st.tuples(st.integers(1, 4), st.integers(2, 5), st.integers(1, 3))
bounds = st.integers(-7, 7)
cuts = st.tuples(bounds | st.just(INT_MIN), bounds | st.just(INT_MAX), st.integers(1, 3)) | st.tuples(
    bounds | st.just(INT_MAX), bounds | st.just(INT_MIN), st.integers(-2, -1)
)


@settings(max_examples=100, deadline=None)
@given(
    shape=shapes,
    cuts=st.dictionaries(st.integers(0, 2), cuts, min_size=1),
    counted_from=st.sampled_from([0, -3]),
    computed=st.booleans(),
    dtype=st.sampled_from([np.int64, np.int32]),
)
def test_any_slice(shape: Any, cuts: Any, counted_from: int, computed: bool, dtype: Any) -> None:
    limits = np.iinfo(dtype)
    columns = zip(*cuts.values(), strict=True)
    starts, ends, steps = (np.array([min(max(i, limits.min), limits.max) for i in c], dtype) for c in columns)
    axes = np.array([axis + counted_from for axis in cuts], dtype)
    check_picking("Slice", shape, starts, ends, axes, steps, computed=(1, 2, 4) if computed else ())


@settings(max_examples=100, deadline=None)
@given(shape=shapes, axis=st.integers(-3, 2), data=st.data(), computed=st.booleans())
def test_any_gather(shape: Any, axis: int, data: st.DataObject, computed: bool) -> None:
    size = shape[axis]
    places = st.integers(-size, size - 1)
    picked = data.draw(places | st.lists(places, min_size=1, max_size=5) | st.just([[0, -1], [size - 1, 0]]))
    dtype = data.draw(st.sampled_from([np.int64, np.int32]))
    check_picking("Gather", shape, np.array(picked, dtype), computed=(1,) if computed else (), axis=axis)


@settings(max_examples=20, deadline=None)
@given(shape=shapes, axis=st.integers(-3, 2), seed=st.integers(0, 9))
def test_any_gather_of_elements_and_points(shape: Any, axis: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    check_picking("GatherElements", shape, rng.integers(-shape[axis], shape[axis], shape), computed=(1,), axis=axis)
    depth = rng.integers(1, 4)
    points = np.stack([rng.integers(-size, size, (2, 4)) for size in shape[:depth]], -1)
    check_picking("GatherND", shape, points[0] if seed % 2 else points, computed=(1,) if seed % 3 else ())


added = st.tuples(st.integers(0, 2), st.integers(0, 2))
changed = st.tuples(st.integers(-1, 2), st.integers(-1, 2))


@settings(max_examples=40, deadline=None)
@given(size=st.integers(3, 5), batch=added, middle=changed, last=added, named=st.booleans())
def test_any_padding(size: int, batch: Any, middle: Any, last: Any, named: bool) -> None:
    edges, axes = ([last, batch, middle], np.array([2, 0, -2])) if named else ([batch, middle, last], None)
    check_picking("Pad", (2, size, 1), np.array(edges).T.ravel(), None, axes)


@pytest.mark.parametrize("computed", [(), (1,)], ids=["constant", "computed"])
def test_repeats_and_shapes_may_depend_on_the_batch(computed: tuple[int, ...]) -> None:
    check_picking("Tile", (2, 3, 1), np.array([3, 1, 2]), computed=computed)
    check_picking("Expand", (2, 1, 3), np.array([2, 4, 1]), computed=computed)
    check_picking("Expand", (5, 3), np.array([2, 1, 3]), computed=computed)


def test_sums_over_equal_places_are_exact_on_several_threads() -> None:
    """Where ScatterND in place of ScatterElements loses some."""
    places = np.random.default_rng(0).integers(0, 3, 20_000)
    feeds = {"i": places, "dy": np.ones((len(places), 64), np.float32)}
    graph = Graph(taken={"x", "i", "dy"})
    values = Value(graph, "x", (3, 64)), Value(graph, "i", places.shape)
    node = Node(graph, "Gather", "", values, (Value(graph, "y", feeds["dy"].shape),), {})
    (dx,) = RULES["Gather"].gradient(node, Value(graph, "dy"))
    assert dx is not None
    session = load(graph, feeds, dx, threads=2)
    expected = np.tile(np.bincount(places)[:, None], 64)
    for _ in range(20):
        np.testing.assert_array_equal(session.run(None, feeds)[0], expected)


def test_a_concatenation_along_the_batch_is_split_where_its_parts_met() -> None:
    graph = Graph(taken={"a", "b", "dy"})
    feeds = {"a": np.zeros((2, 2), np.float32), "b": np.zeros((1, 2), np.float32)}
    values = tuple(Value(graph, name, (None, 2)) for name in feeds)
    node = Node(graph, "Concat", "", values, (Value(graph, "y", (None, 2)),), {"axis": -2})
    parts = RULES["Concat"].gradient(node, Value(graph, "dy"))
    feeds["dy"] = np.arange(6, dtype=np.float32).reshape(3, 2)
    found = [compute(graph, feeds, part).tolist() for part in parts if part is not None]
    assert found == [[[0, 1], [2, 3]], [[4, 5]]]


@pytest.mark.parametrize("pooled", [1, -1])
def test_a_table_is_trained_by_what_the_input_looks_up(pooled: int, session: Any) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], "whole", to=6),
        helper.make_node("Gather", ["w", "i"], ["rows"], "look_up"),
        helper.make_node("ReduceMax", ["rows", "axes"], ["y"], "pool", keepdims=0),
    ]
    rng = np.random.default_rng(3)
    table = rng.normal(size=(6, 2)).astype(np.float32)
    model = small_model(nodes, {"w": table, "axes": np.array([pooled])}, x=("batch", 4), opset=18)
    x = rng.integers(-6, 6, (5, 4)).astype(np.float32)
    target = rng.normal(size=forward(model, x).shape).astype(np.float32)
    found = session(model, trainable=["w"]).gradients({"x": x, "target": target})["w"]
    np.testing.assert_allclose(found, finite_differences(model, x, target, ["w"])["w"], atol=1e-6)


@pytest.mark.parametrize(
    ("operator", "others", "attributes", "what"),
    [
        ("GatherND", [2], {"batch_dims": 1}, "batch_dims"),
        ("ScatterElements", [2, 2], {"reduction": "mul"}, "reduction 'mul'"),
        ("ScatterND", [2, 2], {"reduction": "max"}, "reduction 'max'"),
        ("Pad", [2], {}, "pads are computed"),
        ("Slice", [1, 1, 1], {}, "axes are computed"),
    ],
)
def test_a_form_without_a_rule_is_refused_by_name(operator: str, others: list[int], attributes: Any, what: str) -> None:
    graph = Graph()
    x = Value(graph, "x", (None, 3))
    values = (x, *(Value(graph, f"i{i}", (size,)) for i, size in enumerate(others)))
    with pytest.raises(UnsupportedOperatorError, match=what):
        RULES[operator].gradient(Node(graph, operator, "here", values, (x,), attributes), x)


def test_padding_refuses_what_it_cannot_undo() -> None:
    graph = Graph()
    for axis, pads, what in [(0, [1, 1], "not fixed"), (1, [1, -1], "negative pads")]:
        values = (Value(graph, "x", (None, 3)), graph.constant(np.array(pads)), None, graph.constant(np.array([axis])))
        node = Node(graph, "Pad", "here", values, (Value(graph, "y", (None, 3)),), {"mode": "edge"})
        with pytest.raises(UnsupportedOperatorError, match=what):
            RULES["Pad"].gradient(node, Value(graph, "dy"))


def test_a_split_whose_output_has_no_name_is_refused() -> None:
    """ONNX Runtime 1.32 loads such a model, and dies when it runs."""
    x = Value(Graph(), "x", (None, 3))
    with pytest.raises(UnsupportedOperatorError, match="no name"):
        RULES["Split"].gradient(Node(x.graph, "Split", "here", (x,), (x,), {}), x, None)
