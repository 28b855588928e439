"""The law that the gradient of a linear operator obeys: ⟨dy, f(u)⟩ = ⟨dx, u⟩ for every u, ONNX Runtime being f."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgefl.trainer.gradients import RULES, Node
from edgefl.trainer.graph import Graph, Value
from support.gradient_cases import run

Arrays = dict[str, "np.ndarray[Any, Any]"]


def assert_adjoint(
    operator: str, inputs: Arrays, attributes: dict[str, Any], constants: dict[int, np.ndarray[Any, Any]] | None = None
) -> None:
    """The operator is linear in each of `inputs`, which come first; the first axis of the first one is the batch.
    `constants`: further inputs by place."""
    rng = np.random.default_rng(0)

    def forward(values: Arrays) -> Any:
        graph = Graph(taken=set(values))
        y = graph.op(operator, *_arguments(graph, values, constants), **attributes)
        return run(graph, values, y, next(iter(values.values())).ndim)

    y = forward(inputs)
    dy = rng.normal(size=y.shape).astype(np.float32)
    for i, (name, x) in enumerate(inputs.items()):
        graph = Graph(taken={*inputs, "dy", "y"})
        arguments = _arguments(graph, inputs, constants)
        graph.op(operator, *arguments, names=["y"], **attributes)
        node = Node(graph, operator, "node", arguments, (Value(graph, "y", (None, *y.shape[1:])),), attributes)
        dx = RULES[operator].gradient(node, Value(graph, "dy"))[i]
        assert dx is not None
        found = run(graph, {**inputs, "dy": dy}, dx, x.ndim)
        assert found.shape == x.shape
        u = rng.normal(size=x.shape).astype(np.float32)
        near = 1e-3 * float(np.linalg.norm(dy) + np.linalg.norm(found))
        assert np.vdot(dy, forward({**inputs, name: u})) == pytest.approx(np.vdot(found, u), rel=1e-3, abs=near)


def _arguments(graph: Graph, inputs: Arrays, constants: dict[int, Any] | None) -> tuple[Value | None, ...]:
    values: list[Value | None] = []
    for i, (name, array) in enumerate(inputs.items()):
        values.append(Value(graph, name, (array.shape if i else (None, *array.shape[1:]))))
    for place, array in sorted((constants or {}).items()):
        values += [None] * (place - len(values))
        values.append(graph.constant(array))
    return tuple(values)
