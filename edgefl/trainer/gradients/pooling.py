"""Pools. Where windows lie side by side, a gradient goes back by enlarging dY to the input's grid (nearest-neighbour
Resize); only overlapping windows need the general and slower form."""

from __future__ import annotations

from itertools import product

import numpy as np

from edgefl.trainer.gradients.rule import Node, Rule, fixed, shaped_like
from edgefl.trainer.gradients.window import Window, window_of
from edgefl.trainer.graph import Array, Value


def _max_pool(n: Node, dy: Value) -> list[Value]:
    window = window_of(n, tuple(n.attribute("kernel_shape", ())))
    return [_max_side_by_side(n, dy, window) if window.tiles else _max_overlapping(n, dy)]


def _max_side_by_side(n: Node, dy: Value, window: Window) -> Value:
    """dX = dY at the first place in its window where X equals the maximum.

    The first of several equal maxima is found by a second pool over their priorities. It matters: flat image
    background ties everywhere. MaxPool's own Indices output would say it too, at 10 to 20 times the price.
    """
    covered = [o * k for o, k in zip(window.out, window.kernel, strict=True)]
    x = n.x.slice(window.axes, [0] * len(covered), covered) if any(window.slack) else n.x
    ranks = n.graph.constant(_priorities(window))
    candidates = n.graph.op("Cast", n.graph.op("Equal", x, _enlarge(n.y, window)), to=1) * ranks
    best = n.graph.op("MaxPool", candidates, kernel_shape=window.kernel, strides=window.strides)
    first = n.graph.op("Cast", n.graph.op("Equal", candidates, _enlarge(best, window)), to=1)
    return (_enlarge(dy, window) * first).pad(window.axes, [0] * len(covered), window.slack)


def _max_overlapping(n: Node, dy: Value) -> Value:
    """Scatter dY to the places that MaxPool's Indices name (flat positions in X), adding where windows share one."""
    if n.attribute("storage_order", 0) != 0:
        raise n.unsupported("storage_order 1", "export with the default storage_order 0")
    geometry = {name: value for name, value in n.attributes.items() if name != "storage_order"}
    places = Value(n.graph, n.graph.fresh("~places"))
    n.graph.op("MaxPool", n.x, names=[n.graph.fresh("~MaxPool"), places.name], **geometry)
    zeros = n.graph.op("ConstantOfShape", n.graph.op("Shape", n.x.reshape(-1)))
    spread = n.graph.op("ScatterElements", zeros, places.reshape(-1), dy.reshape(-1), axis=0, reduction="add")
    return shaped_like(spread, n.x)


def _average_pool(n: Node, dy: Value) -> list[Value]:
    window = window_of(n, tuple(n.attribute("kernel_shape", ())))
    if min(window.slack) < 0:
        raise n.unsupported("ceil_mode makes the last window reach beyond the input", "pad the input instead")
    if window.tiles:
        return [_enlarge(dy * (1.0 / window.area), window).pad(window.axes, [0] * len(window.axes), window.slack)]
    counted = np.full(window.out, window.area) if n.attribute("count_include_pad", 0) else _inside(window)
    share = dy * n.graph.constant((1.0 / counted).astype(np.float32))
    (channels,) = fixed(n, n.x, [1])
    ones = n.graph.constant(np.ones((channels, 1, *window.kernel), np.float32))
    dx = n.graph.op(
        "ConvTranspose",
        share,
        ones,
        strides=window.strides,
        dilations=window.dilations,
        pads=window.pads,
        output_padding=window.slack,
        group=channels,
    )
    return [dx]


def _global_average_pool(n: Node, dy: Value) -> list[Value]:
    size = fixed(n, n.x, range(2, n.x.rank))
    return [dy * n.graph.constant(np.full((1, 1, *size), 1.0 / np.prod(size), np.float32))]


def _enlarge(value: Value, window: Window) -> Value:
    """Each place repeated over its window."""
    scales = value.graph.constant(np.array([1, 1, *window.kernel], np.float32))
    return value.graph.op(
        "Resize",
        value,
        None,
        scales,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def _priorities(window: Window) -> Array:
    """Within each window area, area−1, …, 1: the first place ranks highest, none is 0."""
    one = np.arange(window.area, 0, -1, dtype=np.float32).reshape(window.kernel)
    return np.tile(one, window.out)[None, None]


def _inside(window: Window) -> Array:
    """How many places of each window lie inside the input, padding not counted."""
    counts = []
    for size, out, stride, kernel, dilation, before in zip(
        window.size, window.out, window.strides, window.kernel, window.dilations, window.before, strict=True
    ):
        reads = [[o * stride + k * dilation - before for k in range(kernel)] for o in range(out)]
        counts.append([sum(0 <= place < size for place in places) for places in reads])
    return np.array([np.prod(c) for c in product(*counts)]).reshape(window.out)


RULES = {
    "MaxPool": Rule(_max_pool),
    "AveragePool": Rule(_average_pool),
    "GlobalAveragePool": Rule(_global_average_pool),
}
