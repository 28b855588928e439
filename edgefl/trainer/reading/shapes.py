"""Every tensor's shape, with the dimensions that grow with the batch told apart from the fixed ones.

ONNX shape inference is run node by node at two batch sizes, as plain numbers; a dimension that differs depends on the
batch. The small values that shapes are computed from go along (fold.py computes them), so that plain numbers pass
through every Shape-Gather-Concat-Reshape chain that an exporter leaves, where symbols get lost.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import TypeProto, helper, numpy_helper

from edgefl.errors import ModelError
from edgefl.trainer.files.manifest import Shape, Tensor
from edgefl.trainer.graph import IR_VERSION
from edgefl.trainer.reading.flat_graph import Array, Facts, dtype_name

BATCHES = (5040, 10080)
"""Two batch sizes with many divisors, unlikely as fixed dimensions; one alone could be mistaken, both could not."""

MAX_SHAPE_VALUES = 1024
"""Elements of a value that shape inference may look at. Shapes, axes, pads and split sizes have a few each."""

MAX_SIZE = 1 << 40
"""Of a tensor, in elements: 400 MB of float32 for each sample, and well within the integers that ONNX computes with."""

LIKE_INPUT = frozenset({"GroupNormalization", "MeanVarianceNormalization"})
"""Operators that ONNX knows no inference for: what comes out is of the type of what goes in."""

LIKE_OPERATOR = {"GreaterOrEqual": "Greater", "LessOrEqual": "Less"}
"""Operators of which onnx infers nothing up to 1.19, and others that give the same shapes."""

Dims = tuple[int, ...]


class Trial:
    """Types of all tensors, and values of some, at one batch size. Nodes are visited in order."""

    def __init__(
        self, batch: int, opset: int, inputs: Iterable[Tensor], initializers: Mapping[str, onnx.TensorProto]
    ) -> None:
        self.batch = batch
        self.opset = opset
        self.types: dict[str, TypeProto] = {}
        self.values: dict[str, Array] = {}
        for tensor in inputs:
            dtype = helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
            self.types[tensor.name] = helper.make_tensor_type_proto(
                dtype, [batch if n is None else n for n in tensor.shape]
            )
        for name, initializer in initializers.items():
            self.types[name] = helper.make_tensor_type_proto(initializer.data_type, initializer.dims)

    def shape(self, name: str) -> Dims | None:
        """None where it is not known in full."""
        kind = self.types[name].tensor_type if name in self.types else None
        if kind is None or not kind.HasField("shape") or not all(dim.HasField("dim_value") for dim in kind.shape.dim):
            return None
        return tuple(dim.dim_value for dim in kind.shape.dim)

    def dtype(self, name: str) -> str:
        """A numpy name; "" where it is not known, or not that of a tensor."""
        return dtype_name(self.types[name].tensor_type.elem_type) if name in self.types else ""

    def visit(self, node: onnx.NodeProto) -> None:
        """Find the types of the node's outputs. Raises ModelError where its inputs do not fit together."""
        if any(name and name not in self.types for name in node.input):
            return
        self._require_sane(node)
        try:
            found = self._infer(node)
        except Exception as error:  # the C++ side raises its own types, RuntimeError and ValueError
            raise self._contradiction(node, str(error)) from error
        for kind in found.values():
            sizes = [dim.dim_value for dim in kind.tensor_type.shape.dim]
            if min(sizes, default=0) < 0 or math.prod(sizes) > MAX_SIZE:
                raise self._contradiction(node, f"{sizes} is no shape, or too large")
        self.types.update((name, kind) for name, kind in found.items() if name)
        if node.op_type == "Reshape":  # whose elements ONNX does not count
            before, after = (self.shape(name) for name in (node.input[0], node.output[0]))
            if before is not None and after is not None and math.prod(before) != math.prod(after):
                raise self._contradiction(node, f"{list(before)} cannot become {list(after)}")

    def _require_sane(self, node: onnx.NodeProto) -> None:
        """Attributes that ONNX's own inference believes, and reads beyond its memory, runs for ever or makes room for
        any number of outputs (found by fuzzing onnx 1.16 to 1.23). Raises ModelError."""
        if node.op_type == "Split" and "" in node.output:  # ONNX Runtime 1.32 crashes there
            raise self._contradiction(node, "one of its outputs has no name")
        ranks = [self._rank(name) for name in node.input] or [0]
        for attribute in node.attribute:
            what, value = (node.op_type, attribute.name), attribute.i
            allowed = True
            if what == ("Split", "num_outputs"):
                allowed = value == len(node.output)
            elif what == ("GatherND", "batch_dims"):
                allowed = 0 <= value < min(ranks)
            elif what == ("LayerNormalization", "axis"):
                allowed = -ranks[0] <= value < ranks[0]
            elif what == ("Einsum", "equation"):
                value = attribute.s
                allowed = re.fullmatch(rb"[A-Za-z,.> -]*", value) is not None
            if not allowed:
                raise self._contradiction(node, f"{attribute.name} is {value!r:.40}")

    def _rank(self, name: str) -> int:
        return len(self.types[name].tensor_type.shape.dim) if name else 0

    def _infer(self, node: onnx.NodeProto) -> Mapping[str, TypeProto]:
        schema = onnx.defs.get_schema(LIKE_OPERATOR.get(node.op_type, node.op_type), self.opset)
        types = {name: self.types[name] for name in node.input if name}
        data = {
            name: numpy_helper.from_array(self.values[name], name)
            for name in types
            if name in self.values and self.values[name].size <= MAX_SHAPE_VALUES
        }
        imports = [helper.make_opsetid("", self.opset)]
        if node.op_type in LIKE_INPUT:
            return {node.output[0]: self.types[node.input[0]]}
        if "" not in node.input:  # over which onnx 1.16 stumbles
            inferred: Mapping[str, TypeProto] = onnx.shape_inference.infer_node_outputs(
                schema, node, types, data, opset_imports=imports, ir_version=IR_VERSION
            )
            return inferred
        values = [onnx.ValueInfoProto(name=name, type=kind) for name, kind in types.items()]
        results = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = helper.make_graph([node], "node", values, results, list(data.values()))
        model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        return {value.name: value.type for value in model.graph.output}

    def _contradiction(self, node: onnx.NodeProto, what: str) -> ModelError:
        return ModelError(
            f"{node.op_type} node {node.name!r} fixes the batch size, or its inputs do not fit together "
            f"(opset {self.opset}, batch size {self.batch}): {what.strip()[:300]}",
            hint="export the model with a dynamic first (batch) dimension for every input",
        )


def facts(small: Trial, large: Trial, values: Mapping[str, Array]) -> Facts:
    """What two trials at different batch sizes say together."""
    shapes: dict[str, Shape] = {}
    per_sample = set()
    for name in small.types:
        a, b = small.shape(name), large.shape(name)
        if a is None or b is None or len(a) != len(b):
            continue
        shapes[name] = tuple(n if n == m else None for n, m in zip(a, b, strict=True))
        if (a[:1], b[:1]) == ((small.batch,), (large.batch,)):
            per_sample.add(name)
    return Facts(shapes, {name: small.dtype(name) for name in small.types}, per_sample, dict(values))


def exported_shape(small: Sequence[int], large: Sequence[int], batch: int) -> Dims | None:
    """A shape at the batch size of the export, from the shapes at `BATCHES`; None where it does not follow."""
    result = []
    for a, b in zip(small, large, strict=True):
        if a != b and (b != 2 * a or a * batch % BATCHES[0]):
            return None
        result.append(a if a == b else a * batch // BATCHES[0])
    return tuple(result)


def reshaped(node: onnx.NodeProto, shape: Dims, target: Sequence[int]) -> list[int] | None:
    """The shape that a Reshape gives, its 0 and -1 filled in; None if that is not clear or not allowed."""
    keeps_zeros = any(a.name == "allowzero" and a.i for a in node.attribute)
    full = [shape[i] if n == 0 and not keeps_zeros and i < len(shape) else int(n) for i, n in enumerate(target)]
    if full.count(-1) == 1 and 0 not in full:
        full[full.index(-1)] = math.prod(shape) // -math.prod(full)
    return full if math.prod(full) == math.prod(shape) and min(full, default=1) > 0 else None
