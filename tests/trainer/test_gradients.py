"""Every derivative against finite differences in float64, and the laws that derivatives of linear operators obey."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx.reference import ReferenceEvaluator

from edgefl.trainer.gradients import RULES, Node, UnsupportedOperatorError
from edgefl.trainer.gradients.rule import shaped_like, sum_to
from edgefl.trainer.gradients.window import window_of
from edgefl.trainer.graph import Graph, Value
from edgefl.trainer.manifest import Tensor


@dataclass(frozen=True)
class Case:
    """One node under test: y = operator(x + shift, *weights); `shift` makes dx visible as the gradient of a weight."""

    operator: str
    x: tuple[int, ...]
    weights: dict[str, tuple[int, ...]] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    back: dict[str, list[int]] = field(default_factory=dict)
    """What puts the batch first again, where the node moved it: {"Transpose": perm} or {"Reshape": shape}."""

    @property
    def id(self) -> str:
        shapes = ",".join("x".join(map(str, shape)) for shape in (self.x, *self.weights.values()))
        return f"{self.operator}-{shapes}-" + ",".join(f"{k}={v}" for k, v in self.attributes.items()).replace(" ", "")


def C(operator: str, x: tuple[int, ...], *weights: tuple[int, ...], **attributes: Any) -> Case:
    named = dict(zip("wbc", weights, strict=False))
    return Case(operator, x, named, attributes=attributes, inputs=("s", *named))


def pool(operator: str, x: tuple[int, ...], **attributes: Any) -> Case:
    return Case(operator, x, attributes=attributes, inputs=("s",))


CASES = [
    # dense; x is the shape of one sample
    C("MatMul", (4,), (4, 3)),
    C("MatMul", (2, 4), (4, 3)),
    C("MatMul", (2, 3, 4), (4, 3)),
    C("MatMul", (2, 3, 4), (2, 4, 3)),
    C("MatMul", (2, 3, 4), (1, 4, 5)),
    Case("MatMul", (4, 2), {"w": (3, 4)}, inputs=("w", "s")),
    Case("MatMul", (1, 4, 2), {"w": (5, 3, 4)}, inputs=("w", "s")),
    C("Gemm", (4,), (4, 3)),
    C("Gemm", (4,), (4, 3), (3,)),
    C("Gemm", (4,), (4, 3), (1, 3), alpha=0.5, beta=2.0),
    C("Gemm", (4,), (3, 4), (1,), transB=1, alpha=-1.5),
    C("Gemm", (4,), (3, 4), (1, 1), transB=1),
    # elementwise with broadcasting
    *[C(op, (2, 3), shape) for op in ("Add", "Sub", "Mul") for shape in [(2, 3), (3,), (2, 1), (1, 1, 3), (1,), ()]],
    *[Case(op, (3,), {"w": (2, 1, 3)}, inputs=("w", "s"), back={"Transpose": [1, 0, 2]}) for op in ("Sub", "Mul")],
    Case("Mul", (3,), inputs=("s", "s")),
    # activations
    *[C(op, (3, 5)) for op in ("Relu", "Sigmoid", "Tanh")],
    *[C(op, (3, 5), axis=axis) for op in ("Softmax", "LogSoftmax") for axis in (-1, 1, 2)],
    C("Softmax", (5,)),
    # convolution, 1-D and 2-D
    C("Conv", (2, 6), (3, 2, 3)),
    C("Conv", (2, 7), (3, 2, 3), (3,), strides=[2], pads=[1, 0]),
    C("Conv", (17, 6), (2, 17, 3), pads=[1, 1]),
    C("Conv", (1, 4, 4), (2, 1, 3, 3), (2,), pads=[1, 1, 1, 1]),
    C("Conv", (2, 5, 6), (3, 2, 3, 2), (3,)),
    C("Conv", (2, 5, 5), (3, 2, 1, 1), (3,)),
    C("Conv", (2, 5, 5), (3, 2, 1, 1), strides=[2, 2]),
    C("Conv", (2, 6, 6), (2, 2, 3, 3), strides=[2, 3], pads=[0, 1, 1, 0]),
    C("Conv", (2, 7, 7), (2, 2, 2, 2), dilations=[2, 3]),
    C("Conv", (2, 5, 5), (2, 2, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
    C("Conv", (2, 6, 6), (2, 2, 3, 3), auto_pad="SAME_LOWER", strides=[2, 2]),
    C("Conv", (2, 5, 5), (2, 2, 3, 3), auto_pad="VALID"),
    C("Conv", (4, 4, 4), (4, 2, 3, 3), (4,), group=2, pads=[1, 1, 1, 1]),
    C("Conv", (3, 4, 4), (3, 1, 3, 3), group=3, pads=[1, 1, 1, 1], strides=[2, 2]),
    C("Conv", (16, 3, 3), (2, 16, 2, 2), (2,)),
    C("Conv", (16, 4, 5), (2, 16, 2, 2), dilations=[2, 1], pads=[1, 0, 0, 1]),
    # pools
    pool("MaxPool", (2, 6), kernel_shape=[2], strides=[2]),
    pool("MaxPool", (2, 4, 6), kernel_shape=[2, 3], strides=[2, 3]),
    pool("MaxPool", (2, 5, 7), kernel_shape=[2, 2], strides=[2, 2]),
    pool("MaxPool", (1, 5, 5), kernel_shape=[3, 3], strides=[1, 1]),
    pool("MaxPool", (2, 6, 6), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    pool("MaxPool", (2, 5, 5), kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    pool("MaxPool", (1, 5, 5), kernel_shape=[2, 2], dilations=[2, 2]),
    pool("MaxPool", (1, 5, 5), kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    pool("AveragePool", (2, 6), kernel_shape=[2], strides=[2]),
    pool("AveragePool", (2, 4, 6), kernel_shape=[2, 3], strides=[2, 3]),
    pool("AveragePool", (2, 5, 7), kernel_shape=[2, 2], strides=[2, 2]),
    pool("AveragePool", (2, 5, 5), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    pool("AveragePool", (2, 5, 5), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1),
    pool("AveragePool", (2, 6, 6), kernel_shape=[3, 3], strides=[1, 1], auto_pad="SAME_UPPER"),
    pool("AveragePool", (2, 5, 5), kernel_shape=[3, 2], strides=[1, 2]),
    pool("GlobalAveragePool", (3, 4, 5)),
    pool("GlobalAveragePool", (3, 4)),
    # shapes
    C("Identity", (3,)),
    C("Flatten", (2, 3, 4)),
    Case("Flatten", (2, 3), attributes={"axis": 2}, back={"Reshape": [-1, 2, 3]}),
    C("Transpose", (2, 3), perm=[0, 2, 1]),
    Case("Transpose", (2, 3, 4), attributes={"perm": [2, 0, 3, 1]}, back={"Transpose": [1, 3, 0, 2]}),
    Case("Transpose", (2, 3), back={"Transpose": [2, 1, 0]}),
    Case("Reshape", (2, 6), constants={"shape": [-1, 3, 4]}, inputs=("s", "shape")),
    Case("Reshape", (2, 6), constants={"shape": [-1, 4]}, inputs=("s", "shape"), back={"Reshape": [-1, 3, 4]}),
    Case("Reshape", (2, 6), constants={"shape": [0, 4, -1]}, inputs=("s", "shape")),
    Case("Squeeze", (1, 3), constants={"axes": [1]}, inputs=("s", "axes")),
    Case("Unsqueeze", (2, 3), constants={"axes": [1, -1]}, inputs=("s", "axes")),
]


def build_case(case: Case, onnx_model: Any, rng: np.random.Generator) -> onnx.ModelProto:
    weights: dict[str, Any] = {"shift": rng.normal(size=(1, *case.x)).astype(np.float32)}
    weights |= {name: rng.normal(size=shape).astype(np.float32) for name, shape in case.weights.items()}
    weights |= {name: np.array(value, np.int64) for name, value in case.constants.items()}
    nodes = [
        helper.make_node("Add", ["x", "shift"], ["s"], "shift"),
        helper.make_node(case.operator, list(case.inputs or ["s"]), ["y"], "under_test", **case.attributes),
    ]
    for operator, numbers in case.back.items():
        nodes[1].output[0] = "moved"
        if operator == "Transpose":
            nodes.append(helper.make_node("Transpose", ["moved"], ["y"], "back", perm=numbers))
        else:
            weights["back_shape"] = np.array(numbers, np.int64)
            nodes.append(helper.make_node("Reshape", ["moved", "back_shape"], ["y"], "back"))
    return onnx_model(nodes, weights, x=("batch", *case.x))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_gradient_matches_finite_differences(case: Case, onnx_model: Any, session: Any) -> None:
    rng = np.random.default_rng(7)
    model = build_case(case, onnx_model, rng)
    trained = ["shift", *case.weights]
    s = session(model, trainable=trained)
    for batch in (1, 7):
        x = rng.normal(size=(batch, *case.x)).astype(np.float32)
        y = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
        if ReferenceEvaluator(model).run(None, {"x": x})[0].shape != y.shape:
            pytest.skip("the reference implementation of this onnx version pads wrongly")
        target = rng.normal(size=y.shape).astype(np.float32)
        found = s.gradients({"x": x, "target": target})
        expected = finite_differences(model, x, target, trained)
        for name in trained:
            scale = max(1e-3, float(np.abs(expected[name]).max()))
            np.testing.assert_allclose(found[name] / scale, expected[name] / scale, atol=3e-5, err_msg=name)


def finite_differences(model: onnx.ModelProto, x: Any, target: Any, names: list[str]) -> dict[str, Any]:
    """Central differences of the mean squared error, in float64, by the reference implementation of ONNX."""
    double = onnx.ModelProto()
    double.CopyFrom(model)
    kept = [t for t in double.graph.initializer if t.name not in names]
    values = {t.name: onnx.numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}
    del double.graph.initializer[:]
    double.graph.initializer.extend(kept)
    for name in names:
        double.graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, values[name].shape))
    reference = ReferenceEvaluator(double)

    def loss() -> float:
        (y,) = reference.run(None, {"x": x.astype(np.float64), **{name: values[name] for name in names}})
        return float(np.mean((y - target) ** 2))

    gradients = {}
    for name in names:
        gradients[name] = np.zeros_like(values[name])
        for place in np.ndindex(values[name].shape):
            kept_value = values[name][place]
            losses = []
            for h in (1e-5, -1e-5):
                values[name][place] = kept_value + h
                losses.append(loss())
            values[name][place] = kept_value
            gradients[name][place] = (losses[0] - losses[1]) / 2e-5
    return gradients


def test_every_rule_has_a_case() -> None:
    assert {case.operator for case in CASES} == set(RULES)


def run(graph: Graph, inputs: dict[str, Any], result: Value, rank: int) -> Any:
    """The value of `result` on ONNX Runtime, the inputs being declared at their exact shapes."""
    declared = [Tensor(name, array.dtype.name, array.shape) for name, array in inputs.items()]
    model = graph.model("test", declared, [Tensor(result.named("result").name, "float32", (None,) * rank)])
    return ort.InferenceSession(model.SerializeToString()).run(None, inputs)[0]


shapes = st.lists(st.integers(1, 3), min_size=0, max_size=4)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), full=shapes)
def test_undoing_a_broadcast_sums_over_every_copy(data: st.DataObject, full: list[int]) -> None:
    kept = data.draw(st.integers(0, len(full)))
    small = [n if data.draw(st.booleans()) else 1 for n in full[len(full) - kept :]]
    dy = np.random.default_rng(0).normal(size=full).astype(np.float32)
    graph = Graph(taken={"dy"})
    # a dimension that could be the batch is None to the rules: broadcasting must treat it as "not 1"
    known = tuple(None if n > 1 and i == 0 else n for i, n in enumerate(full))
    x_shape = tuple(None if n > 1 and len(small) == len(full) and i == 0 else n for i, n in enumerate(small))
    found = run(graph, {"dy": dy}, sum_to(Value(graph, "dy"), known, Value(graph, "x", x_shape)), len(small))
    copies = np.broadcast_to(np.arange(int(np.prod(small))).reshape(small), full)
    expected = [dy[copies == i].sum(dtype=np.float64) for i in range(int(np.prod(small)))]
    assert found.shape == tuple(small)
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    size=st.tuples(st.integers(3, 7), st.integers(3, 7)),
    groups=st.integers(1, 3),
    channels=st.sampled_from([1, 2, 16]),
)
def test_the_gradients_of_any_convolution_are_its_adjoints(
    kernel: Any, strides: Any, dilations: Any, pads: Any, size: Any, groups: int, channels: int
) -> None:
    """Convolution is linear in x and in w: ⟨dy, conv(u, w)⟩ = ⟨dx, u⟩ and ⟨dy, conv(x, v)⟩ = ⟨dw, v⟩."""
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    assume(all(n + a + b >= s for n, a, b, s in zip(size, pads[:2], pads[2:], spans, strict=True)))
    rng = np.random.default_rng(0)
    shapes = {"x": (3, groups * channels, *size), "w": (2 * groups, channels, *kernel)}
    x, w, u, v = (rng.normal(size=shapes[name]).astype(np.float32) for name in "xwxw")
    attributes = {"strides": strides, "dilations": dilations, "pads": pads, "group": groups}

    def conv(left: Any, right: Any) -> Any:
        graph = Graph(taken={"x", "w"})
        y = graph.op("Conv", Value(graph, "x"), Value(graph, "w"), **attributes)
        return run(graph, {"x": left, "w": right}, y, 4)

    dy = rng.normal(size=conv(x, w).shape).astype(np.float32)
    found = {}
    for i, name in enumerate("xw"):
        graph = Graph(taken={"x", "w", "dy"})
        given_ = tuple(Value(graph, n, (None, *shapes[n][1:]) if n == "x" else shapes[n]) for n in "xw")
        y = Value(graph, "y", (None, *dy.shape[1:]))
        node = Node(graph, "Conv", "conv", given_, (y,), attributes)
        gradient = RULES["Conv"].gradient(node, Value(graph, "dy"))[i]
        assert gradient is not None
        found[name] = run(graph, {"x": x, "w": w, "dy": dy}, gradient, 4)
        assert found[name].shape == shapes[name]
    near = {"rel": 1e-3, "abs": 1e-3 * float(np.linalg.norm(dy))}
    assert np.vdot(dy, conv(u, w)) == pytest.approx(np.vdot(found["x"], u), **near)
    assert np.vdot(dy, conv(x, v)) == pytest.approx(np.vdot(found["w"], v), **near)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"strides": [2, 2]}, [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]),
        ({"strides": [1, 1]}, [[1, 2, 3, 0], [4, 5, 6, 0], [7, 8, 9, 0], [0, 0, 0, 0]]),
    ],
    ids=["side-by-side", "overlapping"],
)
def test_the_first_of_equal_maxima_takes_the_whole_gradient(attributes: Any, expected: Any) -> None:
    """Flat background, as in every image of a digit."""
    x = np.zeros((1, 1, 4, 4), np.float32)
    side = 2 if attributes["strides"] == [2, 2] else 3
    dy = np.arange(1, side * side + 1, dtype=np.float32).reshape(1, 1, side, side)
    graph = Graph(taken={"x", "dy", "y"})
    attributes = {"kernel_shape": [2, 2], **attributes}
    graph.op("MaxPool", Value(graph, "x"), names=["y"], **attributes)
    values = Value(graph, "x", (None, 1, 4, 4)), Value(graph, "y", (None, 1, side, side))
    node = Node(graph, "MaxPool", "pool", values[:1], values[1:], attributes)
    (dx,) = RULES["MaxPool"].gradient(node, Value(graph, "dy"))
    assert dx is not None
    assert run(graph, {"x": x, "dy": dy}, dx, 4).tolist() == [[expected]]


def test_relu_passes_nothing_at_zero_and_everything_above() -> None:
    y = np.array([0.0, 1.2e-38, 1e-20, 1.0, 3e38, np.inf], np.float32)
    graph = Graph(taken={"y", "dy"})
    node = Node(graph, "Relu", "", (), (Value(graph, "y", (6,)),), {})
    (dx,) = RULES["Relu"].gradient(node, Value(graph, "dy"))
    assert dx is not None
    assert run(graph, {"y": y, "dy": np.full(6, 2, np.float32)}, dx, 1).tolist() == [0, 2, 2, 2, 2, 2]


def test_a_shape_with_two_open_dimensions_is_read_from_the_tensor() -> None:
    graph = Graph(taken={"dy", "x"})
    x = np.zeros((2, 3, 2), np.float32)
    shaped = shaped_like(Value(graph, "dy"), Value(graph, "x", (None, 3, None)))
    assert run(graph, {"dy": np.zeros((3, 4), np.float32), "x": x}, shaped, 3).shape == x.shape


def test_a_window_that_contradicts_its_input_is_refused() -> None:
    x = Value(Graph(), "x", (None, 1, 4, 4))
    for attributes in ({"strides": [1]}, {"pads": [1, 1]}, {"pads": [-1, 0, 0, 0]}, {"dilations": [1, 1, 1]}):
        with pytest.raises(UnsupportedOperatorError, match="do not fit"):
            window_of(Node(x.graph, "Conv", "conv", (x,), (x,), attributes), (3, 3))
    wide = Value(Graph(), "x", (None, 1, None, 4))
    with pytest.raises(UnsupportedOperatorError, match="not fixed"):
        window_of(Node(wide.graph, "Conv", "conv", (wide,), (wide,), {}), (3, 3))


@pytest.mark.parametrize(
    ("case", "what"),
    [
        (pool("AveragePool", (2, 5, 5), kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1), "ceil_mode"),
        (pool("MaxPool", (2, 5, 5), kernel_shape=[3, 3], storage_order=1), "storage_order"),
        (C("MatMul", (4,), (4,)), "vector"),
    ],
    ids=["ceil", "storage-order", "vector"],
)
def test_a_form_without_a_rule_is_refused_by_name(case: Case, what: str, onnx_model: Any, session: Any) -> None:
    with pytest.raises(UnsupportedOperatorError, match=what) as caught:
        session(build_case(case, onnx_model, np.random.default_rng(0)))
    assert "under_test" in caught.value.cause
