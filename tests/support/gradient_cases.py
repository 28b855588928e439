"""One operator under test: a small model around it, its gradients on ONNX Runtime, and finite differences in float64 by
the reference implementation of ONNX as the judge.

A family's test module lists `CASES` and hands each to `check`. The loss is the mean squared error against random
numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgefl import trainer
from edgefl.trainer.files.manifest import Tensor
from edgefl.trainer.graph import Graph, Value

TOLERANCE = 3e-5
"""Of the largest element of a gradient: float32 on one side, differences in float64 on the other."""

Tail = tuple[str, list[str], list[str], dict[str, Any]]
"""(operator, inputs, outputs, attributes) of a node behind the one under test."""


@dataclass(frozen=True)
class Case:
    """y = operator(x + shift, *weights). `shift` is trained, so that dx shows as the gradient of a weight.

    x            shape of one sample; the batch comes before it
    weights      further trained inputs: name -> shape
    constants    inputs that are not trained: name -> number, list (int64) or array
    inputs       names of the node's inputs in order; "s" is x + shift, "" an absent one
    outputs      names of the node's outputs; the tail must make "y" of them unless "y" is one
    back         puts the batch first again, where the node moved it: {"Transpose": perm} or {"Reshape": shape}
    tail         nodes behind the one under test
    low, high    x + shift and the weights are drawn evenly from here instead of from a normal distribution
    tolerance    where float32 is less exact than usual, with the reason beside the case
    """

    operator: str
    x: tuple[int, ...]
    weights: dict[str, tuple[int, ...]] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ("y",)
    back: dict[str, list[int]] = field(default_factory=dict)
    tail: tuple[Tail, ...] = ()
    low: float | None = None
    high: float | None = None
    opset: int = 17
    tolerance: float = TOLERANCE
    note: str = ""

    @property
    def id(self) -> str:
        shapes = ",".join("x".join(map(str, shape)) for shape in (self.x, *self.weights.values()))
        attributes = ",".join(f"{k}={v}" for k, v in self.attributes.items()).replace(" ", "")
        return "-".join(filter(None, (self.operator, shapes, attributes, self.note)))

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        values = rng.normal(size=shape) if self.low is None else rng.uniform(self.low, self.high or 1.0, shape)
        return values.astype(np.float32)


def C(operator: str, x: tuple[int, ...], *weights: tuple[int, ...], **attributes: Any) -> Case:
    """The usual case: x first, trained weights b, c, … behind it."""
    named = dict(zip("wbc", weights, strict=False))
    return Case(operator, x, named, attributes=attributes, inputs=("s", *named))


def build_case(case: Case, rng: np.random.Generator) -> onnx.ModelProto:
    """The model of a case: input x [batch, *case.x], output y."""
    shift = case.draw(rng, (1, *case.x))
    if case.low is not None:
        shift = np.zeros_like(shift)
    weights: dict[str, Any] = {"shift": shift}
    weights |= {name: case.draw(rng, shape) for name, shape in case.weights.items()}
    weights |= {
        name: value if isinstance(value, np.ndarray) else np.array(value, np.int64)
        for name, value in case.constants.items()
    }
    nodes = [
        helper.make_node("Add", ["x", "shift"], ["s"], "shift"),
        helper.make_node(
            case.operator, list(case.inputs or ["s"]), list(case.outputs), "under_test", **case.attributes
        ),
    ]
    for operator, numbers in case.back.items():
        nodes[1].output[0] = "moved"
        if operator == "Transpose":
            nodes.append(helper.make_node("Transpose", ["moved"], ["y"], "back", perm=numbers))
        else:
            weights["back_shape"] = np.array(numbers, np.int64)
            nodes.append(helper.make_node("Reshape", ["moved", "back_shape"], ["y"], "back"))
    nodes += [helper.make_node(op, ins, outs, f"tail{i}", **at) for i, (op, ins, outs, at) in enumerate(case.tail)]
    return small_model(nodes, weights, x=("batch", *case.x), opset=case.opset)


def small_model(
    nodes: list[onnx.NodeProto],
    weights: dict[str, Any],
    *,
    x: tuple[int | str, ...],
    outputs: tuple[str, ...] = ("y",),
    opset: int = 17,
) -> onnx.ModelProto:
    """A model with the one float32 input x."""
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    ir_version = 8 if opset < 19 else 10 if opset < 23 else 11
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    return onnx.shape_inference.infer_shapes(model)


def check(case: Case, session: Callable[..., trainer.Session], **options: Any) -> None:
    """The gradient of every weight agrees with finite differences, for a batch of 1 and of 7; where samples keep to
    themselves, so does the sum over parts of the batch."""
    rng = np.random.default_rng(7)
    model = build_case(case, rng)
    trained = ["shift", *case.weights]
    with mock.patch("edgefl.trainer.building.divisible.MIN_USES", 0):
        s = session(model, trainable=trained, **options)
    sessions = [s, trainer.Session(s.directory, threads=3)] if s.manifest.divisible else [s]
    for batch in (1, 7):
        x = case.draw(rng, (batch, *case.x))
        y = forward(model, x)
        if ReferenceEvaluator(model).run(None, {"x": x})[0].shape != y.shape:
            pytest.skip("the reference implementation of this onnx version gives another shape")
        target = rng.normal(size=y.shape).astype(np.float32)
        expected = finite_differences(model, x, target, trained)
        for found in (each.gradients({"x": x, "target": target}) for each in sessions):
            for name in trained:
                scale = max(1e-3, float(np.abs(expected[name]).max()))
                np.testing.assert_allclose(
                    found[name] / scale, expected[name] / scale, atol=case.tolerance, rtol=0, err_msg=name
                )


def forward(model: onnx.ModelProto, x: Any) -> Any:
    """y by ONNX Runtime."""
    return ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


def finite_differences(model: onnx.ModelProto, x: Any, target: Any, names: list[str]) -> dict[str, Any]:
    """Central differences of the mean squared error, in float64, by the reference implementation of ONNX."""
    double = onnx.ModelProto()
    double.CopyFrom(model)
    kept = [t for t in double.graph.initializer if t.name not in names]
    for tensor in kept:  # constants of the same type as what they meet
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    values = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer if t.name in names}
    kept = [onnx.TensorProto.FromString(t.SerializeToString()) for t in kept]
    del double.graph.initializer[:]
    double.graph.initializer.extend(kept)
    for name in names:
        double.graph.input.append(helper.make_tensor_value_info(name, TensorProto.DOUBLE, values[name].shape))
    reference = ReferenceEvaluator(double)

    def loss() -> float:
        y = reference.run(None, {"x": x.astype(np.float64), **{name: values[name] for name in names}})[0]
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


def run(graph: Graph, inputs: dict[str, Any], result: Value, rank: int) -> Any:
    """The value of `result` on ONNX Runtime, the inputs being declared at their exact shapes."""
    declared = [Tensor(name, array.dtype.name, array.shape) for name, array in inputs.items()]
    (name,) = graph.name_results([result], ["result"])
    model = graph.model("test", declared, [Tensor(name, "float32", (None,) * rank)])
    return ort.InferenceSession(model.SerializeToString()).run(None, inputs)[0]
