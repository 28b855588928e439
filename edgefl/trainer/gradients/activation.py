"""Non-linearities."""

from __future__ import annotations

from edgefl.trainer.gradients.rule import Node, Rule, one_minus
from edgefl.trainer.graph import Value

LARGE = 3e38
"""Just below float32's largest number: every normal y > 0 times LARGE is above 1."""


def _relu(n: Node, dy: Value) -> list[Value]:
    # [y > 0] as one node: HardSigmoid(y) = clip(LARGE · y, 0, 1). Comparing and casting takes a third longer.
    return [dy * n.graph.op("HardSigmoid", n.y, alpha=LARGE, beta=0.0)]


def _sigmoid(n: Node, dy: Value) -> list[Value]:
    return [dy * n.y * one_minus(n.y)]


def _tanh(n: Node, dy: Value) -> list[Value]:
    return [dy * one_minus(n.y * n.y)]


RULES = {"Relu": Rule(_relu), "Sigmoid": Rule(_sigmoid), "Tanh": Rule(_tanh)}
