"""Enlarging and shrinking images.

Every mode of Resize is linear and acts on each axis apart: y = M x along an axis, hence dx = Mᵀ dy, axis after axis. M
is found by asking the operator itself: resizing the unit vectors of the axis gives Mᵀ row by row. Whatever a mode makes
of edges and rounding, its gradient makes the same. ONNX Runtime computes M once, when it loads the graph.

Upsampling that repeats every place a whole number of times, the usual kind, goes back faster: by sums over blocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from edgefl.trainer.gradients.rule import Node, Rule, constant_value, fixed, operand, shaped_like
from edgefl.trainer.graph import Value

LONGEST = 1024
"""Places along an axis up to which M may grow: 4 MB."""

REPEATING = {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil")}
"""Ways to find the nearest place that, enlarging by a whole number, use every place equally often."""

Scales = Mapping[int, float | None]
"""Of the axes that change: the factor, None where sizes are given instead."""


def _resize(n: Node, dy: Value) -> list[Value]:
    if _coordinates(n) == "tf_crop_and_resize":
        raise n.unsupported("coordinate_transformation_mode tf_crop_and_resize", "crop with Slice, then resize")
    scales = _scales(n)
    if not scales:
        return [dy]
    if blocks := _blocks(n, scales):
        # AveragePool sums in a third of the time of ReduceSum
        return [n.graph.op("AveragePool", dy, kernel_shape=blocks, strides=blocks) * float(math.prod(blocks))]
    for axis, scale in scales.items():
        dy = _back_along(n, dy, axis, scale)
    return [shaped_like(dy, n.x)]


def _coordinates(n: Node) -> str:
    mode: str = n.attribute("coordinate_transformation_mode", "half_pixel")
    return mode


def _scales(n: Node) -> Scales:
    if operand(n, 3) is not None:
        if n.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
            raise n.unsupported("a keep_aspect_ratio_policy", "export it with the sizes that come out")
        return {axis: None for axis in range(n.x.rank) if n.x.shape[axis] != n.y.shape[axis]}
    factors = constant_value(n, 2)
    if factors is None:
        raise n.unsupported("its scales are computed by the model", "export it with constant scales, or with sizes")
    axes = [axis % n.x.rank for axis in n.attribute("axes", range(n.x.rank))]
    return {axis: float(factor) for axis, factor in sorted(zip(axes, factors, strict=True)) if factor != 1}


def _blocks(n: Node, scales: Scales) -> tuple[int, ...]:
    """How often each place is repeated along each spatial axis, if that is all that happens; else nothing."""
    nearest = _coordinates(n), n.attribute("nearest_mode", "round_prefer_floor")
    if n.attribute("mode", "nearest") != "nearest" or nearest not in REPEATING:
        return ()
    axes = range(2, n.x.rank)
    sizes, out = fixed(n, n.x, axes), fixed(n, n.y, axes)
    blocks = tuple(o // size for o, size in zip(out, sizes, strict=True))
    whole = all(scales.get(axis) in (None, block) for axis, block in zip(axes, blocks, strict=True))
    filled = all(size * block == o for size, block, o in zip(sizes, blocks, out, strict=True))
    return blocks if whole and filled and min(scales) >= 2 and n.x.rank <= 5 else ()


def _back_along(n: Node, dy: Value, axis: int, scale: float | None) -> Value:
    """Mᵀ dy along one axis. dy has the shape of x before that axis, of y behind it, rows of both maybe merged."""
    graph = n.graph
    (size,), (out, *behind) = fixed(n, n.x, [axis]), fixed(n, n.y, range(axis, n.y.rank))
    if scale is not None and size == out:  # ONNX Runtime copies when no size changes at all, and interpolates otherwise
        raise n.unsupported(f"a scale of {scale:g} that leaves axis {axis} as long as it is", "export it with sizes")
    if max(size, out) > LONGEST:
        raise n.unsupported(f"axis {axis} is longer than {LONGEST}", "enlarge by a whole number, mode nearest")
    result = (
        (None, graph.integers([size, out])) if scale is None else (graph.constant(np.array([1, scale], np.float32)),)
    )
    how = {key: value for key, value in n.attributes.items() if key not in ("axes", "keep_aspect_ratio_policy")}
    matrix = graph.op("Resize", graph.constant(np.eye(size, dtype=np.float32)), None, *result, **how)
    if not behind:
        return graph.matmul(dy.reshape(-1, out), matrix, (2, 2), transpose_b=True)
    return matrix @ dy.reshape(-1, out, math.prod(behind))


RULES = {"Resize": Rule(_resize, slots=(0,))}
