"""Reverse-mode differentiation of an ONNX graph, by the table of rules.

Walk the forward nodes backwards; a node's dy is the sum of what all its readers sent to it; its rule turns dy into what
it sends to its own inputs. Each node is visited once, after all its readers, because ONNX lists nodes in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

import onnx

from edgefl.errors import ModelError, UnsupportedOperatorError
from edgefl.trainer.files.manifest import Shape
from edgefl.trainer.gradients import RULES, Node
from edgefl.trainer.graph import OPSET, Graph, Value, attributes_of


def reachable(nodes: Sequence[onnx.NodeProto], sources: Iterable[str], goal: str) -> list[onnx.NodeProto]:
    """The nodes on a differentiable path from any of `sources` to `goal`, in order."""
    moved = set(sources)
    downstream = []
    for node in nodes:
        if moved.intersection(_slots(node)):
            moved.update(filter(None, _results(node)))
            downstream.append(node)
    needed = {goal}
    path = []
    for node in reversed(downstream):
        if needed.intersection(_results(node)):
            needed.update(_slots(node))
            path.append(node)
    return path[::-1]


def differentiable_inputs(nodes: Sequence[onnx.NodeProto], goal: str) -> set[str]:
    """Every tensor that `goal` depends on through inputs that carry a gradient."""
    needed = {goal}
    for node in reversed(nodes):
        if needed.intersection(_results(node)):
            needed.update(_slots(node))
    return needed


def gradients(
    graph: Graph,
    path: Sequence[onnx.NodeProto],
    shapes: Mapping[str, Shape],
    goal: str,
    dgoal: Value,
    wanted: Sequence[str],
) -> list[Value]:
    """Append the backward pass of `path` to `graph`, given the gradient of `goal`; the gradients of `wanted`, in order.

    Raises UnsupportedOperatorError for a node without a rule, ModelError for a tensor of unknown shape.
    """
    received: dict[str, list[Value]] = {goal: [dgoal]}
    for proto in reversed(path):
        arrived = [received.pop(name, None) for name in _results(proto)]
        if not any(arrived):
            continue  # every reader turned out to be constant in it
        node = _node(graph, proto, shapes)
        sent = RULES[proto.op_type].gradient(node, *(values and _sum(values) for values in arrived))
        for value, gradient in zip(node.inputs, sent, strict=False):
            if value is not None and gradient is not None:
                received.setdefault(value.name, []).append(gradient)
    for name in wanted:
        if name not in received:
            raise ModelError(
                f"the loss does not change with {name!r}: only constant operators lead from there to the output",
                hint=f"do not train it: --frozen {name!r}",
            )
    return [_sum(received[name]) for name in wanted]


def require_rules(path: Iterable[onnx.NodeProto]) -> None:
    """Raises UnsupportedOperatorError for the first node that has no rule."""
    for node in path:
        if node.op_type not in RULES:
            raise UnsupportedOperatorError(
                f"node {node.name!r} uses {node.op_type} (ai.onnx opset {OPSET}), which edgefl cannot differentiate",
                hint=f"{_near(node.op_type)}freeze every weight before that node with --frozen; docs/trainer.md lists "
                "what can be differentiated",
            )


def _near(operator: str) -> str:
    near = get_close_matches(operator, RULES, 5, 0.5)
    return f"near to it are {', '.join(near)}; or " if near else ""


def _slots(node: onnx.NodeProto) -> list[str]:
    """The inputs that carry a gradient; all of them where there is no rule to say so."""
    rule = RULES.get(node.op_type)
    if rule is None or rule.slots is None:
        return [name for name in node.input if name]
    return [node.input[slot] for slot in rule.slots if slot < len(node.input) and node.input[slot]]


def _results(node: onnx.NodeProto) -> list[str]:
    """The outputs that carry a gradient, absent ones as "" (the second of MaxPool, for one, holds positions)."""
    rule = RULES.get(node.op_type)
    return list(node.output[: rule.results if rule else None])


def _node(graph: Graph, proto: onnx.NodeProto, shapes: Mapping[str, Shape]) -> Node:
    def value(name: str) -> Value | None:
        if not name:
            return None
        if name in graph.constants:
            return Value(graph, name, tuple(graph.constants[name].dims))
        if name not in shapes:
            raise ModelError(
                f"the shape of {name!r} at node {proto.name!r} ({proto.op_type}) cannot be inferred",
                hint="export the model with fixed sizes for everything but the batch",
            )
        return Value(graph, name, shapes[name])

    outputs = tuple(v for name in proto.output if (v := value(name)))
    return Node(graph, proto.op_type, proto.name, tuple(map(value, proto.input)), outputs, attributes_of(proto))


def _sum(values: Sequence[Value]) -> Value:
    return values[0] if len(values) == 1 else values[0].graph.op("Sum", *values)
