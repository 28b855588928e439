"""Non-linearities, element by element: dx = f'(x) · dy.

A step is written as a clipped straight line, one or two nodes over one array: comparing and choosing (Where) takes ten
times as long. Where the slope follows from y, y is used: the next layer needs it anyway, and x can be forgotten.
"""

from __future__ import annotations

import math

from edgefl.trainer.gradients.rule import LARGE, Node, Rule, one_minus, sum_to
from edgefl.trainer.graph import Value


def _relu(n: Node, dy: Value) -> list[Value]:
    return [dy * _positive(n.y)]


def _leaky_relu(n: Node, dy: Value) -> list[Value]:
    alpha = n.attribute("alpha", 0.01)
    return [dy * _step(n.y if alpha > 0 else n.x, alpha, 1.0)]


def _prelu(n: Node, dy: Value) -> list[Value]:
    # y = x above 0 and w x below
    x, w = n.operands
    return [dy * (_positive(x) * one_minus(w) + w), sum_to(dy * _at_most_0(x), n.y.shape, w)]


def _thresholded_relu(n: Node, dy: Value) -> list[Value]:
    return [dy * _positive(n.x - n.attribute("alpha", 1.0))]


def _elu(n: Node, dy: Value) -> list[Value]:
    return [dy * _exponential_slope(n, n.attribute("alpha", 1.0), 1.0)]


def _selu(n: Node, dy: Value) -> list[Value]:
    alpha, gamma = n.attribute("alpha", 1.6732632), n.attribute("gamma", 1.0507010)
    return [dy * _exponential_slope(n, gamma * alpha, gamma)]


def _celu(n: Node, dy: Value) -> list[Value]:
    # y = α (exp(x / α) − 1) below 0: its slope is y / α + 1
    return [dy * (_at_most_0(n.y) * (1.0 / n.attribute("alpha", 1.0)) + 1.0)]


def _sigmoid(n: Node, dy: Value) -> list[Value]:
    return [dy * n.y * one_minus(n.y)]


def _hard_sigmoid(n: Node, dy: Value) -> list[Value]:
    return [dy * (_between_0_and_1(n.y) * n.attribute("alpha", 0.2))]


def _tanh(n: Node, dy: Value) -> list[Value]:
    return [dy * one_minus(n.y * n.y)]


def _softplus(n: Node, dy: Value) -> list[Value]:
    return [dy * n.graph.op("Sigmoid", n.x)]


def _softsign(n: Node, dy: Value) -> list[Value]:
    # y = x / (1 + |x|): y' = 1 / (1 + |x|)² = (1 − |y|)²
    root = one_minus(n.graph.op("Abs", n.y))
    return [dy * (root * root)]


def _hard_swish(n: Node, dy: Value) -> list[Value]:
    # y = x h, h = clip(x/6 + ½, 0, 1): y' = h + x/6 between the bends, where x/6 = h − ½
    h = n.graph.op("HardSigmoid", n.x, alpha=1.0 / 6.0, beta=0.5)
    return [dy * (h + _between_0_and_1(h) * (h - 0.5))]


def _mish(n: Node, dy: Value) -> list[Value]:
    # y = x t, t = tanh(softplus x). With q = σ(−x): t = 2/(1 + q²) − 1 and t' = (1 − q) (2q/(1 + q²))².
    # Softplus would take forty times as long as Sigmoid.
    op = n.graph.op
    q = op("Sigmoid", -n.x)
    r = n.graph.lift(2.0) / (q * q + 1.0)
    rq = r * q
    return [dy * (r - 1.0 + n.x * one_minus(q) * (rq * rq))]


def _gelu(n: Node, dy: Value) -> list[Value]:
    return [dy * (_gelu_slope_tanh(n) if n.attribute("approximate", "none") == "tanh" else _gelu_slope(n))]


def _gelu_slope(n: Node) -> Value:
    # y = x Φ(x): y' = Φ + x φ with the normal distribution Φ = ½ + ½ erf t and x φ = t exp(−t²) / √π at t = x / √2
    op = n.graph.op
    t = n.x * math.sqrt(0.5)
    distribution = op("HardSigmoid", op("Erf", t), alpha=0.5, beta=0.5)
    return distribution + t * op("Exp", -0.5 * math.log(math.pi) - t * t)


def _gelu_slope_tanh(n: Node) -> Value:
    # y = x s, s = σ(u), u = a x + b x³ (σ(2v) = ½ + ½ tanh v): y' = s (1 + (1 − s) x u') and x u' = a x + 3 b x³
    a = math.sqrt(8.0 / math.pi)
    b = 0.044715 * a
    square = n.x * n.x
    s = n.graph.op("Sigmoid", (square * b + a) * n.x)
    return s * (one_minus(s) * ((square * (3.0 * b) + a) * n.x) + 1.0)


def _positive(x: Value) -> Value:
    """[x > 0] as one node: HardSigmoid(x) = clip(LARGE · x, 0, 1)."""
    return x.graph.op("HardSigmoid", x, alpha=LARGE, beta=0.0)


def _between_0_and_1(y: Value) -> Value:
    """[0 < y < 1] for y from 0 to 1."""
    return _positive(y - y * y)


def _step(x: Value, below: float, above: float) -> Value:
    """`below` for x < 0, `above` for x > 0, one of both or between at 0."""
    lift = x.graph.lift
    steep = x * (LARGE if below <= above else -LARGE)
    return x.graph.op("Clip", steep, lift(min(below, above)), lift(max(below, above)))


def _at_most_0(x: Value) -> Value:
    return x.graph.op("Clip", x, None, x.graph.lift(0.0))


def _exponential_slope(n: Node, below: float, above: float) -> Value:
    """The slope of y = above · x for x > 0 and below · (eˣ − 1) for x ≤ 0, which is y + below."""
    if min(below, above) < 0:
        raise n.unsupported("its alpha or gamma is negative", "export it with positive ones")
    return _at_most_0(n.y) + (below if below == above else _step(n.y, below, above))


RULES = {
    "Relu": Rule(_relu),
    "LeakyRelu": Rule(_leaky_relu),
    "PRelu": Rule(_prelu),
    "ThresholdedRelu": Rule(_thresholded_relu),
    "Elu": Rule(_elu),
    "Selu": Rule(_selu),
    "Celu": Rule(_celu),
    "Sigmoid": Rule(_sigmoid),
    "HardSigmoid": Rule(_hard_sigmoid),
    "Tanh": Rule(_tanh),
    "Softplus": Rule(_softplus),
    "Softsign": Rule(_softsign),
    "HardSwish": Rule(_hard_swish),
    "Mish": Rule(_mish),
    "Gelu": Rule(_gelu),
}
