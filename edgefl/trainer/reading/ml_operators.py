"""The operators of ai.onnx.ml that scikit-learn's converter writes, in standard ones.

The device runs standard operators alone, and weights must be initializers, where the converter keeps those of linear
models in attributes. So the user's model itself is rewritten, and what comes back after training is the standard form:

    Scaler                (x - offset) · scale
    LinearRegressor       x · W + b
    LinearClassifier      x · W + b, then Softmax; the label by ArgMax
    Normalizer            nothing, where its rows add up to one already
    ArrayFeatureExtractor Gather
    ZipMap                nothing: the probabilities as a matrix

Two probabilities 1 - p and p, p = Sigmoid(z), become Softmax([0, z]): the same numbers, with logits to train on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edgefl.errors import ModelError
from edgefl.trainer.graph import attributes_of
from edgefl.trainer.reading.flat_graph import STANDARD, described, name_apart, unsupported

DOMAIN = "ai.onnx.ml"

MAX_CLASSES = 1 << 16
"""Of a linear classifier: as many tensors as a manifest may list."""

WITHOUT_GRADIENT = (
    "linear models and multi-layer perceptrons of scikit-learn can be trained, behind a StandardScaler or Normalizer; "
    "convert the pipeline without its other steps"
)
"""The hint for what cannot be rewritten: trees, vector machines, encoders."""

Nodes = list[onnx.NodeProto]


class _Rewriting:
    """The model's graph, and names for what is added to it."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.graph = proto.graph
        self.count = 1
        self.opset = next((o.version for o in proto.opset_import if o.domain in STANDARD), 0)
        self.makers = {name: node for node in proto.graph.node for name in node.output}
        self.taken = {name for node in proto.graph.node for name in (*node.input, *node.output)}
        self.taken.update(tensor.name for tensor in proto.graph.initializer)

    def fresh(self, hint: str) -> str:
        name = hint
        while name in self.taken:
            self.count += 1
            name = f"{hint}~{self.count}"
        self.taken.add(name)
        return name

    def weight(self, array: npt.NDArray[Any], hint: str) -> str:
        name = self.fresh(hint)
        self.graph.initializer.append(numpy_helper.from_array(array, name))
        return name


def in_standard_operators(proto: onnx.ModelProto) -> None:
    """Rewrite the model in place, as far as it can be; other nodes of the domain stay, for the caller to refuse."""
    if not any(node.domain == DOMAIN for node in proto.graph.node):
        return
    state = _Rewriting(proto)
    nodes: Nodes = []
    for node in proto.graph.node:
        form = _FORMS.get(node.op_type) if node.domain == DOMAIN else None
        nodes.extend(form(node, state) if form else [node])
    nodes = [made for node in nodes for made in _binary(node, state)]
    name_apart(nodes)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    _drop_unused_domain(proto)


def _scaler(node: onnx.NodeProto, state: _Rewriting) -> Nodes:
    attributes = attributes_of(node)
    x, moved = state.fresh(f"{node.output[0]}.float"), state.fresh(f"{node.output[0]}.moved")
    nodes = [helper.make_node("Cast", node.input, [x], node.name, to=onnx.TensorProto.FLOAT)]
    for operator, name, default, inputs in (("Sub", "offset", 0.0, [x, moved]), ("Mul", "scale", 1.0, [moved, ""])):
        numbers = state.fresh(f"{node.output[0]}.{name}")
        value = numpy_helper.from_array(np.array(attributes.get(name, [default]), np.float32), numbers)
        nodes.append(helper.make_node("Constant", [], [numbers], value=value))  # no initializer: nobody trains it
        nodes.append(helper.make_node(operator, [inputs[0], numbers], [inputs[1] or node.output[0]], node.name))
    return nodes


def _linear(node: onnx.NodeProto, state: _Rewriting, rows: int, halved: bool) -> tuple[Nodes, str]:
    """x · W + b, and its name. `halved`: the one row w stands for two classes with the logits -w/2 and w/2."""
    attributes = attributes_of(node)
    coefficients = np.array(attributes.get("coefficients", []), np.float32)
    if rows < 1 or coefficients.size < rows or coefficients.size % rows:
        raise ModelError(
            f"{described(node, 1)}, whose {coefficients.size} coefficients do not fit {rows} rows",
            hint="export the model again",
        )
    weight = coefficients.reshape(rows, -1).T
    bias = np.array(attributes.get("intercepts") or [0.0] * rows, np.float32)
    if halved:
        halves = np.array([-0.5, 0.5], np.float32)
        weight, bias = weight[:, -1:] * halves, bias[-1:] * halves
    x, product, result = (state.fresh(f"{node.output[-1]}.{part}") for part in ("float", "product", "linear"))
    nodes = [
        helper.make_node("Cast", node.input, [x], node.name, to=onnx.TensorProto.FLOAT),
        helper.make_node(
            "MatMul", [x, state.weight(weight, f"{node.name or node.op_type}.weight")], [product], node.name
        ),
        helper.make_node(
            "Add", [product, state.weight(bias, f"{node.name or node.op_type}.bias")], [result], node.name
        ),
    ]
    return nodes, result


def _regressor(node: onnx.NodeProto, state: _Rewriting) -> Nodes:
    attributes = attributes_of(node)
    _require_transform(node, attributes.get("post_transform", "NONE"), ("NONE",))
    nodes, _ = _linear(node, state, attributes.get("targets", 1), halved=False)
    nodes[-1].output[0] = node.output[0]
    return nodes


def _classifier(node: onnx.NodeProto, state: _Rewriting) -> Nodes:
    attributes = attributes_of(node)
    transform = attributes.get("post_transform", "NONE")
    _require_transform(node, transform, ("NONE", "LOGISTIC", "SOFTMAX"))
    labels = list(attributes.get("classlabels_ints") or attributes.get("classlabels_strings") or [])
    coefficients = np.array(attributes.get("coefficients", []), np.float32)
    rows = max(1, len(attributes.get("intercepts") or labels))
    if not 2 <= len(labels) <= MAX_CLASSES or rows not in (1, len(labels)):
        raise unsupported(node, 1, f" with {rows} rows for {len(labels)} classes", "export the model again")
    two = coefficients.reshape(rows, -1) if len(labels) == 2 and coefficients.size % rows == 0 else None
    opposite = two is not None and (rows == 1 or np.array_equal(two[0], -two[1]))
    nodes, scores = _linear(node, state, rows, halved=bool(opposite and transform == "LOGISTIC"))
    operator = {"NONE": "Identity", "SOFTMAX": "Softmax"}.get(transform, "Softmax" if opposite else "Sigmoid")
    places, classes = state.fresh(f"{node.output[0]}.place"), state.fresh(f"{node.output[0]}.classes")
    last = helper.make_node(operator, [scores], [node.output[1]], node.name)
    if operator == "Softmax":
        last.attribute.append(helper.make_attribute("axis", 1))
    known = helper.make_tensor(
        classes,
        onnx.TensorProto.STRING if isinstance(labels[0], (bytes, str)) else onnx.TensorProto.INT64,
        [len(labels)],
        labels,
    )
    return [
        *nodes,
        last,
        helper.make_node("ArgMax", [node.output[1]], [places], node.name, axis=1, keepdims=0),
        helper.make_node("Constant", [], [classes], value=known),
        helper.make_node("Gather", [classes, places], [node.output[0]], node.name, axis=0),
    ]


def _normalizer(node: onnx.NodeProto, state: _Rewriting) -> Nodes:
    norm = attributes_of(node).get("norm", "MAX")
    maker = state.makers.get(node.input[0])
    if norm == "L1" and maker is not None and _sums_to_one(maker):
        return [helper.make_node("Identity", node.input, node.output, node.name)]
    _require_transform(node, norm, ("L1", "L2"))
    x = state.fresh(f"{node.output[0]}.float")
    return [
        helper.make_node("Cast", node.input, [x], node.name, to=onnx.TensorProto.FLOAT),
        helper.make_node("LpNormalization", [x], node.output, node.name, axis=-1, p=int(norm[1])),
    ]


def _sums_to_one(maker: onnx.NodeProto) -> bool:
    return maker.op_type == "LinearClassifier" and attributes_of(maker).get("post_transform") == "SOFTMAX"


def _extractor(node: onnx.NodeProto, state: _Rewriting) -> Nodes:
    known = next((tensor for tensor in state.graph.initializer if tensor.name == node.input[0]), None)
    if known is None or len(known.dims) != 1:
        raise unsupported(node, 1, ", which takes columns of what is computed", WITHOUT_GRADIENT)
    row, shape = state.fresh(f"{node.output[0]}.row"), state.fresh(f"{node.output[0]}.shape")
    value = numpy_helper.from_array(np.array([1, -1]), shape)
    return [
        helper.make_node("Constant", [], [shape], value=value),
        helper.make_node("Reshape", [node.input[1], shape], [row], node.name),
        helper.make_node("Gather", [node.input[0], row], node.output, node.name, axis=0),
    ]


def _zip_map(node: onnx.NodeProto, state: _Rewriting) -> Nodes:
    classes = len(attributes_of(node).get("classlabels_int64s") or attributes_of(node).get("classlabels_strings") or [])
    for value in state.graph.output:
        if value.name == node.output[0]:
            value.CopyFrom(helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, [None, classes]))
    return [helper.make_node("Identity", node.input, node.output, node.name)]


def _binary(node: onnx.NodeProto, state: _Rewriting) -> Nodes:
    """Concat(1 - p, p) with p = Sigmoid(z) as Softmax(Concat(z - z, z))."""
    if node.op_type != "Concat" or len(node.input) != 2:
        return [node]
    other, p = (state.makers.get(name) for name in node.input)
    if (
        other is None
        or p is None
        or (other.op_type, p.op_type) != ("Sub", "Sigmoid")
        or other.input[1] != node.input[1]
    ):
        return [node]
    one = next((tensor for tensor in state.graph.initializer if tensor.name == other.input[0]), None)
    if one is None or not np.array_equal(numpy_helper.to_array(one), np.ones(tuple(one.dims))):
        return [node]
    zero, logits = state.fresh(f"{node.output[0]}.zero"), state.fresh(f"{node.output[0]}.logits")
    axis = attributes_of(node).get("axis", 1)
    return [
        helper.make_node("Sub", [p.input[0], p.input[0]], [zero], node.name),
        helper.make_node("Concat", [zero, p.input[0]], [logits], node.name, axis=axis),
        helper.make_node("Softmax", [logits], node.output, node.name, axis=axis),
    ]


def _require_transform(node: onnx.NodeProto, found: str, known: tuple[str, ...]) -> None:
    if found not in known:
        raise unsupported(node, 1, f" with {found}", f"edgefl knows {', '.join(known)}")


def _drop_unused_domain(proto: onnx.ModelProto) -> None:
    used = {node.domain or "" for node in proto.graph.node}
    versions = {imported.domain: imported.version for imported in proto.opset_import}
    del proto.opset_import[:]
    proto.opset_import.extend(helper.make_opsetid(domain, v) for domain, v in versions.items() if domain in {"", *used})


_FORMS: dict[str, Callable[[onnx.NodeProto, _Rewriting], Nodes]] = {
    "ArrayFeatureExtractor": _extractor,
    "LinearClassifier": _classifier,
    "LinearRegressor": _regressor,
    "Normalizer": _normalizer,
    "Scaler": _scaler,
    "ZipMap": _zip_map,
}
