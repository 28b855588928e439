"""Composite operators in terms of simpler ones: by the functions of the model, and by the body that ONNX itself defines
for an operator that no gradient rule knows.

Bounded: functions that call functions can multiply; what they would come to is counted first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from onnx import helper

from edgefl.errors import ModelError
from edgefl.trainer.files.manifest import MAX_MODEL_BYTES
from edgefl.trainer.reading.flat_graph import STANDARD, Facts, FlatGraph
from edgefl.trainer.reading.opset import to_our_opset

MAX_NODES = 50_000
"""Nodes of a flat graph. The largest language models that fit into MAX_MODEL_BYTES have some thousands."""

MAX_DEPTH = 100
"""Of calls: onnx follows them in recursion. Exporters write functions for modules, which nest ten deep at most."""

_Key = tuple[str, str, str]
"""(domain, name, overload)"""

_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def without_functions(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with every call of a function of its own replaced by the function's nodes."""
    require_finite(proto)
    return onnx.inliner.inline_local_functions(proto) if proto.functions else proto


@dataclass(frozen=True, slots=True)
class _Extent:
    """What a list of nodes comes to when every call in it is replaced, and how deep calls go."""

    nodes: int = 0
    size_bytes: int = 0
    depth: int = 0


def require_finite(proto: onnx.ModelProto) -> None:
    """Refuse functions that call themselves, and those that come to too much once they are inlined: onnx does that in
    as much memory as it takes. Raises ModelError."""
    bodies: dict[_Key, Sequence[onnx.NodeProto]] = {}
    for function in proto.functions:
        key = _key(function.domain, function.name, function)
        if key in bodies:
            raise ModelError(f"the model has two functions of the name {key[1]!r:.80}", hint="export the model again")
        bodies[key] = function.node
    known: dict[_Key, _Extent] = {}
    waiting = list(bodies)
    open_: set[_Key] = set()
    while waiting:
        key = waiting[-1]
        missing = {call for call in _calls(bodies[key]) if call in bodies and call not in known}
        if key in known or not missing:
            known.setdefault(key, _extent(bodies[key], known))
            waiting.pop()
            open_.discard(key)
            continue
        if key in open_:
            raise ModelError(f"function {key[1]!r:.80} of the model calls itself", hint="export the model again")
        open_.add(key)
        waiting.extend(missing)
    _extent(proto.graph.node, known)


def _extent(nodes: Iterable[onnx.NodeProto], functions: Mapping[_Key, _Extent]) -> _Extent:
    """Raises ModelError where it is too much."""
    total, size_bytes, depth = 0, 0, 0
    for node in _with_inner(nodes):
        called = functions.get(_key(node.domain, node.op_type, node), _Extent(nodes=1))
        total += called.nodes
        size_bytes += called.size_bytes + node.ByteSize()
        depth = max(depth, called.depth + 1)
    if total > MAX_NODES:
        raise ModelError(f"the model has more than {MAX_NODES} nodes", hint="use a smaller model")
    if size_bytes > MAX_MODEL_BYTES:
        raise ModelError(f"with its functions inlined the model has over {MAX_MODEL_BYTES} bytes")
    if depth > MAX_DEPTH:
        raise ModelError(f"the model's functions call each other more than {MAX_DEPTH} deep")
    return _Extent(total, size_bytes, depth)


def _calls(nodes: Iterable[onnx.NodeProto]) -> Iterator[_Key]:
    return (_key(node.domain, node.op_type, node) for node in _with_inner(nodes))


def _with_inner(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes and those of the graphs in their attributes."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.type in _GRAPHS:
                for graph in (attribute.g, *attribute.graphs):
                    yield from _with_inner(graph.node)


def _key(domain: str, name: str, proto: Any) -> _Key:
    """By which ONNX finds a function; `overload` came with onnx 1.17."""
    return "" if domain in STANDARD else domain, name, getattr(proto, "overload", "")


def expand(graph: FlatGraph, facts: Facts, picked: set[str]) -> None:
    """Replace nodes that ONNX defines by a function, by the nodes of that function at our opset. `picked`: the first
    outputs of the nodes in question."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        body = _body(node, graph.opset, facts) if node.output[0] in picked else None
        nodes.extend(_inlined(node, body, graph, facts) if body else [node])
    if len(nodes) > MAX_NODES:
        raise ModelError(f"the model comes to more than {MAX_NODES} nodes", hint="use a smaller model")
    graph.nodes = nodes


def _body(node: onnx.NodeProto, opset: int, facts: Facts) -> onnx.FunctionProto | None:
    schema: Any = onnx.defs.get_schema(node.op_type, opset)
    versions = (
        schema.function_opset_versions if schema.has_function else schema.context_dependent_function_opset_versions
    )
    fit = [version for version in versions if version <= opset]
    if not fit:
        return None
    if schema.has_function:
        content = schema.get_function_with_opset_version(max(fit))
    else:
        types = [_type(name, facts) for name in node.input]
        content = schema.get_context_dependent_function_with_opset_version(max(fit), node.SerializeToString(), types)
    function = onnx.FunctionProto.FromString(content) if content else onnx.FunctionProto()
    flat = all(
        inner.domain in STANDARD and all(a.type not in _GRAPHS for a in inner.attribute) for inner in function.node
    )
    return function if function.node and flat else None


def _type(name: str, facts: Facts) -> bytes:
    dtype, shape = facts.dtypes.get(name, ""), facts.shapes.get(name)
    if not dtype:
        return b""
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return bytes(helper.make_tensor_type_proto(code, shape).SerializeToString())


def _inlined(
    node: onnx.NodeProto, body: onnx.FunctionProto, graph: FlatGraph, facts: Facts
) -> Iterator[onnx.NodeProto]:
    given = {attribute.name: attribute for attribute in node.attribute}
    defaults = onnx.defs.get_schema(node.op_type, graph.opset).attributes
    names = {"": ""}
    names.update(zip(body.input, [*node.input, *[""] * len(body.input)], strict=False))
    names.update(zip(body.output, node.output, strict=False))
    opset = next((imported.version for imported in body.opset_import if imported.domain in STANDARD), graph.opset)
    for inner in body.node:
        for name in inner.output:
            if name not in names:
                names[name] = graph.fresh(f"{node.output[0]}.{name}")
        made = helper.make_node(
            inner.op_type,
            [names.get(name, "") for name in inner.input],
            [names[name] for name in inner.output],
            node.name,
        )
        for attribute in inner.attribute:
            value = attribute
            if attribute.ref_attr_name:
                default = (
                    defaults[attribute.ref_attr_name].default_value if attribute.ref_attr_name in defaults else None
                )
                value = given.get(attribute.ref_attr_name, default or onnx.AttributeProto())
            if value.type != onnx.AttributeProto.UNDEFINED:
                copied = made.attribute.add()
                copied.CopyFrom(value)
                copied.name = attribute.name
        yield from to_our_opset(made, opset, graph, facts)
