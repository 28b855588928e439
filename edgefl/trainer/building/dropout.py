"""Dropout by a seed that is fed at every step, in standard integer operators.

ONNX's own Dropout and its random numbers take their seed from the model file; a step that is computed twice would not
drop the same, and one seed for all steps would drop the same always. Here what is dropped depends on the seed, the
place of the layer in the model (salt) and the position alone, on every device.

Each row and each column of x, seen as a matrix, gets an odd 32-bit number from a hash of (seed, salt, its index):
SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"). An element is kept if the
product of both, modulo 2³², is below (1 − ratio) · 2³². For a fixed row that is a permutation of the odd numbers, hence
uniform over the columns, and the other way round; the hash costs little as there are few rows and columns, so that one
multiplication and one comparison per element remain. The unsigned types make overflow well-defined.
"""

from __future__ import annotations

import numpy as np
import onnx

from edgefl.errors import ModelError
from edgefl.trainer.files.manifest import Shape
from edgefl.trainer.gradients.rule import shaped_like
from edgefl.trainer.graph import Graph, Value

ENOUGH_COLUMNS = 64
"""From here on rows and columns are few beside the elements, whatever the batch."""

GOLDEN, SEED_STEP, SALT_STEP = 0x9E3779B97F4A7C15, 0xD1342543DE82EF95, 0xDA942042E4DD58B5
"""Odd 64-bit numbers without pattern: the strides of index, seed and salt."""

ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
"""SplitMix64's finaliser: shift, exclusive or, multiply."""

TO_THE_END = 2**63 - 1


def dropout(graph: Graph, x: Value, ratio: float, seed: Value, salt: int) -> Value:
    """x with each element zero at probability `ratio` and otherwise divided by 1 − ratio.

    x: float32 of known shape, any dimensions of which may be open. seed: int64, a scalar. salt: tells the dropouts of
    one model apart. The last node appended is Mul(x, mask), both of x's shape: the only one to differentiate.
    Raises ModelError unless 0 ≤ ratio < 1.
    """
    if not 0.0 <= ratio < 1.0:
        raise ModelError(f"a dropout ratio of {ratio} leaves nothing over", hint="use one of at least 0 and below 1")
    if ratio == 0.0:
        return x
    columns = _columns(x.shape)
    whole = graph.constant(np.array(columns))
    rows = graph.op("Size", x) / whole
    indices = graph.op("Range", graph.constant(np.array(0)), rows + whole, graph.constant(np.array(1)))
    numbers = _hash(graph, indices, seed, salt)
    column = numbers.slice([0], [0], [columns])
    row = numbers.slice([0], [columns], [TO_THE_END]).reshape(-1, 1)
    kept = graph.op("Less", row * column, graph.constant(np.array(round((1.0 - ratio) * 2**32), np.uint32)))
    mask = graph.op("Cast", kept, to=onnx.TensorProto.FLOAT) * (1.0 / (1.0 - ratio))
    return Value(graph, (x * shaped_like(mask, x)).name, x.shape)


def _columns(shape: Shape) -> int:
    """The size of the last axes, as few as give enough columns; the others are rows."""
    columns = 1
    for size in reversed(shape[1:]):
        if size is None or columns >= ENOUGH_COLUMNS:
            break
        columns *= size
    return columns


def _hash(graph: Graph, indices: Value, seed: Value, salt: int) -> Value:
    """An odd uint32 for each index."""

    def number(value: int) -> Value:
        return graph.constant(np.array(value % 2**64, np.uint64))

    def shifted(value: Value, places: int) -> Value:
        return graph.op("BitShift", value, number(places), direction="RIGHT")

    seed, z = (graph.op("Cast", value, to=onnx.TensorProto.UINT64) for value in (seed, indices))
    z = z * number(GOLDEN) + (seed * number(SEED_STEP) + number(salt * SALT_STEP))
    for places, factor in ROUNDS:
        z = graph.op("BitwiseXor", z, shifted(z, places)) * number(factor)
    odd = graph.op("BitwiseOr", shifted(z, 32), number(1))
    return graph.op("Cast", odd, to=onnx.TensorProto.UINT32)
