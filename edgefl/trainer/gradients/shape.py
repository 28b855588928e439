"""Operators that move elements without changing them: their gradient moves them back."""

from __future__ import annotations

import numpy as np

from edgefl.trainer.gradients.rule import Node, Rule, fixed, shaped_like
from edgefl.trainer.graph import Value


def _identity(n: Node, dy: Value) -> list[Value]:
    return [dy]


def _reshape(n: Node, dy: Value) -> list[Value]:
    return [shaped_like(dy, n.x)]


def _transpose(n: Node, dy: Value) -> list[Value]:
    reverse = range(n.x.rank)[::-1]
    return [dy.transpose(*(int(i) for i in np.argsort(n.attribute("perm", reverse))))]


def _depth_to_space(n: Node, dy: Value) -> list[Value]:
    # y[c, h·b + i, w·b + j] is x[(i·b + j)·C + c, h, w] in mode DCR, and x[c·b² + i·b + j, h, w] in mode CRD
    size = n.attribute("blocksize", 1)
    if n.attribute("mode", "DCR") == "DCR":
        return [n.graph.op("SpaceToDepth", dy, blocksize=size)]
    channels, height, width = fixed(n, n.y, (1, 2, 3))
    blocks = dy.reshape(-1, channels, height // size, size, width // size, size)
    return [shaped_like(blocks.transpose(0, 1, 3, 5, 2, 4), n.x)]


def _space_to_depth(n: Node, dy: Value) -> list[Value]:
    return [n.graph.op("DepthToSpace", dy, blocksize=n.attribute("blocksize", 1))]


RULES = {
    "Identity": Rule(_identity),
    "Reshape": Rule(_reshape, slots=(0,)),
    "Flatten": Rule(_reshape),
    "Squeeze": Rule(_reshape, slots=(0,)),
    "Unsqueeze": Rule(_reshape, slots=(0,)),
    "Transpose": Rule(_transpose),
    "DepthToSpace": Rule(_depth_to_space),
    "SpaceToDepth": Rule(_space_to_depth),
}
