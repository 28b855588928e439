"""Operators that move elements without changing them: their gradient moves them back."""

from __future__ import annotations

import numpy as np

from edgefl.trainer.gradients.rule import Node, Rule, shaped_like
from edgefl.trainer.graph import Value


def _identity(n: Node, dy: Value) -> list[Value]:
    return [dy]


def _reshape(n: Node, dy: Value) -> list[Value]:
    return [shaped_like(dy, n.x)]


def _transpose(n: Node, dy: Value) -> list[Value]:
    reverse = range(n.x.rank)[::-1]
    return [dy.transpose(*(int(i) for i in np.argsort(n.attribute("perm", reverse))))]


RULES = {
    "Identity": Rule(_identity),
    "Reshape": Rule(_reshape, slots=(0,)),
    "Flatten": Rule(_reshape),
    "Squeeze": Rule(_reshape, slots=(0,)),
    "Unsqueeze": Rule(_reshape, slots=(0,)),
    "Transpose": Rule(_transpose),
}
