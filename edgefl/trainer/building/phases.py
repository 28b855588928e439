"""A first convolution whose output goes through max pooling alone: one map for each place in the pool's window.

    MaxPool(Conv(x, w), p × p)  →  Max over p² maps of Conv(x, [w, w shifted by one place, …], stride p)

The window's places become maps of their own, so that the maximum and its gradient run over whole maps beside each
other, without places being taken out of rows and put back, on a quarter of the columns. Kernels grow by the shift
(3 × 3 to 4 × 4, with zeros), which is more work for the product: it pays where few channels come in, and where no
gradient goes further down. On 32 images of 3 × 32 × 32 with 16 kernels of 3 × 3 the layer and its gradient take 0.75 of
the time.

Exact: each map holds the numbers that the convolution found, the sums in the same order with zeros between; equal
maxima are found in the order of the window's places, as before.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, MutableMapping, Sequence
from dataclasses import dataclass
from itertools import product

import onnx

from edgefl.trainer.files.manifest import Shape
from edgefl.trainer.graph import Graph, Value, attributes_of

MAX_CHANNELS = 4
"""Of x. The zeros in the kernels cost as much as the pool saves at about 8."""

MAX_WINDOW = 4
"""Places of the pool's window: with 3 × 3, kernels of 3 × 3 would become 5 × 5."""

MAX_SUM = 128
"""Products in one sum of the convolution. ONNX Runtime adds longer ones up in parts, where zeros between them may round
equal sums to different numbers, and equal maxima would no longer be equal."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """A convolution and the pool behind it, with the sizes of x [.., channels, …], w and the pool's output."""

    convolution: onnx.NodeProto
    pool: onnx.NodeProto
    kernels: int
    channels: int
    size: tuple[int, ...]
    window: tuple[int, ...]
    out: tuple[int, ...]


def in_phases(graph: Graph, shapes: MutableMapping[str, Shape], trained: Collection[str], goal: str) -> None:
    """Rewrite what fits among the graph's nodes, which are in training form and lead to `goal`. Shapes of new tensors
    are added."""
    readers = Counter(name for node in graph.nodes for name in node.input)
    readers[goal] += 1
    learning, first = set(trained), dict[str, onnx.NodeProto]()
    for node in graph.nodes:
        if node.op_type == "Conv" and node.input[0] not in learning and node.input[1] in trained:
            first[node.output[0]] = node
        if learning.intersection(node.input):
            learning.update(node.output)
    for pool in [node for node in graph.nodes if node.op_type == "MaxPool"]:
        convolution = first.get(pool.input[0])
        if convolution is not None and readers[pool.input[0]] == 1:
            pair = _pair(convolution, pool, shapes)
            if pair is not None:
                _rewrite(graph, shapes, pair)


def _pair(convolution: onnx.NodeProto, pool: onnx.NodeProto, shapes: MutableMapping[str, Shape]) -> _Pair | None:
    """None where the two are of another form."""
    a, b = attributes_of(convolution), attributes_of(pool)
    names = (convolution.input[0], convolution.input[1], pool.output[0])
    x, w, y = (shapes.get(name, ()) for name in names)
    if len(x) != 4 or len(w) != 4 or len(y) != 4 or None in (*x[1:], *w, *y[1:]) or len(pool.output) > 1:
        return None
    plain = {"group": 1, "auto_pad": "NOTSET", "ceil_mode": 0, "storage_order": 0}
    if any(attributes.get(name, value) != value for attributes in (a, b) for name, value in plain.items()):
        return None
    ones, window = [1, 1], tuple(b.get("kernel_shape", ()))
    if any(list(attributes.get("dilations", ones)) != ones for attributes in (a, b)):
        return None
    if list(a.get("strides", ones)) != ones or tuple(b.get("strides", ones)) != window or any(b.get("pads", ())):
        return None
    kernels, channels, *size = (n or 0 for n in w)
    products = channels * math.prod(k + p - 1 for k, p in zip(size, window, strict=True))
    if channels > MAX_CHANNELS or math.prod(window) > MAX_WINDOW or products > MAX_SUM:
        return None
    out = tuple(n or 0 for n in y[2:])
    return _Pair(convolution, pool, kernels, channels, tuple(size), window, out)


def _rewrite(graph: Graph, shapes: MutableMapping[str, Shape], pair: _Pair) -> None:
    places = list(product(*map(range, pair.window)))
    known = len(graph.nodes)

    def made(value: Value, *shape: int | None) -> Value:
        shapes[value.name] = shape
        return value

    x, w, *bias = (Value(graph, name, shapes[name]) for name in pair.convolution.input if name)
    grown = tuple(k + p - 1 for k, p in zip(pair.size, pair.window, strict=True))
    shifted = [made(_shifted(w, place, pair.window), pair.kernels, pair.channels, *grown) for place in places]
    stack = made(graph.op("Concat", *shifted, axis=0), len(places) * pair.kernels, pair.channels, *grown)
    pads = attributes_of(pair.convolution).get("pads", [0] * 4)
    maps = made(graph.op("Conv", x, stack, strides=pair.window, pads=pads), None, len(places) * pair.kernels, *pair.out)
    length = pair.kernels * math.prod(pair.out)
    side = made(maps.reshape(-1, 1, len(places), length), None, 1, len(places), length)
    window = [len(places), 1]
    largest = made(graph.op("MaxPool", side, kernel_shape=window, strides=window), None, 1, 1, length)
    result = made(largest.reshape(-1, pair.kernels, *pair.out), None, pair.kernels, *pair.out)
    for value in bias:
        column = made(value.reshape(-1, 1, 1), pair.kernels, 1, 1)
        result = made(result + column, None, pair.kernels, *pair.out)
    graph.op("Identity", result, names=[pair.pool.output[0]])
    new = graph.nodes[known:]
    del graph.nodes[known:]
    place = next(index for index, node in enumerate(graph.nodes) if node is pair.pool)
    graph.nodes[place : place + 1] = new
    graph.nodes[:] = [node for node in graph.nodes if node is not pair.convolution]


def _shifted(w: Value, place: Sequence[int], window: Sequence[int]) -> Value:
    """The kernels with zeros around them, so that they read from `place` of the window on."""
    behind = [p - 1 - i for i, p in zip(place, window, strict=True)]
    return w.graph.op("Pad", w, w.graph.integers([0, 0, *place, 0, 0, *behind]), w.graph.lift(0.0))
