"""Nodes in training mode brought to their inference form, and other detours of exporters taken out.

Dropout               the identity; remembered as a `DropoutSite`
BatchNormalization    by its running statistics, with one output
CastLike              Cast, or nothing
SplitToSequence       Split, and Identity where SequenceAt picked a part
LSTM, GRU, RNN        without an initial state that is zero anyway
Identity              nothing, where names allow it
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from edgefl.trainer.graph import attributes_of
from edgefl.trainer.reading.flat_graph import STANDARD, Facts, FlatGraph, node_like, unsupported

MAX_PARTS = 1024
"""Outputs of one Split."""


@dataclass(frozen=True, slots=True)
class DropoutSite:
    """Where the model drops out while it learns. In the normal form `output` = Identity(`input`)."""

    node: str
    input: str
    output: str
    ratio: float


def for_inference(proto: onnx.ModelProto) -> None:
    """Take the training mode out of the user's own model, which is exported again after training."""
    opset = next((o.version for o in proto.opset_import if o.domain in STANDARD), 0)
    read = {name for node in proto.graph.node for name in node.input}
    read.update(value.name for value in proto.graph.output)
    for node in proto.graph.node:
        if node.domain not in STANDARD:
            continue
        if node.op_type == "Dropout" and len(node.input) > 2:
            del node.input[2:]
        if node.op_type == "BatchNormalization":
            _refuse_extras(node, opset, read)
            kept = [attribute for attribute in node.attribute if attribute.name != "training_mode"]
            node.CopyFrom(node_like(node, node.op_type, node.input, outputs=1))
            node.attribute.extend(kept)


def to_inference_form(graph: FlatGraph, facts: Facts) -> dict[str, tuple[str, float]]:
    """Rewrite the graph's nodes; the output of each Dropout with the node's name and ratio. Raises
    UnsupportedOperatorError for a node whose training outputs are used."""
    read = {name for node in graph.nodes for name in node.input}.union(graph.outputs)
    dropouts: dict[str, tuple[str, float]] = {}
    parts: dict[str, list[str]] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        if node.op_type == "Dropout":
            _refuse_extras(node, graph.opset, read)
            dropouts[node.output[0]] = (node.name, _ratio(node, graph.opset, facts))
            nodes.append(node_like(node, "Identity", node.input[:1], outputs=1))
        elif node.op_type == "SplitToSequence":
            nodes.append(_split(node, graph, facts, parts))
        elif node.op_type == "SequenceAt" and node.input[0] in parts:
            nodes.append(_pick(node, graph.opset, facts, parts[node.input[0]]))
        elif node.op_type in _FORMS:
            nodes.append(_FORMS[node.op_type](node, graph, facts, read))
        else:
            nodes.append(node)
    graph.nodes = nodes
    return dropouts


def without_identities(graph: FlatGraph, kept: set[str]) -> None:
    """Take out Identity nodes by renaming; those whose output is in `kept` stay, and those that give a model output
    another name than an input, an initializer or another output."""
    alias: dict[str, str] = {}
    fixed = {*graph.initializers, *graph.outputs, *(tensor.name for tensor in graph.inputs)}
    renamed: dict[str, str] = {}
    for node in graph.nodes:
        if node.op_type != "Identity" or node.output[0] in kept:
            continue
        source = alias.get(node.input[0], node.input[0])
        if node.output[0] not in graph.outputs:
            alias[node.output[0]] = source
        elif source not in fixed and source not in kept and source not in renamed:
            renamed[source] = node.output[0]
    if not (alias or renamed):
        return

    def name_of(name: str) -> str:
        name = alias.get(name, name)
        return renamed.get(name, name)

    nodes = []
    for node in graph.nodes:
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        changed.input[:] = [name_of(name) for name in node.input]
        changed.output[:] = [renamed.get(name, name) for name in node.output]
        if node.op_type == "Identity" and (node.output[0] in alias or changed.input[0] == changed.output[0]):
            continue
        nodes.append(changed)
    graph.nodes = nodes


def _refuse_extras(node: onnx.NodeProto, opset: int, read: set[str]) -> None:
    if any(name in read for name in node.output[1:] if name):
        what = ", of which another node reads more than the first output, which only training gives"
        raise unsupported(node, opset, what, "export the model in inference mode")


def _ratio(node: onnx.NodeProto, opset: int, facts: Facts) -> float:
    if len(node.input) > 1 and node.input[1]:
        if node.input[1] not in facts.values:
            raise unsupported(node, opset, " with a ratio that is not constant", "export the model with a fixed ratio")
        ratio = float(facts.values[node.input[1]].reshape(-1)[0])
    else:
        ratio = float(attributes_of(node).get("ratio", 0.5))
    if not 0 <= ratio < 1:
        raise unsupported(node, opset, f" with the ratio {ratio}", "a ratio lies between 0 and 1")
    return ratio


def _batch_norm(node: onnx.NodeProto, graph: FlatGraph, facts: Facts, read: set[str]) -> onnx.NodeProto:
    attributes = attributes_of(node)
    if attributes.get("spatial", 1) != 1:
        what = " with statistics for each position (spatial=0)"
        raise unsupported(node, graph.opset, what, "export the model with opset 9 or later")
    _refuse_extras(node, graph.opset, read)
    kept = {name: attributes[name] for name in ("epsilon", "momentum") if name in attributes}
    return node_like(node, "BatchNormalization", node.input, outputs=1, **kept)


def _cast_like(node: onnx.NodeProto, graph: FlatGraph, facts: Facts, read: set[str]) -> onnx.NodeProto:
    to, now = (facts.dtypes.get(name, "") for name in (node.input[1], node.input[0]))
    if not to:
        return node
    if to == now:
        return node_like(node, "Identity", node.input[:1])
    return node_like(node, "Cast", node.input[:1], to=helper.np_dtype_to_tensor_dtype(np.dtype(to)))


def _recurrent(node: onnx.NodeProto, graph: FlatGraph, facts: Facts, read: set[str]) -> onnx.NodeProto:
    states = range(5, 7)  # of the hidden values and of the cell; the other inputs are weights and lengths
    zero = {
        place
        for place in states
        if place < len(node.input) and node.input[place] in facts.values and not facts.values[node.input[place]].any()
    }
    if not zero:
        return node
    inputs = ["" if place in zero else name for place, name in enumerate(node.input)]
    while not inputs[-1]:
        inputs.pop()
    return node_like(node, node.op_type, inputs, **attributes_of(node))


def _split(node: onnx.NodeProto, graph: FlatGraph, facts: Facts, parts: dict[str, list[str]]) -> onnx.NodeProto:
    attributes = attributes_of(node)
    axis = attributes.get("axis", 0)
    shape = facts.shapes.get(node.input[0])
    size = shape[axis] if shape and -len(shape) <= axis < len(shape) else None
    step = facts.values.get(node.input[1]) if len(node.input) > 1 else np.array(1)
    if size is None or step is None or (step < 1).any() or not attributes.get("keepdims", 1) or len(node.input) < 2:
        what = " in parts whose number is not known"
        raise unsupported(node, graph.opset, what, "export the model with optimize=True, or without chunk and split")
    sizes = [int(n) for n in step] if step.ndim else [min(int(step), size - at) for at in range(0, size, int(step))]
    if len(sizes) > MAX_PARTS:
        raise unsupported(node, graph.opset, f" in more than {MAX_PARTS} parts", "export it in fewer parts")
    parts[node.output[0]] = [graph.fresh(f"{node.output[0]}.{i}") for i in range(len(sizes))]
    inputs = [node.input[0], graph.integers(sizes)]
    return helper.make_node("Split", inputs, parts[node.output[0]], node.name, axis=axis)


def _pick(node: onnx.NodeProto, opset: int, facts: Facts, parts: list[str]) -> onnx.NodeProto:
    place = facts.values.get(node.input[1])
    if place is None or place.size != 1 or not -len(parts) <= int(place.reshape(-1)[0]) < len(parts):
        raise unsupported(node, opset, " at a place that is not known", "export the model with optimize=True")
    return node_like(node, "Identity", [parts[int(place.reshape(-1)[0])]])


_FORMS: dict[str, Callable[[onnx.NodeProto, FlatGraph, Facts, set[str]], onnx.NodeProto]] = {
    "BatchNormalization": _batch_norm,
    "CastLike": _cast_like,
    "GRU": _recurrent,
    "LSTM": _recurrent,
    "RNN": _recurrent,
}
