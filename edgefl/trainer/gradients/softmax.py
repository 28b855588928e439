"""Softmax, its logarithm and its limit along one axis."""

from __future__ import annotations

from edgefl.trainer.gradients.rule import CONSTANT, Node, Rule
from edgefl.trainer.graph import Value


def _softmax(n: Node, dy: Value) -> list[Value]:
    # ∂yᵢ/∂xⱼ = yᵢ (δᵢⱼ − yⱼ)
    axis = n.attribute("axis", -1)
    return [n.y * (dy - (dy * n.y).sum(axis, keep=True))]


def _log_softmax(n: Node, dy: Value) -> list[Value]:
    # ∂yᵢ/∂xⱼ = δᵢⱼ − exp yⱼ
    axis = n.attribute("axis", -1)
    return [dy - n.graph.op("Exp", n.y) * dy.sum(axis, keep=True)]


RULES = {"Softmax": Rule(_softmax), "LogSoftmax": Rule(_log_softmax), "Hardmax": CONSTANT}
