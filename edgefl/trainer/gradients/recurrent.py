"""LSTM and GRU, unrolled backwards.

The stock kernel runs forward and keeps nothing but Y, the states h of all steps. What else the backward pass needs is
computed again, for all steps at once: the gates from x and the state before, in one matrix product. Going back, a step
is a product with R and a few small operations; the gradients of the weights are one product over all steps at the end.

In here a matrix has one row per step and sample in the order of time ("rows"), or, for a single step, one per sample.
A direction that runs from the last step to the first differs in that order alone.

Weights follow ONNX: W [directions, gates · hidden, features], R [directions, gates · hidden, hidden] and the biases of
both in B. The gates are i o f c (input, output, forget, cell), or z r h (update, reset, hidden).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from onnx import numpy_helper

from edgefl.trainer.gradients.forward import outputs_of
from edgefl.trainer.gradients.rule import Node, Rule, fixed, one_minus, shaped_like
from edgefl.trainer.graph import Graph, Value

ACTIVATIONS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"]}

MAX_STEPS = 2048
"""Each becomes 20 nodes, twice that for both directions."""


@dataclass(frozen=True, slots=True)
class _Pass:
    """One direction of a layer. `order`: its steps as it takes them; `h`, `c`: the first states, zero if absent; `dy`,
    `dh`, `dc`: what arrived for all states, the last one, the last cell."""

    node: Node
    features: int
    hidden: int
    order: Sequence[int]
    x: Value
    y: Value
    w: Value
    r: Value
    bias: Value | None
    h: Value | None
    c: Value | None
    dy: Value | None
    dh: Value | None
    dc: Value | None

    @property
    def graph(self) -> Graph:
        return self.node.graph

    def steps(self, rows: Value) -> list[Value]:
        return _split(rows, 0, count=len(self.order))

    def before(self, states: Sequence[Value], first: Value | None) -> Value:
        """The state that each step starts from, as rows."""
        first = first or states[0] * 0.0
        return _concat([first, *states[:-1]] if self.order[0] == 0 else [*states[1:], first], 0)

    def gemm(self, a: Value, b: Value, c: Value | None = None, *, turn_a: bool = False, turn_b: bool = False) -> Value:
        """op(a) · op(b) + c, where op may transpose."""
        return self.graph.op("Gemm", a, b, c, transA=int(turn_a), transB=int(turn_b))

    def backwards(self, step: Callable[[int, Value, Value | None], Value]) -> Value:
        """From the last step to the first. A step is given the gradient of its state, and what else arrived for the
        state that it started from; it returns the gradient of that one."""
        arrived = dict(enumerate(self.steps(self.dy))) if self.dy else {}
        last = self.order[-1]
        ends = [value for value in (self.dh, arrived.get(last)) if value]
        dh = self.graph.op("Sum", *ends) if ends else self.steps(self.y)[last] * 0.0
        for t, earlier in zip(self.order[::-1], [*self.order[-2::-1], None], strict=True):
            dh = step(t, dh, None if earlier is None else arrived.get(earlier))
        return dh


@dataclass(frozen=True, slots=True)
class _Gradients:
    """Of one direction, in the order of the operator's inputs."""

    x: Value
    w: Value
    r: Value
    bias: Value
    h: Value
    c: Value | None = None


def _lstm(p: _Pass) -> _Gradients:
    # c' = f ∘ c + i ∘ g and h = o ∘ tanh c', where g is the candidate; c' is the cell after the step, c before it
    before = p.before(p.steps(p.y), p.h)
    inputs, weights = _concat([p.x, before], 1), _concat([p.w, p.r], 1)
    bias = p.graph.op("Sum", *_split(p.bias, 0, count=2)) if p.bias else None
    gates, g = _split(p.gemm(inputs, weights, bias, turn_b=True), 1, parts=(3 * p.hidden, p.hidden))
    gates, g = p.graph.op("Sigmoid", gates), p.graph.op("Tanh", g)
    i, o, f = _split(gates, 1, count=3)

    kept, added = p.steps(f), p.steps(i * g)
    cells, cell = list(added), p.c
    for t in p.order:
        cell = added[t] + kept[t] * cell if cell else added[t]
        cells[t] = cell
    squashed = p.graph.op("Tanh", _concat(cells, 0))

    # how the gates before their activation enter: i, f and g by the cell after the step, o by the state
    slope = (gates - gates * gates) * _concat([g, squashed, p.before(cells, p.c)], 1)
    slopes = p.steps(_concat([slope, i * one_minus(g * g)], 1))
    shown = p.steps(o * one_minus(squashed * squashed))
    dgates, dcell = list(slopes), p.dc

    def step(t: int, dh: Value, arrived: Value | None) -> Value:
        nonlocal dcell
        dcell = dh * shown[t] + dcell if dcell else dh * shown[t]
        dgates[t] = _concat([dcell, dh, dcell, dcell], 1) * slopes[t]
        dcell = dcell * kept[t]
        return p.gemm(dgates[t], p.r, arrived)

    dh = p.backwards(step)
    dz = _concat(dgates, 0)
    dw, dr = _split(p.gemm(dz, inputs, turn_a=True), 1, parts=(p.features, p.hidden))
    dbias = dz.sum(0)
    return _Gradients(p.gemm(dz, p.w), dw, dr, _concat([dbias, dbias], 0), dh, dcell)


def _gru(p: _Pass) -> _Gradients:
    # h = z ∘ h₀ + (1 − z) ∘ g, where h₀ is the state before and g the candidate
    if p.node.attribute("linear_before_reset", 0):
        return _gru_reset_after(p)
    # g = tanh(x W + (r ∘ h₀) R)
    before = p.before(p.steps(p.y), p.h)
    r_gates, r_own = _split(p.r, 0, parts=(2 * p.hidden, p.hidden))
    b_x, b_h = _split(p.bias, 0, count=2) if p.bias else (None, None)
    b_gates, b_own = _split(b_h, 0, parts=(2 * p.hidden, p.hidden)) if b_h else (None, None)
    gates, own = _split(p.gemm(p.x, p.w, b_x, turn_b=True), 1, parts=(2 * p.hidden, p.hidden))
    gates = p.graph.op("Sigmoid", gates + p.gemm(before, r_gates, b_gates, turn_b=True))
    z, r = _split(gates, 1, count=2)
    reset = r * before
    g = p.graph.op("Tanh", own + p.gemm(reset, r_own, b_own, turn_b=True))

    to_own = p.steps(one_minus(z) * one_minus(g * g))
    to_gates = p.steps((gates - gates * gates) * _concat([before - g, before], 1))
    kept, let = p.steps(z), p.steps(r)
    dgates, down = list(to_gates), list(to_own)

    def step(t: int, dh: Value, arrived: Value | None) -> Value:
        down[t] = dh * to_own[t]
        dreset = p.gemm(down[t], r_own)
        dgates[t] = _concat([dh, dreset], 1) * to_gates[t]
        direct = dh * kept[t] + dreset * let[t]
        return p.gemm(dgates[t], r_gates, direct + arrived if arrived else direct)

    dh = p.backwards(step)
    both = _concat(dgates, 0), _concat(down, 0)
    dr = _concat([p.gemm(d, state, turn_a=True) for d, state in zip(both, (before, reset), strict=True)], 0)
    dz = _concat(both, 1)
    dbias = dz.sum(0)
    return _Gradients(p.gemm(dz, p.w), p.gemm(dz, p.x, turn_a=True), dr, _concat([dbias, dbias], 0), dh)


def _gru_reset_after(p: _Pass) -> _Gradients:
    # g = tanh(x W + r ∘ q), where q = h₀ R
    before = p.before(p.steps(p.y), p.h)
    b_x, b_h = _split(p.bias, 0, count=2) if p.bias else (None, None)
    gates, own = _split(p.gemm(p.x, p.w, b_x, turn_b=True), 1, parts=(2 * p.hidden, p.hidden))
    gates_h, q = _split(p.gemm(before, p.r, b_h, turn_b=True), 1, parts=(2 * p.hidden, p.hidden))
    gates = p.graph.op("Sigmoid", gates + gates_h)
    z, r = _split(gates, 1, count=2)
    g = p.graph.op("Tanh", own + r * q)

    to_own = one_minus(z) * one_minus(g * g)
    to_gates = (gates - gates * gates) * _concat([before - g, to_own * q], 1)
    slopes, kept = p.steps(_concat([to_gates, to_own * r], 1)), p.steps(z)
    dproduct, dstates = list(slopes), list(kept)

    def step(t: int, dh: Value, arrived: Value | None) -> Value:
        dstates[t] = dh
        dproduct[t] = _concat([dh, dh, dh], 1) * slopes[t]
        direct = dh * kept[t]
        return p.gemm(dproduct[t], p.r, direct + arrived if arrived else direct)

    dh = p.backwards(step)
    dz_h = _concat(dproduct, 0)
    dgates, _ = _split(dz_h, 1, parts=(2 * p.hidden, p.hidden))
    dz_x = _concat([dgates, _concat(dstates, 0) * to_own], 1)
    dbias = _concat([dz_x.sum(0), dz_h.sum(0)], 0)
    dw, dr = p.gemm(dz_x, p.x, turn_a=True), p.gemm(dz_h, before, turn_a=True)
    return _Gradients(p.gemm(dz_x, p.w), dw, dr, dbias, dh)


def _recurrent(
    cell: Callable[[_Pass], _Gradients],
    n: Node,
    dy: Value | None = None,
    dh: Value | None = None,
    dc: Value | None = None,
) -> list[Value | None]:
    x, w, r, bias, lengths, h, c, peepholes = (*n.inputs, *[None] * 8)[:8]
    if x is None or w is None or r is None:
        raise n.unsupported("an input is absent")
    steps, features = fixed(n, x, [0, 2])
    (hidden,) = fixed(n, r, [2])
    if not 1 <= steps <= MAX_STEPS:
        raise n.unsupported(f"{steps} steps", f"train on sequences of 1 to {MAX_STEPS} steps")
    _require_plain(n, steps, lengths, peepholes)
    turned = {"forward": [False], "reverse": [True]}.get(n.attribute("direction", "forward"), [False, True])
    (y,) = outputs_of(n, 1)

    def part(value: Value, direction: int, axis: int, *shape: int) -> Value:
        """What belongs to one direction."""
        return (value if len(turned) == 1 else value.slice([axis], [direction], [direction + 1])).reshape(*shape)

    passes = [
        _Pass(
            node=n,
            features=features,
            hidden=hidden,
            order=range(steps)[::-1] if backwards else range(steps),
            x=x.reshape(-1, features),
            y=part(y, i, 1, -1, hidden),
            w=part(w, i, 0, -1, features),
            r=part(r, i, 0, -1, hidden),
            bias=bias and part(bias, i, 0, -1),
            h=h and part(h, i, 0, -1, hidden),
            c=c and part(c, i, 0, -1, hidden),
            dy=dy and part(dy, i, 1, -1, hidden),
            dh=dh and part(dh, i, 0, -1, hidden),
            dc=dc and part(dc, i, 0, -1, hidden),
        )
        for i, backwards in enumerate(turned)
    ]
    sent = [cell(one) for one in passes]

    def joined(gradients: Sequence[Value | None], *shape: int) -> Value | None:
        present = [gradient.reshape(1, *shape) for gradient in gradients if gradient]
        return _concat(present, 0) if present else None

    return [
        shaped_like(n.graph.op("Sum", *(s.x for s in sent)), x),
        joined([s.w for s in sent], -1, features),
        joined([s.r for s in sent], -1, hidden),
        joined([s.bias for s in sent], -1),
        None,
        joined([s.h for s in sent], -1, hidden),
        joined([s.c for s in sent], -1, hidden),
    ]


def _require_plain(n: Node, steps: int, lengths: Value | None, peepholes: Value | None) -> None:
    if n.attribute("layout", 0):
        raise n.unsupported("layout 1", "transpose x and the outputs, and use layout 0")
    if lengths is not None:
        constant = n.graph.constants.get(lengths.name)
        if constant is None or (numpy_helper.to_array(constant) != steps).any():
            raise n.unsupported("sequence_lens", "train on sequences of one length: leave the input away")
    if peepholes is not None:
        raise n.unsupported("peepholes (input P)")
    if n.attribute("clip", 0.0) or n.attribute("input_forget", 0):
        raise n.unsupported("clip or input_forget")
    given = [a.decode() if isinstance(a, bytes) else a for a in n.attribute("activations", [])]
    usual = ACTIVATIONS[n.operator]
    if [a.lower() for a in given] not in ([], usual, usual * 2):
        raise n.unsupported(f"activations {', '.join(given)}", f"use {', '.join(usual)}")


def _split(value: Value, axis: int, *, count: int = 0, parts: Sequence[int] = ()) -> list[Value]:
    """`count` equal parts, or parts of the given sizes."""
    graph = value.graph
    names = [graph.fresh("~part") for _ in range(count or len(parts))]
    if parts:
        graph.op("Split", value, graph.integers(parts), names=names, axis=axis)
    else:
        graph.op("Split", value, names=names, axis=axis, num_outputs=count)
    return [Value(graph, name) for name in names]


def _concat(values: Sequence[Value], axis: int) -> Value:
    return values[0].graph.op("Concat", *values, axis=axis)


CARRYING = (0, 1, 2, 3, 5, 6)
"""All inputs but sequence_lens; peepholes are refused."""

RULES = {
    "LSTM": Rule(partial(_recurrent, _lstm), slots=CARRYING, results=None),
    "GRU": Rule(partial(_recurrent, _gru), slots=CARRYING, results=None),
}
