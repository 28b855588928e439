"""The same function in a form that costs less to compute and to differentiate.

    MaxPool(Relu(x))                      →  Relu(MaxPool(x))   a quarter of the elements, or fewer, pass through Relu
    x/2 · (1 + erf(x/√2)), five nodes     →  Gelu(x)            one pass there, and a closed form back
    Slices that divide an axis            →  Split              their gradients are joined instead of padded and summed

The maximum commutes with every function that never falls, and sends gradients to the same places: where the maximum is
above zero, both orders send it to the first place that holds it; elsewhere both send none.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgefl.trainer.files.manifest import Shape

RISING = frozenset({"Relu", "LeakyRelu", "Sigmoid", "Tanh", "Clip"})
"""Elementwise functions of their first input that never fall (LeakyRelu falls with a negative slope: see `_rises`)."""

MAX_SEARCHED = 5000
"""Nodes of a model that is rewritten at all. The time to search it grows with their square: 10 s at the most."""

NEAR = 1e-4
"""How near a constant must be to 1/2 or √2: exporters write them with four to eight digits."""


@dataclass(slots=True)
class Forms:
    """The nodes of a model while they are rewritten. `kept` are tensors that must stay: the outputs of the model."""

    nodes: list[onnx.NodeProto]
    shapes: dict[str, Shape]
    constants: dict[str, onnx.TensorProto]
    kept: frozenset[str]
    fresh: Callable[[str], str]
    readers: Counter[str] = field(default_factory=Counter)

    def count_readers(self) -> None:
        self.readers = Counter(name for node in self.nodes for name in node.input)
        self.readers.update(self.kept)

    def maker(self, tensor: str) -> onnx.NodeProto | None:
        return next((node for node in self.nodes if tensor in node.output), None)

    def numbers(self, node: onnx.NodeProto, slot: int) -> list[int] | None:
        """A constant vector of whole numbers."""
        if slot >= len(node.input) or node.input[slot] not in self.constants:
            return None
        return [int(number) for number in numpy_helper.to_array(self.constants[node.input[slot]]).ravel()]

    def number(self, tensor: str) -> float | None:
        """The value of a constant with one element."""
        if tensor not in self.constants or math.prod(self.constants[tensor].dims) != 1:
            return None
        return float(numpy_helper.to_array(self.constants[tensor]).ravel()[0])


def simplify(
    nodes: Sequence[onnx.NodeProto],
    shapes: Mapping[str, Shape],
    constants: Mapping[str, onnx.TensorProto],
    kept: Iterable[str],
    fresh: Callable[[str], str],
) -> Forms:
    """All rewrites. The result holds every constant that was given, and those that came with new nodes."""
    forms = Forms(list(nodes), dict(shapes), dict(constants), frozenset(kept), fresh)
    for rewrite in (_pool_first, _one_gelu, _one_split) if len(forms.nodes) <= MAX_SEARCHED else ():
        forms.count_readers()
        rewrite(forms)
    return forms


def _pool_first(forms: Forms) -> None:
    for index, pool in enumerate(forms.nodes):
        if pool.op_type != "MaxPool" or len(pool.output) > 1 or forms.readers[pool.input[0]] != 1:
            continue
        activation, y = forms.maker(pool.input[0]), pool.output[0]
        if activation is None or not _rises(activation):
            continue
        first, then = onnx.NodeProto(), onnx.NodeProto()
        first.CopyFrom(pool)
        then.CopyFrom(activation)
        first.input[0], first.output[0] = activation.input[0], forms.fresh(f"{y}.pooled")
        then.input[0], then.output[0] = first.output[0], y
        forms.shapes[first.output[0]] = forms.shapes[y]
        forms.nodes[_place(forms.nodes, activation)], forms.nodes[index] = first, then


def _rises(node: onnx.NodeProto) -> bool:
    slope = next((a.f for a in node.attribute if a.name == "alpha"), 0.01)
    return node.op_type in RISING and (node.op_type != "LeakyRelu" or slope >= 0)


def _one_gelu(forms: Forms) -> None:
    """Around each Erf: its argument x/√2, 1 + erf, the product with x, and the half, wherever it is multiplied in."""
    for erf in [node for node in forms.nodes if node.op_type == "Erf"]:
        scaled = forms.maker(erf.input[0])
        x = None if scaled is None else _factor(forms, scaled, math.sqrt(0.5))
        plus = _only_reader(forms, erf.output[0], "Add")
        if scaled is None or x is None or plus is None or _other(forms, plus, erf.output[0], 1.0) is None:
            continue
        product = _only_reader(forms, plus.output[0], "Mul")
        if product is None:
            continue
        partner = next((name for name in product.input if name != plus.output[0]), "")
        dead, last = [scaled, erf, plus, product], product
        if partner == x:
            half = _only_reader(forms, product.output[0], "Mul", "Div")
            if half is None or _factor(forms, half, 0.5) != product.output[0]:
                continue
            dead.append(half)
            last = half
        else:
            halved = forms.maker(partner)
            if halved is None or forms.readers[partner] != 1 or _factor(forms, halved, 0.5) != x:
                continue
            dead.append(halved)
        if forms.readers[scaled.output[0]] != 1:
            continue
        gelu = helper.make_node("Gelu", [x], [last.output[0]], last.name or last.output[0])
        forms.nodes[_place(forms.nodes, last)] = gelu
        forms.nodes = [node for node in forms.nodes if not any(node is gone for gone in dead)]


def _factor(forms: Forms, node: onnx.NodeProto, factor: float) -> str | None:
    """The tensor that this node multiplies by a constant `factor`, if it does so."""
    if node.op_type == "Mul":
        for name, other in (tuple(node.input), tuple(node.input)[::-1]):
            value = forms.number(other)
            if value is not None and abs(value - factor) < NEAR:
                return str(name)
    elif node.op_type == "Div":
        value = forms.number(node.input[1])
        if value and abs(1 / value - factor) < NEAR:
            return str(node.input[0])
    return None


def _other(forms: Forms, node: onnx.NodeProto, name: str, value: float) -> str | None:
    """The other input of a node with two, if it is this constant."""
    other = next((given for given in node.input if given != name), "")
    found = forms.number(other)
    return other if found is not None and abs(found - value) < NEAR else None


def _only_reader(forms: Forms, tensor: str, *operators: str) -> onnx.NodeProto | None:
    if forms.readers[tensor] != 1:
        return None
    reader = next((node for node in forms.nodes if tensor in node.input), None)
    return reader if reader is not None and reader.op_type in operators else None


def _one_split(forms: Forms) -> None:
    by_source: dict[tuple[str, int], list[tuple[int, int, onnx.NodeProto]]] = {}
    for node in forms.nodes:
        if node.op_type == "Slice" and (cut := _cut(forms, node)) is not None:
            axis, start, stop = cut
            by_source.setdefault((node.input[0], axis), []).append((start, stop, node))
    for (source, axis), cuts in by_source.items():
        cuts.sort(key=lambda cut: cut[:2])
        edges = [0, *(stop for _, stop, _ in cuts)]
        if len(cuts) < 2 or [start for start, _, _ in cuts] != edges[:-1] or edges[-1] != forms.shapes[source][axis]:
            continue
        sizes = forms.fresh(f"{source}.sizes")
        lengths = np.array([stop - start for start, stop, _ in cuts], np.int64)
        forms.constants[sizes] = numpy_helper.from_array(lengths, sizes)
        parts = [node.output[0] for _, _, node in cuts]
        split = helper.make_node("Split", [source, sizes], parts, forms.fresh(f"{source}.split"), axis=axis)
        slices = [node for _, _, node in cuts]
        forms.nodes[min(_place(forms.nodes, node) for node in slices)] = split
        forms.nodes = [node for node in forms.nodes if not any(node is gone for gone in slices)]


def _cut(forms: Forms, node: onnx.NodeProto) -> tuple[int, int, int] | None:
    """(axis, start, stop) of a Slice along one axis of known size in steps of one, all constant."""
    starts, ends, axes = (forms.numbers(node, slot) for slot in (1, 2, 3))
    steps = forms.numbers(node, 4) if len(node.input) > 4 and node.input[4] else [1]
    shape = forms.shapes.get(node.input[0])
    if not (starts and ends and axes) or steps != [1] or len(starts) != 1 or shape is None:
        return None
    axis = axes[0] % len(shape)
    size = shape[axis]
    if size is None:
        return None
    start, stop, _ = slice(starts[0], ends[0]).indices(size)
    return (axis, start, stop) if start < stop else None


def _place(nodes: Sequence[onnx.NodeProto], node: onnx.NodeProto) -> int:
    return next(index for index, other in enumerate(nodes) if other is node)
