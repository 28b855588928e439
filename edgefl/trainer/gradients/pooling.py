"""Pools. Where windows lie side by side, a gradient goes back by enlarging dY to the input's grid (nearest-neighbour
Resize); only overlapping windows need the general and slower form."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np

from edgefl.trainer.gradients.forward import replacing
from edgefl.trainer.gradients.rule import Node, Rule, equals, fixed, padded, shaped_like, zeros_like
from edgefl.trainer.gradients.window import Window, window_of
from edgefl.trainer.graph import Array, Value


def _max_pool(n: Node, dy: Value) -> list[Value]:
    window = _window(n)
    return [_max_side_by_side(n, dy, window) if window.tiles else _max_overlapping(n, dy)]


def _max_side_by_side(n: Node, dy: Value, window: Window) -> Value:
    """dX = dY at the first place in its window where X equals the maximum.

    The first of several equal maxima is found by a second pool over their priorities. It matters: flat image
    background ties everywhere. MaxPool's own Indices output would say it too, at 10 to 20 times the price.

    Both pools run over [1, batch · channels, …]: where ONNX Runtime knows the number of channels it brings pools, and
    what reads them, into a layout in blocks, and the way there and back costs more than they gain (together with the
    gradient, 1.1 to 1.3 times).
    """
    n.require_room(*window.out, *window.kernel)
    axes = [axis for axis, kernel in zip(window.axes, window.kernel, strict=True) if kernel > 1]
    # a window that is a whole axis needs no grid: numbers of windows meet those of places by broadcasting
    whole = axes and not any(window.slack) and all(window.out[axis - 2] == 1 for axis in axes)

    def largest(value: Value, **attributes: Any) -> Value:
        if whole:
            return n.graph.op("ReduceMax", value, n.graph.integers(axes), keepdims=1)
        return n.graph.op("MaxPool", value, **attributes)

    def enlarged(value: Value) -> Value:
        return value if whole else _enlarge(value, window)

    with replacing(n):
        x = n.x.reshape(1, -1, *window.size)
        pooled = largest(x, **n.attributes)
        shape = n.graph.integers([-1, *fixed(n, n.y, range(1, n.y.rank))])
        n.graph.op("Reshape", pooled, shape, names=[n.y.name])
    if any(window.slack):
        x = x.slice(window.axes, [0] * len(window.axes), np.multiply(window.out, window.kernel).tolist())
    candidates = equals(x, enlarged(pooled)) * n.graph.constant(_priorities(window, tiled=not whole))
    best = largest(candidates, kernel_shape=window.kernel, strides=window.strides)
    slopes = enlarged(dy.reshape(1, -1, *window.out))
    dx = _uncovered(slopes * equals(candidates, enlarged(best)), window)
    return dx.reshape(-1, *fixed(n, n.x, range(1, n.x.rank)))


def _max_overlapping(n: Node, dy: Value) -> Value:
    """Scatter dY to the places that MaxPool's Indices name (flat positions in X), adding where windows share one."""
    if n.attribute("storage_order", 0) != 0:
        raise n.unsupported("storage_order 1", "export with the default storage_order 0")
    geometry = {name: value for name, value in n.attributes.items() if name != "storage_order"}
    places = Value(n.graph, n.graph.fresh("~places"))
    n.graph.op("MaxPool", n.x, names=[n.graph.fresh("~MaxPool"), places.name], **geometry)
    zeros = zeros_like(n.x.reshape(-1))
    spread = n.graph.op("ScatterElements", zeros, places.reshape(-1), dy.reshape(-1), axis=0, reduction="add")
    return shaped_like(spread, n.x)


def _global_max_pool(n: Node, dy: Value) -> list[Value]:
    """dX = dY at the first maximum, as for MaxPool."""
    size = fixed(n, n.x, range(2, n.x.rank))
    n.require_room(*size)
    places = n.graph.constant(np.arange(np.prod(size), dtype=np.int64))
    first = n.graph.op("ArgMax", n.x.reshape(0, 0, -1), axis=2)
    return [dy * equals(first, places).reshape(0, 0, *size)]


def _average_pool(n: Node, dy: Value) -> list[Value]:
    window = _window(n)
    if window.tiles:
        return [_uncovered(_enlarge(dy * (1.0 / window.area), window), window)]
    (channels,) = fixed(n, n.x, [1])
    for out, kernel in zip(window.out, window.kernel, strict=True):
        n.require_room(out, kernel)
    n.require_room(*window.out)
    n.require_room(channels, window.area)
    inside = _inside(window)
    if not inside.all():
        raise n.unsupported("a window holds nothing but padding", "pad less than the kernel reaches")
    share = n.graph.constant((1.0 / inside).astype(np.float32))
    if n.attribute("count_include_pad", 0):
        # the operator's own answer: what counts at the far edge differs between versions of ONNX Runtime
        ones = n.graph.op("Expand", n.graph.lift(1.0), n.graph.integers([1, 1, *window.size]))
        share = n.graph.op("AveragePool", ones, **n.attributes) * share
    sticking_out = [max(0, -places) for places in window.slack]
    dx = n.graph.op(
        "ConvTranspose",
        dy * share,
        n.graph.constant(np.ones((channels, 1, *window.kernel), np.float32)),
        strides=window.strides,
        dilations=window.dilations,
        pads=[*window.before, *np.add(window.after, sticking_out)],
        output_padding=[max(0, places) for places in window.slack],
        group=channels,
    )
    return [dx]


def _global_average_pool(n: Node, dy: Value) -> list[Value]:
    size = fixed(n, n.x, range(2, n.x.rank))
    n.require_room(*size)
    return [dy * n.graph.constant(np.full((1, 1, *size), 1.0 / np.prod(size), np.float32))]


def _window(n: Node) -> Window:
    window = window_of(n, tuple(n.attribute("kernel_shape", ())))
    starts = [(o - 1) * s - b for o, s, b in zip(window.out, window.strides, window.before, strict=True)]
    if any(start >= size for start, size in zip(starts, window.size, strict=True)):
        raise n.unsupported("ceil_mode adds a window that begins behind the input", "pad less, or without ceil_mode")
    return window


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


def _uncovered(dx: Value, window: Window) -> Value:
    """With zeros for the input places behind the last window."""
    return padded(dx, 2 + len(window.axes), window.axes, (0,) * len(window.axes), window.slack)


def _priorities(window: Window, *, tiled: bool) -> Array:
    """Within each window area, area−1, …, 1: the first place ranks highest, none is 0."""
    one = np.arange(window.area, 0, -1, dtype=np.float32).reshape(window.kernel)
    return (np.tile(one, window.out) if tiled else one)[None, None]


def _inside(window: Window) -> Array:
    """How many places of each window lie inside the input, padding not counted."""
    counts = []
    for i, size in enumerate(window.size):
        first = np.arange(window.out[i])[:, None] * window.strides[i] - window.before[i]
        reads = first + np.arange(window.kernel[i]) * window.dilations[i]
        counts.append(((reads >= 0) & (reads < size)).sum(axis=1))
    return reduce(np.multiply.outer, counts)


RULES = {
    "MaxPool": Rule(_max_pool),
    "GlobalMaxPool": Rule(_global_max_pool),
    "AveragePool": Rule(_average_pool),
    "GlobalAveragePool": Rule(_global_average_pool),
}
