"""Matrix products."""

from __future__ import annotations

from edgefl.trainer.gradients.rule import Node, Rule, shaped_like, sum_to
from edgefl.trainer.graph import Value


def gemm(a: Value, b: Value, transpose_a: bool, transpose_b: bool, alpha: float = 1.0) -> Value:
    """alpha · op(a) · op(b) for matrices."""
    return a.graph.matmul(a, b, (2, 2), transpose_a=transpose_a, transpose_b=transpose_b, alpha=alpha)


def _gemm(n: Node, dy: Value) -> list[Value]:
    # Y = α A' B' + β C, where A' is A or Aᵀ. Then dA' = α dY B'ᵀ and dB' = α A'ᵀ dY.
    a, b, *rest = n.operands
    if any(c.rank > 2 for c in rest):
        raise n.unsupported("C is no matrix", "reshape it to the shape of the product, or one that broadcasts to that")
    alpha, beta = n.attribute("alpha", 1.0), n.attribute("beta", 1.0)
    ta, tb = bool(n.attribute("transA", 0)), bool(n.attribute("transB", 0))
    da = gemm(b, dy, tb, True, alpha) if ta else gemm(dy, b, False, not tb, alpha)
    db = gemm(dy, a, True, ta, alpha) if tb else gemm(a, dy, not ta, False, alpha)
    return [da, db, *(sum_to(dy if beta == 1.0 else dy * beta, n.y.shape, c) for c in rest)]


def _matmul(n: Node, dy: Value) -> list[Value]:
    a, b = n.operands
    if a.rank == 2 and b.rank == 2:
        return [gemm(dy, b, False, True), gemm(a, dy, True, False)]
    if a.rank > 2 and b.rank == 2:
        # the leading dimensions of a are rows of one big matrix
        return [
            shaped_like(gemm(_rows(dy, a.rank), b, False, True), a),
            gemm(_rows(a, a.rank), _rows(dy, a.rank), True, False),
        ]
    if a.rank == 1 or b.rank == 1:
        raise n.unsupported("an operand is a vector", "reshape it to a matrix of one row or one column")
    da = n.graph.matmul(dy, b, (n.y.rank, b.rank), transpose_b=True)
    db = n.graph.matmul(a, dy, (a.rank, n.y.rank), transpose_a=True)
    return [_unbatch(da, n.y, a), _unbatch(db, n.y, b)]


def _unbatch(dx: Value, y: Value, x: Value) -> Value:
    """dx still has the batch dimensions of y, along which x may have been broadcast."""
    return sum_to(dx, (*y.shape[:-2], *x.shape[-2:]), x)


def _rows(x: Value, rank: int) -> Value:
    """All dimensions but the last as one."""
    return x.graph.op("Flatten", x, axis=rank - 1)


RULES = {"Gemm": Rule(_gemm), "MatMul": Rule(_matmul)}
