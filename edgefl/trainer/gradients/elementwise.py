"""Element by element, with broadcasting."""

from __future__ import annotations

from edgefl.trainer.gradients.rule import Node, Rule, sum_to
from edgefl.trainer.graph import Value


def _add(n: Node, dy: Value) -> list[Value]:
    return [sum_to(dy, n.y.shape, x) for x in n.operands]


def _sub(n: Node, dy: Value) -> list[Value]:
    a, b = n.operands
    return [sum_to(dy, n.y.shape, a), -sum_to(dy, n.y.shape, b)]


def _mul(n: Node, dy: Value) -> list[Value]:
    a, b = n.operands
    return [sum_to(dy * b, n.y.shape, a), sum_to(dy * a, n.y.shape, b)]


RULES = {"Add": Rule(_add), "Sub": Rule(_sub), "Mul": Rule(_mul)}
