"""Float vectors among a file's initializers that are no weights: nobody must train them by accident.

    buffers        of which the dynamo exporter notes that they are no parameters (a table of positions, a mask)
    scales         one number that the same exporter computed (val_7: the 1/√d of attention)
    units          ones and zeros that it hands to InstanceNormalization to have group normalisation done
    first states   zeros that a recurrent layer starts from
    epsilons       of Keras's normalisation: one small number with as many axes as what it is added to

Other exporters leave such numbers in Constant nodes, or without a dimension, and neither is trained.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import onnx
from onnx import numpy_helper

from edgefl.trainer.reading.flat_graph import FlatGraph

_NOTE = "pkg.torch.export.graph_signature.InputSpec.kind"
_NO_PARAMETER = ("BUFFER", "CONSTANT_TENSOR")
_COMPUTED = re.compile(r"(.+\.)?val_\d+")  # alone, or set apart by untie.py

MAX_EPSILON = 0.01
"""Keras's default is 0.001."""

_UNITS = {"InstanceNormalization": (1, 2)}
_STATES = {"GRU": (5,), "LSTM": (5, 6), "RNN": (5,)}


def set_strays_apart(graph: FlatGraph, notes: Iterable[onnx.ValueInfoProto]) -> None:
    """Turn them into Constant nodes."""
    buffers = {value.name for value in notes if any(_is_buffer(entry) for entry in value.metadata_props)}
    readers: dict[str, set[tuple[str, int]]] = {}
    for node in graph.nodes:
        for slot, name in enumerate(node.input):
            readers.setdefault(name, set()).add((node.op_type, slot))
    strays = [
        name
        for name in sorted(graph.weights())
        if name in buffers or _is_stray(graph.file[name], readers.get(name, set()))
    ]
    graph.nodes[:0] = [
        onnx.helper.make_node("Constant", [], [name], name, value=graph.file.pop(name)) for name in strays
    ]


def _is_buffer(entry: onnx.StringStringEntryProto) -> bool:
    return entry.key == _NOTE and entry.value in _NO_PARAMETER


def _is_stray(tensor: onnx.TensorProto, readers: set[tuple[str, int]]) -> bool:
    if len(tensor.dims) > 1 and {*tensor.dims} == {1} and {operator for operator, _ in readers} == {"Add"}:
        return bool(0 < numpy_helper.to_array(tensor).item() <= MAX_EPSILON)
    only_states = all(slot in _STATES.get(operator, ()) for operator, slot in readers)
    if not only_states and not _COMPUTED.fullmatch(tensor.name):
        return False
    values = numpy_helper.to_array(tensor)
    if only_states:
        return not values.any()
    only_units = all(slot in _UNITS.get(operator, ()) for operator, slot in readers)
    return values.shape == (1,) or (only_units and values.size > 0 and bool(np.all(values == values.flat[0])))
