"""Whether a model's samples keep to themselves, so that the gradient of a batch is the sum over parts of it.

Then parts of a batch can be differentiated side by side, which no graph on several threads keeps up with: its threads
meet after every node, parts meet once in a step. It is proved node by node: each tensor is either the same for every
batch (constant), or has the samples along one known axis, each computed from that sample's inputs alone. Where a node
is of no kind that is listed here, or reads or moves along the axis of the samples, nothing is claimed.

It also has to be worth it: every part has a whole gradient, and the sum of them takes a pass over each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import numpy_helper

from edgefl.trainer.files.manifest import Shape
from edgefl.trainer.graph import attributes_of

CONSTANT = -1
"""In place of an axis: the same for every batch."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A node, the axis of the samples in each of its inputs, and what is known about its tensors."""

    node: onnx.NodeProto
    axes: tuple[int, ...]
    shapes: Mapping[str, Shape]
    constants: Mapping[str, onnx.TensorProto]
    attributes: Mapping[str, Any]

    @property
    def axis(self) -> int:
        """Of the first input."""
        return self.axes[0]

    def shape(self, slot: int) -> Shape:
        return self.shapes[self.node.input[slot]]

    def rank(self, slot: int) -> int:
        return len(self.shape(slot))

    @property
    def first_alone(self) -> bool:
        """Whether all inputs but the first are constant."""
        return self.axis != CONSTANT and all(axis == CONSTANT for axis in self.axes[1:])

    def numbers(self, slot: int, attribute: str) -> list[int] | None:
        """A vector of integers, an attribute or a constant input; None where it is absent or computed."""
        if attribute in self.attributes:
            value = self.attributes[attribute]
            return [int(n) for n in value] if isinstance(value, Sequence) else [int(value)]
        if slot >= len(self.node.input) or self.node.input[slot] not in self.constants:
            return None
        return [int(n) for n in numpy_helper.to_array(self.constants[self.node.input[slot]]).ravel()]

    def avoids(self, axes: Collection[int] | None) -> bool:
        """Whether all of these axes of the first input are known, and others than that of the samples."""
        return axes is not None and self.axis not in {axis % self.rank(0) for axis in axes}


MIN_USES = 4
"""Products of numbers for each trained weight and sample from which parts are worth their gradients. A perceptron has
one: there two threads with a part each take longer than one (1.3 times, measured with 235,000 weights)."""

Rule = Callable[[_Place], int | None]
"""The axis of the samples in every output; None where they are not known to keep to themselves."""


def is_divisible(
    nodes: Sequence[onnx.NodeProto],
    shapes: Mapping[str, Shape],
    constants: Mapping[str, onnx.TensorProto],
    inputs: Collection[str],
    parameters: Collection[str],
    goal: str,
) -> bool:
    """Whether `goal` has the samples along its first axis, as `inputs` do, each computed from itself alone and from
    `parameters` and `constants`, and parts of a batch are worth their while."""
    sizes = {name: tuple(tensor.dims) for name, tensor in constants.items()} | dict(shapes)
    learning = sum(math.prod(n or 1 for n in sizes[name]) for name in parameters)
    if sum(_products(node, sizes) for node in nodes) < MIN_USES * learning:
        return False
    axes = dict.fromkeys([*constants, *parameters, ""], CONSTANT) | dict.fromkeys(inputs, 0)
    for node in nodes:
        if not all(name in axes for name in node.input):
            continue
        given = tuple(axes[name] for name in node.input)
        if all(axis == CONSTANT for axis in given):
            found: int | None = CONSTANT if node.input or node.op_type == "Constant" else None
        elif node.op_type in RULES and all(name in sizes for name in (*node.input, *node.output) if name):
            found = RULES[node.op_type](_Place(node, given, sizes, constants, attributes_of(node)))
        else:
            found = None
        if found is not None:
            axes.update(dict.fromkeys(filter(None, node.output), found))
    return axes.get(goal) == 0


def _products(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    """Numbers that a node multiplies with another and adds up, for one sample; 0 for all but products of matrices."""
    known = [shapes.get(name) for name in (*node.input[:2], node.output[0])]
    if node.op_type not in ("Conv", "ConvTranspose", "MatMul", "Gemm") or None in known:
        return 0
    a, b, y = (tuple(n or 1 for n in shape or ()) for shape in known)
    if node.op_type in ("Conv", "ConvTranspose"):
        return math.prod(b[1:]) * math.prod(y if node.op_type == "Conv" else a)
    return math.prod(y) * a[0 if attributes_of(node).get("transA", 0) else -1]


def _aligned(p: _Place) -> int | None:
    """Element by element: the samples lie at the same place from the right, where constants have one row or none."""
    ranks = [len(p.shapes[name]) for name in p.node.input if name]
    axes = [axis for axis, name in zip(p.axes, p.node.input, strict=True) if name]
    rank = max(ranks)
    places = {axis + rank - r for axis, r in zip(axes, ranks, strict=True) if axis != CONSTANT}
    if len(places) != 1:
        return None
    (place,) = places
    for axis, r, name in zip(axes, ranks, filter(None, p.node.input), strict=True):
        own = place - (rank - r)
        if axis == CONSTANT and own >= 0 and p.shapes[name][own] != 1:
            return None
    return place


def _kept(p: _Place) -> int | None:
    """One sample after the other, along the first axis: layers over channels and places."""
    return 0 if p.first_alone and p.axis == 0 else None


def _along(default: int) -> Rule:
    """Along one axis, which is not that of the samples."""

    def rule(p: _Place) -> int | None:
        same = len(set(p.axes)) == 1
        return p.axis if same and p.avoids([p.attributes.get("axis", default)]) else None

    return rule


def _layer(p: _Place) -> int | None:
    """Over an axis and all behind it."""
    first = p.attributes.get("axis", -1) % p.rank(0)
    return p.axis if p.first_alone and p.axis < first else None


def _reduced(p: _Place) -> int | None:
    axes = p.numbers(1, "axes")
    if not p.first_alone or not axes or not p.avoids(axes):
        return None
    if p.attributes.get("keepdims", 1):
        return p.axis
    return p.axis - sum(axis % p.rank(0) < p.axis for axis in axes)


def _matmul(p: _Place) -> int | None:
    ranks = p.rank(0), p.rank(1)
    rank = max(ranks)
    if min(ranks) < 2:
        return None
    stacked = [(axis, r) for axis, r in zip(p.axes, ranks, strict=True) if axis != CONSTANT]
    if p.axes[1] == CONSTANT and ranks[0] == rank and p.axis == ranks[0] - 2:  # a row for each sample
        return p.axis
    places = {axis + rank - r for axis, r in stacked}
    if len(places) != 1 or any(axis >= r - 2 for axis, r in stacked):
        return None
    (place,) = places
    for slot, axis in enumerate(p.axes):
        own = place - (rank - ranks[slot])
        if axis == CONSTANT and own >= 0 and p.shape(slot)[own] != 1:
            return None
    return place


def _gemm(p: _Place) -> int | None:
    if not p.first_alone or p.axis != (1 if p.attributes.get("transA", 0) else 0):
        return None
    if len(p.node.input) > 2 and p.node.input[2] and p.rank(2) == 2 and p.shape(2)[0] != 1:
        return None
    return 0


def _reshaped(p: _Place) -> int | None:
    """The samples stay the first and slowest axis where their number stays: it is the only open size on both sides,
    and the fixed ones hold equally many elements."""
    before, after = p.shape(0), p.shapes[p.node.output[0]]
    if not p.first_alone or p.axis != 0 or before[:1] != (None,) or after[:1] != (None,):
        return None
    return 0 if _size(before[1:]) == _size(after[1:]) != 0 else None


def _size(shape: Shape) -> int:
    """0 where it is not fixed."""
    return math.prod(n or 0 for n in shape)


def _transposed(p: _Place) -> int | None:
    permutation = p.attributes.get("perm", range(p.rank(0))[::-1])
    return list(permutation).index(p.axis)


def _joined(p: _Place) -> int | None:
    return p.axis if len(set(p.axes)) == 1 and p.avoids([p.attributes["axis"]]) else None


def _split(p: _Place) -> int | None:
    return p.axis if p.first_alone and p.avoids([p.attributes.get("axis", 0)]) else None


def _sliced(p: _Place) -> int | None:
    starts = p.numbers(1, "starts")
    axes = p.numbers(3, "axes") or (range(len(starts)) if starts and len(p.node.input) < 4 else None)
    return p.axis if p.first_alone and p.avoids(axes) else None


def _gathered(p: _Place) -> int | None:
    axis = p.attributes.get("axis", 0) % p.rank(0)
    if p.axis == CONSTANT:  # rows of a table, by number
        place: int = axis + p.axes[1]
        return place
    if p.axes[1] != CONSTANT or p.axis == axis:
        return None
    return p.axis if p.axis < axis else p.axis + p.rank(1) - 1


def _padded(p: _Place) -> int | None:
    pads, rank = p.numbers(1, "pads"), p.rank(0)
    if not p.first_alone or pads is None or len(pads) != 2 * rank or len(p.node.input) > 3:
        return None
    return p.axis if not (pads[p.axis] or pads[rank + p.axis]) else None


_ALIGNED = (
    *("Add", "Sub", "Mul", "Div", "Mod", "Pow", "Sum", "Mean", "Max", "Min", "Where", "Cast", "Clip", "Neg", "Abs"),
    *("Reciprocal", "Sqrt", "Exp", "Log", "Sin", "Cos", "Erf", "Sign", "Floor", "Ceil", "Round", "IsNaN", "IsInf"),
    *("Not", "And", "Or", "Xor", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Identity", "Relu"),
    *("LeakyRelu", "PRelu", "ThresholdedRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "Tanh", "Softplus"),
    *("Softsign", "HardSwish", "Mish", "Gelu"),
)
_KEPT = (
    *("Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "BatchNormalization"),
    *("InstanceNormalization", "GroupNormalization", "DepthToSpace", "SpaceToDepth"),
)
_REDUCED = (
    *("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare"),
    *("ReduceLogSum", "ReduceLogSumExp"),
)

RULES: dict[str, Rule] = {
    **dict.fromkeys(_ALIGNED, _aligned),
    **dict.fromkeys(_KEPT, _kept),
    **dict.fromkeys(_REDUCED, _reduced),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "LpNormalization"), _along(-1)),
    "LayerNormalization": _layer,
    "MatMul": _matmul,
    "Gemm": _gemm,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshaped),
    "Transpose": _transposed,
    "Concat": _joined,
    "Split": _split,
    "Slice": _sliced,
    "Gather": _gathered,
    "Pad": _padded,
}
