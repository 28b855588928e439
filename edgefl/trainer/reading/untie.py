"""Weights that an exporter merged because they happened to be equal, set apart again.

Exporters store equal initializers once. In a model that was never trained all biases of one size are equal, and all
scales of normalisation layers; layers that were made by copying one are equal altogether. Merged, they would be trained
as one. A file shows two traces of it:

    Identity(initializer)          gives it the name that it had (TorchScript)
    readers in different modules   as nodes note of their origin (dynamo)

A merger is undone if all elements are one number, or if the names differ in numbers alone (layers.0.bias and
layers.1.bias). Otherwise the weight was shared on purpose, as by an embedding and the head of a language model.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

MAX_COPIED_BYTES = 256 << 20
"""All copies together; what would be more stays merged."""

_ORIGIN = "pkg.torch.onnx.name_scopes"
_MAX_NOTE = 4096

Merger = tuple[str, str, str, str]
"""(initializer, the name that it had, two names whose likeness tells)"""


def untie(proto: onnx.ModelProto) -> None:
    """Give merged weights of the model their own initializers, in place."""
    weights = {t.name: t for t in proto.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and t.dims}
    copies: dict[str, str] = {}
    room = MAX_COPIED_BYTES
    uniform: dict[str, bool] = {}
    for weight, name, one, other in (*_second_names(proto, weights), *_other_modules(proto, weights)):
        if weight not in uniform:
            uniform[weight] = _is_uniform(weights[weight])
        if name not in copies and (uniform[weight] or _alike(one, other)):
            room -= weights[weight].ByteSize()
            if room < 0:
                break
            copies[name] = weight
    if not copies:
        return
    nodes = [node for node in proto.graph.node if not (node.op_type == "Identity" and node.output[0] in copies)]
    for node in nodes:
        for place, name in enumerate(node.input):
            own = _name_in(_module(node), name) if name in weights else ""
            if copies.get(own) == name:
                node.input[place] = own
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    for name, weight in copies.items():
        copy = proto.graph.initializer.add()
        copy.CopyFrom(weights[weight])
        copy.name = name


def _second_names(proto: onnx.ModelProto, weights: dict[str, onnx.TensorProto]) -> Iterator[Merger]:
    """Identity nodes of weights that have other readers; names that say nothing stand for those of the readers."""
    outputs = {value.name for value in proto.graph.output}
    reader: dict[str, str] = {}
    count: dict[str, int] = {}
    for node in proto.graph.node:
        for name in node.input:
            count[name] = count.get(name, 0) + 1
            if node.op_type != "Identity":
                reader.setdefault(name, node.name)
    for node in proto.graph.node:
        if node.op_type == "Identity" and node.input[0] in weights and count[node.input[0]] > 1:
            one, other = node.input[0], node.output[0]
            if other in outputs:
                continue
            names = (one, other)
            if one.startswith("onnx::") or other.startswith("onnx::"):
                names = (reader.get(one, ""), reader.get(other, ""))
            yield one, other, *names


def _other_modules(proto: onnx.ModelProto, weights: dict[str, onnx.TensorProto]) -> Iterator[Merger]:
    """Readers in another module than that of the weight, or else of its first reader."""
    taken = {name for node in proto.graph.node for name in (*node.input, *node.output)} | set(weights)
    modules: dict[str, dict[str, None]] = {}
    for node in proto.graph.node:
        if module := _module(node):
            for name in weights.keys() & set(node.input):
                modules.setdefault(name, {})[module] = None
    for name, readers in modules.items():
        home = name.rpartition(".")[0]
        home = home if home in readers else next(iter(readers))
        for module in readers:
            if module != home and _name_in(module, name) not in taken:
                yield name, _name_in(module, name), home, module


def _name_in(module: str, weight: str) -> str:
    return f"{module}.{weight.rpartition('.')[2]}"


def _alike(one: str, other: str) -> bool:
    """Whether the names differ in numbers, and in nothing else."""
    return one != other and re.sub(r"\d+", "#", one) == re.sub(r"\d+", "#", other)


def _is_uniform(tensor: onnx.TensorProto) -> bool:
    values = numpy_helper.to_array(tensor)
    return values.size > 0 and bool(np.all(values == values.flat[0]))


def _module(node: onnx.NodeProto) -> str:
    """The name of the module that the node comes from; "" where it does not say."""
    note = next((entry.value for entry in node.metadata_props if entry.key == _ORIGIN), "")
    if not note or len(note) > _MAX_NOTE:
        return ""
    try:
        scopes = ast.literal_eval(note)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return ""
    return scopes[-2] if isinstance(scopes, list) and len(scopes) > 1 and isinstance(scopes[-2], str) else ""
