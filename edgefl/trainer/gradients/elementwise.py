"""Element by element, with broadcasting.

Where a function has a kink, one of its two slopes is taken: Clip passes dy at its bounds, Abs nothing at 0, and inputs
that tie for a Max or Min share dy equally.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from onnx import TensorProto

from edgefl.trainer.gradients.rule import (
    CONSTANT,
    LARGE,
    Node,
    Rule,
    constant_value,
    equals,
    indicator,
    sign,
    sum_to,
)
from edgefl.trainer.graph import Array, Value

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def _function(dx: Callable[[Value, Value, Value], Value]) -> Rule:
    """y = f(x): dx as a function of dy, x and y."""
    return Rule(lambda n, dy: [dx(dy, n.x, n.y)])


def _apply(operator: str, x: Value) -> Value:
    return x.graph.op(operator, x)


def _add(n: Node, dy: Value) -> list[Value]:
    return [sum_to(dy, n.y.shape, x) for x in n.operands]


def _mean(n: Node, dy: Value) -> list[Value]:
    return _add(n, dy * (1.0 / len(n.operands)))


def _sub(n: Node, dy: Value) -> list[Value]:
    a, b = n.operands
    return [sum_to(dy, n.y.shape, a), -sum_to(dy, n.y.shape, b)]


def _mul(n: Node, dy: Value) -> list[Value]:
    a, b = n.operands
    return [sum_to(dy * b, n.y.shape, a), sum_to(dy * a, n.y.shape, b)]


def _div(n: Node, dy: Value) -> list[Value]:
    a, b = n.operands
    da = dy / b
    return [sum_to(da, n.y.shape, a), -sum_to(da * n.y, n.y.shape, b)]


def _mod(n: Node, dy: Value) -> list[Value]:
    # y = a − k b with a whole number k, constant between the jumps
    a, b = n.operands
    k = _apply("Round", (a - n.y) / b)
    return [sum_to(dy, n.y.shape, a), -sum_to(dy * k, n.y.shape, b)]


def _pow(n: Node, dy: Value) -> list[Value]:
    # ∂xᵖ/∂x = p xᵖ⁻¹, and ∂xᵖ/∂p = xᵖ log x. Where p = 0, 0 · x⁰ stands for 0 · x⁻¹, and where x = 0, 0ᵖ · log 1 for
    # 0ᵖ · log 0: the products would be NaN there.
    x, p = n.operands
    exponent = constant_value(n, 1)
    if exponent is not None:
        return [sum_to(_constant_power(n, dy, exponent.astype(np.float32)), n.y.shape, x)]
    p = n.graph.op("Cast", p, to=TensorProto.FLOAT)
    dx = dy * p * n.graph.op("Pow", x, p - 1.0 + equals(p, 0.0))
    dp = dy * n.y * _apply("Log", x + equals(x, 0.0))
    return [sum_to(dx, n.y.shape, x), sum_to(dp, n.y.shape, n.operands[1])]


def _constant_power(n: Node, dy: Value, p: Array) -> Value:
    x, common = n.x, p.flat[0] if np.ptp(p) == 0 else None
    if common == 0.5:
        return dy * 0.5 / n.y
    if common in (2, 3):
        return dy * (x if common == 2 else x * x) * float(common)
    less = np.where(p == 0, np.float32(0), p - 1)
    return dy * n.graph.op("Pow", x, n.graph.constant(less)) * n.graph.constant(p)


def _extreme(n: Node, dy: Value) -> list[Value]:
    if len(n.operands) == 2:
        # [a wins] + ½ [a = b] = clip(±LARGE · (a − b) + ½, 0, 1) as one node; what a does not get is b's
        a, b = n.operands
        won = n.graph.op("HardSigmoid", a - b, alpha=LARGE if n.operator == "Max" else -LARGE, beta=0.5)
        da = dy * won
        return [sum_to(da, n.y.shape, a), sum_to(dy - da, n.y.shape, b)]
    masks = [equals(x, n.y) for x in n.operands]
    share = dy / n.graph.op("Sum", *masks)
    return [sum_to(share * mask, n.y.shape, x) for mask, x in zip(masks, n.operands, strict=True)]


def _where(n: Node, dy: Value) -> list[Value | None]:
    condition, a, b = n.operands
    otherwise = _apply("Not", condition)
    return [None, sum_to(dy * indicator(condition), n.y.shape, a), sum_to(dy * indicator(otherwise), n.y.shape, b)]


def _cast(n: Node, dy: Value) -> Sequence[Value]:
    return [n.graph.op("CastLike", dy, n.x)] if n.attribute("to", 0) in FLOATS else []


RULES = {
    "Add": Rule(_add),
    "Sum": Rule(_add),
    "Mean": Rule(_mean),
    "Sub": Rule(_sub),
    "Mul": Rule(_mul),
    "Div": Rule(_div),
    "Mod": Rule(_mod),
    "Pow": Rule(_pow),
    "Max": Rule(_extreme),
    "Min": Rule(_extreme),
    "Where": Rule(_where, slots=(1, 2)),
    "Cast": Rule(_cast),
    "Clip": Rule(lambda n, dy: [dy * equals(n.x, n.y)], slots=(0,)),  # x = y where nothing was clipped
    "Neg": _function(lambda dy, x, y: -dy),
    "Abs": _function(lambda dy, x, y: dy * sign(x)),
    "Reciprocal": _function(lambda dy, x, y: -(dy * y * y)),
    "Sqrt": _function(lambda dy, x, y: dy * 0.5 / y),
    "Exp": _function(lambda dy, x, y: dy * y),
    "Log": _function(lambda dy, x, y: dy / x),
    "Sin": _function(lambda dy, x, y: dy * _apply("Cos", x)),
    "Cos": _function(lambda dy, x, y: -(dy * _apply("Sin", x))),
    # 2/√π · exp(−x²), the factor inside the exponent
    "Erf": _function(lambda dy, x, y: dy * _apply("Exp", math.log(2 / math.sqrt(math.pi)) - x * x)),
    **dict.fromkeys(("Sign", "Floor", "Ceil", "Round", "IsNaN", "IsInf", "Not", "And", "Or", "Xor"), CONSTANT),
    **dict.fromkeys(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"), CONSTANT),
}
