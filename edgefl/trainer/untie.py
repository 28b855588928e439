"""Weights that an exporter merged because they happened to be equal, set apart again.

Exporters store equal initializers once. In a model that was never trained all biases of one size are equal, and all
scales of normalisation layers; merged, they would be trained as one. Where all elements of an initializer are the same
number, it is taken for such a coincidence (two random matrices are never equal by chance: those were shared on
purpose), and it is copied for

    Identity(initializer)     which gives it a second name (TorchScript)
    a node of another module  as the node's own note of its origin says (dynamo); the copy is named after that module
"""

from __future__ import annotations

import ast

import numpy as np
import onnx
from onnx import numpy_helper

MAX_COPIED_BYTES = 16 << 20
"""All copies together. Biases and scales are small."""

_ORIGIN = "pkg.torch.onnx.name_scopes"
_MAX_NOTE = 4096


def untie(proto: onnx.ModelProto) -> None:
    """Give merged weights of the model their own initializers, in place."""
    uniform = {tensor.name: tensor for tensor in proto.graph.initializer if _is_uniform(tensor)}
    taken = {name for node in proto.graph.node for name in (*node.input, *node.output)}
    taken.update(tensor.name for tensor in proto.graph.initializer)
    outputs = {value.name for value in proto.graph.output}
    copies: dict[str, onnx.TensorProto] = {}
    room = MAX_COPIED_BYTES
    nodes = []
    for node in proto.graph.node:
        if node.op_type == "Identity" and node.input[0] in uniform and node.output[0] not in outputs:
            room -= uniform[node.input[0]].ByteSize()
            if room > 0:
                copies[node.output[0]] = uniform[node.input[0]]
                continue
        module = _module(node)
        for place, name in enumerate(node.input):
            if not module or name not in uniform or "." not in name or module == name.rpartition(".")[0]:
                continue
            own = f"{module}.{name.rpartition('.')[2]}"
            if own in copies or own not in taken:
                room -= uniform[name].ByteSize() if own not in copies else 0
                if room > 0:
                    copies[own] = uniform[name]
                    node.input[place] = own
        nodes.append(node)
    if not copies:
        return
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    for name, tensor in copies.items():
        copy = proto.graph.initializer.add()
        copy.CopyFrom(tensor)
        copy.name = name


def _is_uniform(tensor: onnx.TensorProto) -> bool:
    if tensor.data_type != onnx.TensorProto.FLOAT or not tensor.dims or tensor.ByteSize() > MAX_COPIED_BYTES:
        return False
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
