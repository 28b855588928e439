"""Operators that pick, join or repeat elements: an element's gradient is the sum over the places it was copied to.

Which places those are is often constant. Then dx is read from dy: padded, or gathered by the inverse of the index.
Where it is known at run time only, or an element was picked twice, dy is added into zeros, element by element.

ScatterND would add whole rows, ten times as fast. But ONNX Runtime (1.22 to 1.32) deals the rows out to its threads,
who add to equal rows at the same time and lose some: on two threads, 8 of 10 sums of 20,000 rows into 3 were wrong.
ScatterElements works on one thread, so that the sums are right, and the same each time.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto

from edgefl.trainer.gradients.rule import (
    CONSTANT,
    Node,
    Rule,
    constant_integers,
    constant_value,
    fixed,
    operand,
    padded,
    shaped_like,
    sum_to,
    zeros_like,
)
from edgefl.trainer.graph import Array, Value

END = 2**31 - 1
"""Exporters write this, or a larger number, for the end of an axis."""


def _concat(n: Node, dy: Value) -> list[Value]:
    axis = n.attribute("axis", 0) % n.y.rank
    lengths = n.graph.op("Concat", *(_size(x, axis) for x in n.operands), axis=0)
    names = [n.graph.fresh("~Split") for _ in n.operands]
    n.graph.op("Split", dy, lengths, names=names, axis=axis)
    return [Value(n.graph, name) for name in names]


def _split(n: Node, *dys: Value | None) -> list[Value]:
    if len(dys) != len(n.outputs):
        raise n.unsupported("an output has no name", "name every output")
    parts = [zeros_like(y) if dy is None else dy for dy, y in zip(dys, n.outputs, strict=True)]
    return [n.graph.op("Concat", *parts, axis=n.attribute("axis", 0))]


def _slice(n: Node, dy: Value) -> list[Value]:
    pads: dict[int, tuple[int, int]] = {}
    _, starts, *_ = n.operands
    for place, axis in enumerate(constant_integers(n, 3, "axes") or range(*fixed(n, starts, [0]))):
        axis %= n.x.rank
        size, bounds = n.x.shape[axis], _constant_bounds(n, place)
        if bounds and size is not None:
            picked = _picked(size, *bounds)
            if picked.step == 1:
                pads[axis] = picked.start, size - picked.start - len(picked)
            else:
                n.require_room(size)
                dy = _undo_pick(dy, n.x, axis, np.array(picked))
        elif not bounds or bounds[::2] != (0, 1) or bounds[1] < END:
            dy = _add_at(dy, _computed_slice(n, place, axis), 1, n.x, axis)
    return [padded(dy, n.x.rank, list(pads), *zip(*pads.values(), strict=True)) if pads else dy]


def _constant_bounds(n: Node, place: int) -> tuple[int, int, int] | None:
    """Start, end and step along one axis, where the model does not compute them."""
    starts, ends, steps = (constant_value(n, slot) for slot in (1, 2, 4))
    if starts is None or ends is None or (steps is None and operand(n, 4)):
        return None
    return int(starts[place]), int(ends[place]), 1 if steps is None else int(steps[place])


def _picked(size: int, start: int, end: int, step: int) -> range:
    """As ONNX counts: unlike Python's, a start before the first element is the first also where steps are negative."""
    start, end = (bound + size if bound < 0 else bound for bound in (start, end))
    first, last = (0, size) if step > 0 else (-1, size - 1)
    return range(min(max(start, 0), last), min(max(end, first), last), step)


def _computed_slice(n: Node, place: int, axis: int) -> Value:
    """The positions that are picked from one axis."""
    positions = _range(_size(n.x, axis))
    start, end, step = (
        value and _integer(value).slice([0], [place], [place + 1]) for value in (operand(n, slot) for slot in (1, 2, 4))
    )
    return n.graph.op("Slice", positions, start, end, n.graph.integers([0]), step)


def _gather(n: Node, dy: Value) -> list[Value]:
    axis = n.attribute("axis", 0) % n.x.rank
    _, indices = n.operands
    size, places = n.x.shape[axis], constant_value(n, 1)
    if size is None or places is None or places.ndim > 1:
        return [_add_at(dy, _integer(indices), indices.rank, n.x, axis)]
    if places.ndim == 0:
        dy = n.graph.op("Unsqueeze", dy, n.graph.integers([axis]))
    n.require_room(size)
    return [_undo_pick(dy, n.x, axis, places.reshape(-1) % size)]


def _undo_pick(dy: Value, x: Value, axis: int, places: Array) -> Value:
    """dy has x's axes, but along the given one what was picked there: the elements at `places`."""
    size, count = x.shape[axis] or 0, len(places)
    if (np.diff(places) == 1).all():
        first = int(places[0]) if count else 0
        return padded(dy, x.rank, [axis], [first], [size - first - count])
    if len(np.unique(places)) < count:
        return _add_at(dy, x.graph.constant(places.astype(np.int64)), 1, x, axis)
    inverse = np.full(size, count)  # what was not picked is the zero behind dy's end
    inverse[places] = np.arange(count)
    # Gather is slow along the last axis, where it copies single elements
    front = 0 if axis == x.rank - 1 else axis
    rows = padded(_moved(dy, axis, front, x.rank), x.rank, [front], [0], [int(count < size)])
    return _moved(x.graph.op("Gather", rows, x.graph.constant(inverse), axis=front), front, axis, x.rank)


def _add_at(dy: Value, places: Value, rank: int, x: Value, axis: int) -> Value:
    """Zeros like x, but in the other axes as dy, with dy added at `places` along the axis: `rank` axes, in dy too."""
    graph, others = x.graph, range(x.rank - 1)
    if axis > 0:
        dy = dy.transpose(*range(axis, axis + rank), *others[:axis], *(i + rank for i in others[axis:]))
    size = _size(x, axis)
    sums = _add_rows(graph.op("Flatten", dy, axis=rank), places, size)
    shape = graph.op("Concat", size, graph.op("Shape", dy, start=rank), axis=0)
    return _moved(graph.op("Reshape", sums, shape, allowzero=1), 0, axis, x.rank)


def _add_rows(rows: Value, places: Value, count: Value) -> Value:
    """`count` rows of zeros, end to end in one vector, rows[i] added to the one at places[i]."""
    graph = rows.graph
    width = graph.op("Shape", rows, start=1)
    positions = places.reshape(-1, 1) * width + _range(width)
    zeros = graph.op("ConstantOfShape", count * width)
    return graph.op("ScatterElements", zeros, positions.reshape(-1), rows.reshape(-1), axis=0, reduction="add")


def _gather_elements(n: Node, dy: Value) -> list[Value]:
    axis = n.attribute("axis", 0)
    return [n.graph.op("ScatterElements", zeros_like(n.x), n.inputs[1], dy, axis=axis, reduction="add")]


def _gather_nd(n: Node, dy: Value) -> list[Value]:
    if n.attribute("batch_dims", 0):
        raise n.unsupported("batch_dims is not 0", "use GatherElements, or batch_dims 0")
    _, indices = n.operands
    (depth,) = fixed(n, indices, [indices.rank - 1])
    sizes = fixed(n, n.x, range(1, depth))
    strides = n.graph.integers([math.prod(sizes[i:]) for i in range(depth)])
    places = n.graph.op("Mod", indices, n.graph.op("Shape", n.x, end=depth)) * strides  # Mod: −1 is the last
    count = _size(n.x, 0) * n.graph.integers([math.prod(sizes)])
    rows = n.graph.op("Flatten", dy, axis=indices.rank - 1)
    return [shaped_like(_add_rows(rows, places.sum(-1), count), n.x)]


def _scatter(n: Node, dy: Value) -> list[Value | None]:
    # y is x with other numbers at some places (or with something added to them)
    elements = n.operator == "ScatterElements"
    axis = {"axis": n.attribute("axis", 0)} if elements else {}
    _, places, updates = n.operands
    reduction = n.attribute("reduction", "none")
    if reduction not in ("none", "add"):
        raise n.unsupported(f"reduction {reduction!r}", "use 'none' or 'add'")
    dx = dy if reduction == "add" else n.graph.op(n.operator, dy, places, zeros_like(updates), **axis)
    return [dx, None, n.graph.op("GatherElements" if elements else "GatherND", dy, places, **axis)]


def _pad(n: Node, dy: Value) -> list[Value]:
    axes = constant_integers(n, 3, "axes") or range(n.x.rank)
    pads = constant_integers(n, 1, "pads") or ()
    edges = zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True)
    padding = {axis % n.x.rank: (before, after) for axis, before, after in edges if before or after}
    mode = n.attribute("mode", "constant")
    if mode != "constant":
        for axis, size in zip(padding, fixed(n, n.x, list(padding)), strict=True):
            if min(padding[axis]) < 0:
                raise n.unsupported(f"negative pads in mode {mode!r}", "cut with a Slice")
            n.require_room(size + sum(padding[axis]))
            dy = _undo_pick(dy, n.x, axis, np.pad(np.arange(size), padding[axis], mode=mode))
        return [dy]
    # cut off what was added, and add zeros for what was cut off
    starts = [max(before, 0) for before, _ in padding.values()]
    stops = [-after if after > 0 else END for _, after in padding.values()]
    if any(starts) or min(stops, default=END) < 0:
        dy = dy.slice(list(padding), starts, stops)
    first, last = ([max(-pair[side], 0) for pair in padding.values()] for side in (0, 1))
    return [padded(dy, n.x.rank, list(padding), first, last)]


def _expand(n: Node, dy: Value) -> list[Value]:
    return [sum_to(dy, n.y.shape, n.x)]


def _tile(n: Node, dy: Value) -> list[Value]:
    # axis i of dy is repeats[i] copies of axis i of x: two axes, the first of which is summed over
    _, repeats = n.operands
    pairs = n.graph.op("Concat", repeats.reshape(-1, 1), n.graph.op("Shape", n.x).reshape(-1, 1), axis=1)
    return [n.graph.op("Reshape", dy, pairs.reshape(-1)).sum(*range(0, 2 * n.x.rank, 2))]


def _trilu(n: Node, dy: Value) -> list[Value]:
    return [n.graph.op("Trilu", dy, *n.inputs[1:], upper=n.attribute("upper", 1))]


def _size(x: Value, axis: int) -> Value:
    """The size of one axis, as a vector of one number."""
    size = x.shape[axis]
    return x.graph.op("Shape", x, start=axis, end=axis + 1) if size is None else x.graph.integers([size])


def _range(count: Value) -> Value:
    """0, 1, … up to a number that is given as a vector."""
    zero, one = (count.graph.constant(np.array(i, np.int64)) for i in (0, 1))
    return count.graph.op("Range", zero, count.graph.op("Squeeze", count), one)


def _integer(x: Value) -> Value:
    return x.graph.op("Cast", x, to=TensorProto.INT64)


def _moved(x: Value, source: int, target: int, rank: int) -> Value:
    """One axis moved to another place."""
    order = [i for i in range(rank) if i != source]
    order.insert(target, source)
    return x if source == target else x.transpose(*order)


RULES = {
    "Concat": Rule(_concat),
    "Split": Rule(_split, slots=(0,), results=None),
    "Slice": Rule(_slice, slots=(0,)),
    "Gather": Rule(_gather, slots=(0,)),
    "GatherElements": Rule(_gather_elements, slots=(0,)),
    "GatherND": Rule(_gather_nd, slots=(0,)),
    "ScatterElements": Rule(_scatter, slots=(0, 2)),
    "ScatterND": Rule(_scatter, slots=(0, 2)),
    "Pad": Rule(_pad, slots=(0,)),
    "Expand": Rule(_expand, slots=(0,)),
    "Tile": Rule(_tile, slots=(0,)),
    "Trilu": Rule(_trilu, slots=(0,)),
    **dict.fromkeys(("Shape", "Size", "ConstantOfShape", "Range", "OneHot", "EyeLike", "Constant"), CONSTANT),
    **dict.fromkeys(("ArgMax", "ArgMin", "NonZero"), CONSTANT),
}
