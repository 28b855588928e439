"""The same function in an order that costs less to compute and to differentiate.

    MaxPool(Relu(x)) = Relu(MaxPool(x))     a quarter of the elements, or fewer, pass through Relu and back

The maximum commutes with every function that never falls. Gradients stay the same as well: where the maximum is above
zero, both orders send it to the first place that holds it; elsewhere both send none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import onnx

from edgefl.trainer.manifest import Shape

RISING = frozenset({"Relu", "LeakyRelu", "Sigmoid", "Tanh", "Clip"})
"""Elementwise functions of their first input that never fall (LeakyRelu falls with a negative slope: see `_rises`)."""


def pool_first(
    nodes: Sequence[onnx.NodeProto], shapes: Mapping[str, Shape], kept: Iterable[str], fresh: Callable[[str], str]
) -> tuple[list[onnx.NodeProto], dict[str, Shape]]:
    """The nodes, with every pool moved before the activation that it alone reads, and the shapes of all tensors.
    `kept` are tensors that must stay: the outputs of the model."""
    readers = Counter(name for node in nodes for name in node.input)
    readers.update(kept)
    found, known = list(nodes), dict(shapes)
    for index, pool in enumerate(found):
        if pool.op_type != "MaxPool" or len(pool.output) > 1 or readers[pool.input[0]] != 1:
            continue
        place = next((i for i, node in enumerate(found) if pool.input[0] in node.output), None)
        if place is None or not _rises(found[place]):
            continue
        activation, y = found[place], pool.output[0]
        first, then = onnx.NodeProto(), onnx.NodeProto()
        first.CopyFrom(pool)
        then.CopyFrom(activation)
        first.input[0], first.output[0] = activation.input[0], fresh(f"{y}.pooled")
        then.input[0], then.output[0] = first.output[0], y
        known[first.output[0]] = known[y]
        found[place], found[index] = first, then
    return found, known


def _rises(node: onnx.NodeProto) -> bool:
    slope = next((a.f for a in node.attribute if a.name == "alpha"), 0.01)
    return node.op_type in RISING and (node.op_type != "LeakyRelu" or slope >= 0)
