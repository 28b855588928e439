"""Operators that our opset lacks, rewritten into operators that it has, before a model is differentiated.

Exporters write attention and its companions as one node since opset 23. Each entry of the table computes the same from
primitives, whose gradients are known; training then needs no rule for the whole. Everything but the batch has a fixed
size. Attention with a memory of earlier calls serves to generate text, not to train, and is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from edgefl.trainer.files.manifest import Shape
from edgefl.trainer.gradients.rule import Node, fixed
from edgefl.trainer.graph import Graph, Value, attributes_of

BLOCKED = -1e30
"""Added to a score that must not count. Its weight is then 0, as with −∞; but where no score of a row counts, −∞ gives
NaN, in the gradients too."""


def decompose(
    nodes: Sequence[onnx.NodeProto],
    shapes: Mapping[str, Shape],
    fresh: Callable[[str], str],
    dtypes: Mapping[str, str] | None = None,
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The nodes, those of the table replaced, and the constants that the new ones need (which nobody should train).

    shapes: of every tensor, None where it grows with the batch. dtypes: numpy names; only a mask of attention needs its
    own. fresh: makes a name that nobody has out of a hint. Raises UnsupportedOperatorError for a form that is refused.
    """
    graph = _Rewritten(source=fresh)
    for proto in nodes:
        rewrite = DECOMPOSITIONS.get(proto.op_type) if proto.domain in ("", "ai.onnx") else None
        if rewrite is None:
            graph.nodes.append(proto)
        else:
            rewrite(_node(graph, proto, shapes), dtypes or {})
            graph.nodes[-1].output[0] = proto.output[0]
    return graph.nodes, list(graph.constants.values())


@dataclass(slots=True)
class _Rewritten(Graph):
    """A graph that takes its names from elsewhere."""

    source: Callable[[str], str] = str

    def fresh(self, hint: str) -> str:
        return self.source(hint)


def _node(graph: Graph, proto: onnx.NodeProto, shapes: Mapping[str, Shape]) -> Node:
    inputs = tuple(Value(graph, name, shapes.get(name)) if name else None for name in proto.input)
    outputs = tuple(Value(graph, name) for name in proto.output if name)
    node = Node(graph, proto.op_type, proto.name, inputs, outputs, attributes_of(proto))
    for value in node.operands:
        if value.known_shape is None:
            raise node.unsupported(f"the shape of {value.name!r} cannot be inferred", "export it with fixed sizes")
    return node


@dataclass(frozen=True, slots=True)
class _Heads:
    """One of Q, K and V as [batch, heads, places, width], from that form or with the heads side by side in a row."""

    value: Value
    count: int
    places: int
    width: int

    @classmethod
    def of(cls, n: Node, x: Value, attribute: str) -> _Heads:
        if x.rank == 4:
            return cls(x, *fixed(n, x, [1, 2, 3]))
        places, width = fixed(n, x, [1, 2])
        count = n.attribute(attribute, 0)
        if x.rank != 3 or count < 1 or width % count:
            raise n.unsupported(f"{attribute} {count} does not divide {x.name!r}")
        return cls(x.reshape(0, places, count, width // count).transpose(0, 2, 1, 3), count, places, width // count)


def _attention(n: Node, dtypes: Mapping[str, str]) -> None:
    # softmax(scale · Q Kᵀ + mask) V for each head
    inputs = (*n.inputs, *[None] * 7)
    if any(inputs[4:]):
        raise n.unsupported("past keys and values, or nonpad_kv_seqlen", "export the model without a cache")
    if len(n.outputs) > 1:
        raise n.unsupported("its outputs beside Y (present_key, present_value, qk_matmul_output)", "use Y alone")
    q, k, v = (
        _Heads.of(n, x, attribute)
        for x, attribute in zip(n.operands[:3], ("q_num_heads", "kv_num_heads", "kv_num_heads"), strict=True)
    )
    if k.count != v.count or k.places != v.places or q.count % k.count:
        raise n.unsupported("the heads of Q, K and V do not fit each other")
    # Heads that share one key and value become further rows of the same product.
    shared = q.count != k.count

    def folded(x: Value, width: int) -> Value:
        return x.reshape(0, k.count, q.count // k.count * q.places, width) if shared else x

    def unfolded(x: Value, width: int) -> Value:
        return x.reshape(0, q.count, q.places, width) if shared else x

    scale = n.attribute("scale", 1.0 / math.sqrt(q.width))
    keys = k.value.transpose(0, 1, 3, 2)
    scores = unfolded(folded(q.value * scale, q.width) @ keys, k.places)
    if cap := n.attribute("softcap", 0.0):
        scores = n.graph.op("Tanh", scores * (1.0 / cap)) * cap
    terms, counting = _mask(n, inputs[3], q.places, k.places, dtypes)
    for term in terms:
        scores = scores + term
    weights = n.graph.op("Softmax", scores, axis=-1)
    y = unfolded(folded(weights, k.places) @ v.value, v.width)
    if counting:
        y = y * counting
    if n.x.rank == 3:
        y.transpose(0, 2, 1, 3).reshape(0, q.places, q.count * v.width)


def _mask(
    n: Node, mask: Value | None, places: int, others: int, dtypes: Mapping[str, str]
) -> tuple[list[Value], Value | None]:
    """What to add to the scores; and, if there may be queries that see no key, 0 for them and 1 for the others.

    Query i sees key j as far as attn_mask lets it, is_causal (j ≤ i) and the windows (i − left ≤ j ≤ i + right).
    """
    graph = n.graph
    n.require_room(places, others)
    ahead = np.arange(others) - np.arange(places)[:, None]
    left, right = n.attribute("left_window_size", -1), n.attribute("right_window_size", -1)
    seen = (ahead <= 0) if n.attribute("is_causal", 0) else np.ones_like(ahead, np.bool_)
    seen &= (left < 0) | (ahead >= -left)
    seen &= (right < 0) | (ahead <= right)
    near = None if seen.all() else graph.constant(seen)

    def blocking(allowed: Value) -> Value:
        return graph.op("Where", allowed, graph.lift(0.0), graph.lift(BLOCKED))

    def counting(allowed: Value) -> Value:
        return graph.op("ReduceMax", graph.op("Cast", allowed, to=onnx.TensorProto.FLOAT), graph.integers([-1]))

    if mask is None:
        if near is None:
            return [], None
        return [blocking(near)], None if seen.any(1).all() else counting(near)
    if mask.shape[-1] not in (1, others):
        raise n.unsupported("attn_mask is shorter than the keys", "give it the length of the keys")
    dtype = dtypes.get(mask.name, "unknown")
    if dtype == "float32":
        return [mask] if near is None else [mask, blocking(near)], None
    if dtype != "bool":
        raise n.unsupported(f"attn_mask of type {dtype}", "use bool or float32")
    allowed = graph.op("And", mask, near) if near else mask
    return [blocking(allowed)], counting(allowed)


def _rms_norm(n: Node, _: Mapping[str, str]) -> None:
    # y = scale · x / √(mean(x²) + ε)
    x, scale = n.operands
    if n.attribute("stash_type", 1) != onnx.TensorProto.FLOAT:
        raise n.unsupported("stash_type is not 1 (float32)", "export the model in float32")
    axes = range(n.attribute("axis", -1) % x.rank, x.rank)
    squares = n.graph.op("ReduceSumSquare", x, n.graph.integers(axes))
    mean = squares * (1.0 / math.prod(fixed(n, x, axes)))
    x_hat = x * n.graph.op("Reciprocal", n.graph.op("Sqrt", mean + n.attribute("epsilon", 1e-5)))
    n.graph.op("Mul", x_hat, scale)


def _swish(n: Node, _: Mapping[str, str]) -> None:
    _gated(n.x, n.attribute("alpha", 1.0))


def _swiglu(n: Node, _: Mapping[str, str]) -> None:
    gate, value = n.operands
    _gated(gate, n.attribute("alpha", 1.0)) * value


def _gated(x: Value, alpha: float) -> Value:
    return x * x.graph.op("Sigmoid", x if alpha == 1.0 else x * alpha)


def _rotary_embedding(n: Node, _: Mapping[str, str]) -> None:
    # Each pair of features turns by the angle of its place; pairs are the two halves, or neighbours (interleaved).
    x, cos, sin, *positions = n.operands
    flat, neighbours = x.rank == 3, n.attribute("interleaved", 0)
    (width,) = fixed(n, x, [x.rank - 1])
    if flat:
        heads = n.attribute("num_heads", 0)
        if heads < 1 or width % heads:
            raise n.unsupported(f"num_heads {heads} does not divide the width of {x.name!r}")
        width //= heads
        x = x.reshape(0, 0, heads, width)
    turning = n.attribute("rotary_embedding_dim", 0) or width
    axes = n.graph.integers([2 if flat else 1, *([4] if neighbours else [])])  # of the heads, and of the pair
    c, s = (
        n.graph.op("Unsqueeze", n.graph.op("Gather", table, positions[0]) if positions else table, axes)
        for table in (cos, sin)
    )
    turned, *rest = _split(x, [turning, width - turning]) if turning < width else [x]
    if neighbours:
        a, b = _split(turned.reshape(0, 0, 0, turning // 2, 2), [1, 1])
    else:
        a, b = _split(turned, [turning // 2] * 2)
    y = n.graph.op("Concat", a * c - b * s, a * s + b * c, axis=-1)
    if neighbours:
        y = y.reshape(0, 0, 0, turning)
    if rest:
        y = n.graph.op("Concat", y, *rest, axis=-1)
    if flat:
        y.reshape(0, 0, heads * width)


def _split(x: Value, sizes: Sequence[int]) -> list[Value]:
    """Parts of the last axis."""
    names = [x.graph.fresh("~part") for _ in sizes]
    x.graph.op("Split", x, x.graph.integers(sizes), names=names, axis=-1)
    return [Value(x.graph, name) for name in names]


DECOMPOSITIONS: dict[str, Callable[[Node, Mapping[str, str]], None]] = {
    "Attention": _attention,
    "RMSNormalization": _rms_norm,
    "RotaryEmbedding": _rotary_embedding,
    "Swish": _swish,
    "SwiGLU": _swiglu,
}
"""Each appends nodes, of which the last one gives the operator's (first) output."""
