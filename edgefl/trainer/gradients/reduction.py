"""Sums, means and extremes along axes.

The rules see y and dy with every reduced axis as a 1, as with keepdims, so that they broadcast against x. What is one
number per reduced group is computed there, before anything of the size of x.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from onnx import TensorProto

from edgefl.trainer.gradients.rule import Node, Rule, constant_integers, equals, sign
from edgefl.trainer.graph import Value

TINY = 1e-20
"""Norms below this count as this: x / ‖x‖ goes to 0 with x there. float32's squares vanish below 4e-23."""

SAME_WITHOUT_AXES = frozenset({"ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSumExp"})
"""Reductions that leave x as it is where there is nothing to reduce over. Of the others, |x| for example, ONNX Runtime
computes the element-wise part in newer versions only."""


def _reduction(dx: Callable[[Node, Value, Value, Value], Value]) -> Rule:
    """dx as a function of the node, dy, x and y."""

    def gradient(n: Node, dy: Value) -> list[Value]:
        axes = _axes(n)
        if axes or n.x.rank == 0:
            return [dx(n, _kept(n, dy, axes), n.x, _kept(n, n.y, axes))]
        if n.operator not in SAME_WITHOUT_AXES:
            raise n.unsupported("noop_with_empty_axes without axes", "leave the node out, or name the axes")
        return [dy]

    return Rule(gradient, slots=(0,))


def _axes(n: Node) -> tuple[int, ...]:
    """What is reduced over, counted from the front."""
    axes = constant_integers(n, 1, "axes")
    if not axes and not n.attribute("noop_with_empty_axes", 0):
        axes = tuple(range(n.x.rank))
    return tuple(axis % n.x.rank for axis in axes or ())


def _kept(n: Node, value: Value, axes: tuple[int, ...]) -> Value:
    keep = n.attribute("keepdims", 1) or not axes
    return value if keep else n.graph.op("Unsqueeze", value, n.graph.integers(sorted(axes)))


def _spread(n: Node, value: Value) -> Value:
    """One number per group, copied to every element of it."""
    axes = _axes(n)
    sizes = [n.x.shape[i] if i in axes else 1 for i in range(n.x.rank)]
    known = [size for size in sizes if size is not None]
    shape = n.graph.integers(known) if known == sizes else n.graph.op("Shape", n.x)
    return n.graph.op("Expand", value, shape)


def _share(n: Node) -> Value | float:
    """1 / the number of elements of a group."""
    sizes = [n.x.shape[axis] for axis in _axes(n)]
    known = [size for size in sizes if size is not None]
    if known == sizes:
        return 1.0 / math.prod(known)
    groups, elements = (n.graph.op("Cast", n.graph.op("Size", value), to=TensorProto.FLOAT) for value in (n.y, n.x))
    return groups / elements


def _extreme(n: Node, dy: Value, x: Value, y: Value) -> Value:
    # elements that tie share dy equally
    mask = equals(x, y)
    return mask * (dy / mask.sum(*_axes(n), keep=True))


def _norm(n: Node, dy: Value, x: Value, y: Value) -> Value:
    return x * (dy / n.graph.op("Max", y, n.graph.lift(TINY)))


def _product(n: Node, dy: Value, x: Value, y: Value) -> Value:
    # ∂y/∂xᵢ is the product of the others: 0 if one of them is; else the product of all that are not 0, without xᵢ
    zero = equals(x, 0.0)
    filled = x + zero
    product = n.graph.op("ReduceProd", filled, n.graph.integers(_axes(n)))
    other_zeros = zero.sum(*_axes(n), keep=True) - zero
    none = n.graph.op("HardSigmoid", other_zeros, alpha=-1.0, beta=1.0)
    return none * (dy * product) / filled


def _cumulative_sum(n: Node, dy: Value) -> list[Value]:
    exclusive, reverse = n.attribute("exclusive", 0), n.attribute("reverse", 0)
    return [n.graph.op("CumSum", dy, n.inputs[1], exclusive=exclusive, reverse=1 - reverse)]


RULES = {
    "ReduceSum": _reduction(lambda n, dy, x, y: _spread(n, dy)),
    "ReduceMean": _reduction(lambda n, dy, x, y: _spread(n, dy * _share(n))),
    "ReduceMax": _reduction(_extreme),
    "ReduceMin": _reduction(_extreme),
    "ReduceProd": _reduction(_product),
    "ReduceL1": _reduction(lambda n, dy, x, y: sign(x) * dy),
    "ReduceL2": _reduction(_norm),
    "ReduceSumSquare": _reduction(lambda n, dy, x, y: x * (dy * 2.0)),
    "ReduceLogSum": _reduction(lambda n, dy, x, y: _spread(n, dy * n.graph.op("Exp", -y))),
    "ReduceLogSumExp": _reduction(lambda n, dy, x, y: n.graph.op("Exp", x - y) * dy),
    "CumSum": Rule(_cumulative_sum, slots=(0,)),
}
