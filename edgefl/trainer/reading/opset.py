"""Nodes of any opset from 7 on, brought to ours without a change of meaning.

`UNCHANGED` lists operators whose older and newer versions mean the same for the nodes that use them: later versions
added types, optional inputs, or attributes whose default is the old behaviour. `OLDER` rewrites what was said
otherwise once, mostly attributes that became inputs. An attribute that our opset does not know is left off where it
has its default. Whatever is in neither table, and has changed, is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from edgefl.trainer.graph import OPSET, attributes_of
from edgefl.trainer.reading.flat_graph import Facts, FlatGraph, node_like, unsupported

OLDEST = 7
"""The first with today's broadcasting; no exporter in use writes an older one."""

NEWEST = 28
"""The last whose changes were read and compared with the tables below."""

_UNCHANGED_SINCE = {
    1: """
        Abs Acos Add And ArgMax ArgMin Asin Atan AveragePool BatchNormalization Cast Ceil Concat Constant Conv
        ConvTranspose Cos DepthToSpace Div Elu Equal Exp Flatten Floor GRU Gather Gemm GlobalAveragePool GlobalLpPool
        GlobalMaxPool Greater HardSigmoid Identity InstanceNormalization LRN LSTM LeakyRelu Less Log LpNormalization
        LpPool MatMul Max MaxPool MaxRoiPool Mean Min Mul Multinomial Neg PRelu Pow RNN RandomNormal RandomNormalLike
        RandomUniform RandomUniformLike Reciprocal Relu Reshape Selu Shape Sigmoid Sin Size Softplus Softsign
        SpaceToDepth Sqrt Sub Sum Tan Tanh Tile Transpose""",
    8: "Expand",
    9: """
        Acosh Asinh Atanh Compress ConstantOfShape Cosh Erf EyeLike IsNaN MaxUnpool MeanVarianceNormalization NonZero
        OneHot Sign Sinh Where""",
    10: "DequantizeLinear IsInf Mod NonMaxSuppression QLinearMatMul QuantizeLinear ReverseSequence ThresholdedRelu",
    11: "BitShift CumSum Det GatherElements GatherND Range Round ScatterElements ScatterND SplitToSequence Unique",
    12: "Celu Dropout Einsum GreaterOrEqual LessOrEqual NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss",
    14: "HardSwish",
    15: "Bernoulli CastLike",
    18: "Mish",
    19: "DeformConv",
}

UNCHANGED = {name: version for version, names in _UNCHANGED_SINCE.items() for name in names.split()}
"""Operator -> its oldest version that means what ours means; every later one up to `NEWEST` does too. Of Dropout and
BatchNormalization only the inference form is left by now. Of an operator that is not listed no version has changed."""

Rewrite = Callable[[onnx.NodeProto, FlatGraph, Facts, int], list[onnx.NodeProto]]
"""(node, graph, facts, opset of the node) -> nodes of our opset."""


def to_our_opset(node: onnx.NodeProto, opset: int, graph: FlatGraph, facts: Facts) -> list[onnx.NodeProto]:
    """The node in the words of our opset. Raises UnsupportedOperatorError where it cannot be said."""
    version = version_at(node, opset)
    ours = version_at(node, OPSET)
    if node.op_type in OLDER and version < OLDER[node.op_type][0]:
        return OLDER[node.op_type][1](node, graph, facts, opset)
    if version != ours and not (ours and _oldest(node) <= version <= NEWEST):
        hint = f"export the model with opset {OPSET}"
        raise unsupported(node, opset, f", whose meaning differs from opset {OPSET} (version {version})", hint)
    return [_known_attributes(node, opset)]


def is_newer(node: onnx.NodeProto, opset: int) -> bool:
    """Whether our opset does not have the operator at all."""
    return version_at(node, opset) > OPSET and version_at(node, OPSET) == 0


def means_the_same(node: onnx.NodeProto, opset: int) -> bool:
    """Whether the node can be carried from a newer opset to ours as it stands."""
    version, ours = version_at(node, opset), version_at(node, OPSET)
    if version == ours:
        return True
    known = onnx.defs.get_schema(node.op_type, OPSET).attributes if ours else {}
    return bool(ours) and _oldest(node) <= version <= NEWEST and all(a.name in known for a in node.attribute)


def _oldest(node: onnx.NodeProto) -> int:
    """The first version that means what ours means."""
    return OLDER[node.op_type][0] if node.op_type in OLDER else UNCHANGED.get(node.op_type, NEWEST)


def version_at(node: onnx.NodeProto, opset: int) -> int:
    """Since when the operator has meant what it means at `opset`; 0 where there is no such operator then."""
    try:
        return int(onnx.defs.get_schema(node.op_type, opset).since_version)
    except (onnx.defs.SchemaError, TypeError):  # TypeError: a name that is no text
        return 0


def _known_attributes(node: onnx.NodeProto, opset: int) -> onnx.NodeProto:
    theirs, ours = (onnx.defs.get_schema(node.op_type, version).attributes for version in (opset, OPSET))
    extra = [attribute for attribute in node.attribute if attribute.name not in ours]
    if not extra:
        return node
    for attribute in extra:
        known = theirs.get(attribute.name)
        if known is None or _differ(attribute, known.default_value):
            what = f" with {attribute.name}, which opset {OPSET} does not have"
            raise unsupported(node, opset, what, f"export the model with opset {OPSET}")
    names = {attribute.name for attribute in extra}
    return node_like(node, node.op_type, node.input, **{k: v for k, v in attributes_of(node).items() if k not in names})


def _differ(attribute: onnx.AttributeProto, default: onnx.AttributeProto) -> bool:
    return bool(helper.get_attribute_value(attribute) != helper.get_attribute_value(default))


def _inputs(*names: str) -> Rewrite:
    """Attributes that became inputs, in this order behind those that the node has: integers, or one float."""

    def rewrite(node: onnx.NodeProto, graph: FlatGraph, facts: Facts, opset: int) -> list[onnx.NodeProto]:
        attributes = dict(attributes_of(node))
        inputs = list(node.input)
        for name in names:
            value = attributes.pop(name, None)
            inputs.append("" if value is None else graph.constant(_array(value)))
        while inputs and not inputs[-1]:
            inputs.pop()
        return [node_like(node, node.op_type, inputs, **attributes)]

    return rewrite


def _array(value: Any) -> np.ndarray[Any, Any]:
    is_float = isinstance(value, float) or (isinstance(value, list) and value and isinstance(value[0], float))
    return np.array(value, np.float32 if is_float else np.int64)


def _slice(node: onnx.NodeProto, graph: FlatGraph, facts: Facts, opset: int) -> list[onnx.NodeProto]:
    return _inputs("starts", "ends", "axes")(node, graph, facts, opset)


def _split(node: onnx.NodeProto, graph: FlatGraph, facts: Facts, opset: int) -> list[onnx.NodeProto]:
    (node,) = _inputs("split")(node, graph, facts, opset)
    if len(node.input) == 1:
        node.attribute.append(helper.make_attribute("num_outputs", len(node.output)))
    return [node]


def _top_k(node: onnx.NodeProto, graph: FlatGraph, facts: Facts, opset: int) -> list[onnx.NodeProto]:
    attributes = dict(attributes_of(node))
    inputs = list(node.input)
    if "k" in attributes:
        inputs.append(graph.integers([attributes.pop("k")]))
    return [node_like(node, "TopK", inputs, **attributes)]


def _pad(node: onnx.NodeProto, graph: FlatGraph, facts: Facts, opset: int) -> list[onnx.NodeProto]:
    attributes = dict(attributes_of(node))
    attributes.setdefault("value", 0.0)
    stated = node_like(node, "Pad", node.input, **attributes)
    return _inputs("pads", "value")(stated, graph, facts, opset)


def _softmax(node: onnx.NodeProto, graph: FlatGraph, facts: Facts, opset: int) -> list[onnx.NodeProto]:
    """Before opset 13: over all axes from `axis` on together."""
    shape = facts.shapes.get(node.input[0])
    if shape is None:
        raise unsupported(node, opset, " on a tensor of unknown shape", "export the model with opset 13 or later")
    axis = attributes_of(node).get("axis", 1) % len(shape)
    if all(size == 1 for size in shape[axis + 1 :]):
        return [node_like(node, node.op_type, node.input, axis=-1 if axis == len(shape) - 1 else axis)]
    flat, result, sizes = (graph.fresh(f"{node.output[0]}.{part}") for part in ("flat", "rows", "shape"))
    return [
        helper.make_node("Shape", node.input, [sizes]),
        helper.make_node("Flatten", node.input, [flat], axis=axis),
        helper.make_node(node.op_type, [flat], [result], node.name, axis=-1),
        node_like(node, "Reshape", [result, sizes]),
    ]


def _upsample(node: onnx.NodeProto, graph: FlatGraph, facts: Facts, opset: int) -> list[onnx.NodeProto]:
    """Upsample, and Resize of opset 10: element i of the output is element i / scale of the input."""
    attributes = attributes_of(node)
    mode = attributes.get("mode", "nearest")
    if "scales" in attributes:
        scales = graph.constant(np.array(attributes["scales"], np.float32))
        values = np.array(attributes["scales"], np.float32)
    else:
        scales = node.input[1]
        values = facts.values.get(scales, np.array([np.nan], np.float32))
    shrinks = bool((values <= 1).all())
    if mode == "nearest" and not (shrinks or (values >= 1).all()):
        raise unsupported(node, opset, " with scales that are unknown or on both sides of 1", "export it with opset 11")
    resized = {"coordinate_transformation_mode": "asymmetric", "mode": mode}
    if mode == "nearest":
        resized["nearest_mode"] = "ceil" if shrinks else "floor"
    return [node_like(node, "Resize", [node.input[0], "", scales], **resized)]


def _resize(node: onnx.NodeProto, graph: FlatGraph, facts: Facts, opset: int) -> list[onnx.NodeProto]:
    """Opset 11 and 12 had empty tensors where later ones have no input."""
    if opset == 10:
        return _upsample(node, graph, facts, opset)
    attributes = attributes_of(node)
    mode = attributes.get("coordinate_transformation_mode", "half_pixel")
    if mode == "tf_half_pixel_for_nn":
        raise unsupported(node, opset, f" with {mode}, which later opsets do not have", "export it with opset 13")
    empty = {name for name in node.input if name in facts.values and facts.values[name].size == 0}
    roi_counts = mode == "tf_crop_and_resize"
    inputs = ["" if name in empty or (i == 1 and not roi_counts) else name for i, name in enumerate(node.input)]
    return [node_like(node, "Resize", inputs, **attributes)]


def _group_norm(node: onnx.NodeProto, graph: FlatGraph, facts: Facts, opset: int) -> list[onnx.NodeProto]:
    """Before opset 21 scale and bias had one element for each group, not for each channel."""
    attributes = attributes_of(node)
    shape = facts.shapes.get(node.input[0], ())
    channels = shape[1] if len(shape) > 1 else None
    groups = attributes.get("num_groups", 0)
    if channels is None or groups < 1 or channels % groups:
        raise unsupported(node, opset, " on an unknown number of channels", "export the model with opset 21")
    nodes = []
    inputs = [node.input[0]]
    for name in node.input[1:3]:
        column, spread, flat = (graph.fresh(f"{name}.{part}") for part in ("column", "spread", "channels"))
        nodes += [
            helper.make_node("Unsqueeze", [name, graph.integers([1])], [column]),
            helper.make_node("Expand", [column, graph.integers([groups, channels // groups])], [spread]),
            helper.make_node("Reshape", [spread, graph.integers([channels])], [flat]),
        ]
        inputs.append(flat)
    return [*nodes, node_like(node, "GroupNormalization", inputs, **attributes)]


def _scatter(node: onnx.NodeProto, graph: FlatGraph, facts: Facts, opset: int) -> list[onnx.NodeProto]:
    return [node_like(node, "ScatterElements", node.input, **attributes_of(node))]


def _with(**defaults: Any) -> Rewrite:
    """The same node with the attributes that it left to older defaults."""

    def rewrite(node: onnx.NodeProto, graph: FlatGraph, facts: Facts, opset: int) -> list[onnx.NodeProto]:
        return [node_like(node, node.op_type, node.input, **{**defaults, **attributes_of(node)})]

    return rewrite


def _grid_sample(node: onnx.NodeProto, graph: FlatGraph, facts: Facts, opset: int) -> list[onnx.NodeProto]:
    attributes = dict(attributes_of(node))
    mode = attributes.pop("mode", "bilinear")
    new = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    return [node_like(node, "GridSample", node.input, mode=new, **attributes)]


_REDUCTIONS: Sequence[str] = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
    *("ReduceProd", "ReduceSumSquare"),
)

OLDER: dict[str, tuple[int, Rewrite]] = {
    **dict.fromkeys(_REDUCTIONS, (18, _inputs("axes"))),
    **dict.fromkeys(("ReduceSum", "Squeeze", "Unsqueeze"), (13, _inputs("axes"))),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), (13, _softmax)),
    "Clip": (11, _inputs("min", "max")),
    "GridSample": (20, _grid_sample),
    "GroupNormalization": (21, _group_norm),
    "Pad": (11, _pad),
    "Resize": (13, _resize),
    "RoiAlign": (16, _with(coordinate_transformation_mode="output_half_pixel")),
    "Scatter": (11, _scatter),
    "Slice": (10, _slice),
    "Split": (18, _split),
    "TopK": (11, _top_k),
    "Upsample": (10, _upsample),
}
"""Operator -> the version from which on it is as at our opset, and how to say older ones."""
