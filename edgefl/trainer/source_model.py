"""The user's ONNX file: read with suspicion, then brought into the one form that the differentiator knows.

That form: one flat graph of ai.onnx nodes whose meaning at the model's opset is their meaning at ours, Dropout gone,
every initializer in the file itself. What cannot be brought there is refused by name.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
from onnx import external_data_helper, numpy_helper

from edgefl.errors import EdgeflError, ModelError
from edgefl.trainer.gradients import RULES, UnsupportedOperatorError
from edgefl.trainer.graph import IR_VERSION, OPSET, attributes_of
from edgefl.trainer.manifest import DTYPES, MAX_MODEL_BYTES, MAX_NAME_LENGTH, MAX_RANK, Shape, Tensor
from edgefl.trainer.shapes import infer_shapes

OLDEST_OPSET = 13
"""The first with today's Softmax, and with axes of ReduceSum and Squeeze as inputs; exporters have written it or later
since 2021."""

UNCHANGED = frozenset(RULES) | {
    *("Cast", "Clip", "Concat", "Constant", "ConstantOfShape", "Equal", "Expand", "Gather", "Pad", "Shape", "Size"),
    *("Div", "Exp", "LeakyRelu", "Log", "Neg", "Pow", "Range", "ReduceSum", "Slice", "Sqrt", "Where", "Dropout"),
}
"""Operators whose later versions only added types or optional inputs since opset 13: a node may be carried to our opset
as it stands. Others may be carried only if no newer version lies between."""


@dataclass(frozen=True, slots=True)
class SourceModel:
    """`proto` is the user's model (for inference), the rest its normal form; `per_sample` as infer_shapes gives it."""

    proto: onnx.ModelProto
    nodes: Sequence[onnx.NodeProto]
    initializers: dict[str, onnx.TensorProto]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    shapes: dict[str, Shape]
    per_sample: set[str]

    @property
    def names(self) -> set[str]:
        return {name for node in self.nodes for name in (*node.input, *node.output)} | set(self.initializers)

    def end_of_batch(self) -> str:
        """For an error message: the node that makes the first output independent of the batch size, if one does."""
        needed = {self.outputs[0].name}
        for node in reversed(self.nodes):
            if needed.intersection(node.output) and not any(None in self.shapes.get(name, ()) for name in node.output):
                if any(None in self.shapes.get(name, ()) for name in node.input):
                    return f" ({node.op_type} node {node.name!r} fixes the batch size)"
                needed.update(node.input)
        return ""


def read_model(model: str | os.PathLike[str] | bytes | onnx.ModelProto) -> SourceModel:
    """Read a file, its bytes, or a model in memory. Raises ModelError, or UnsupportedOperatorError naming the node."""
    where = "the model" if isinstance(model, (bytes, onnx.ModelProto)) else str(model)
    try:
        proto = _parse(model, where)
        _check(proto, where)
        return _normal_form(proto)
    except EdgeflError:
        raise
    except Exception as error:  # protobuf and onnx raise many unrelated types on broken content
        raise ModelError(
            f"{where} is not a valid ONNX model: {str(error).strip()[:300]}",
            hint="check the file with onnx.checker.check_model, or export it again",
        ) from error


def _parse(model: str | os.PathLike[str] | bytes | onnx.ModelProto, where: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    if isinstance(model, onnx.ModelProto):
        proto.CopyFrom(model)
        return proto
    content = model if isinstance(model, bytes) else _read(Path(model))
    if len(content) > MAX_MODEL_BYTES:
        raise ModelError(
            f"{where} has {len(content)} bytes, over the limit of {MAX_MODEL_BYTES}", hint="use a smaller model"
        )
    proto.ParseFromString(content)
    if not isinstance(model, bytes):
        _load_external_data(proto, Path(model).parent)
    return proto


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_MODEL_BYTES + 1)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}", hint="name an ONNX file") from error


def _load_external_data(proto: onnx.ModelProto, folder: Path) -> None:
    """Bring weights that the exporter put into a file beside the model into the model, within the size limit."""
    room = MAX_MODEL_BYTES
    for tensor in proto.graph.initializer:
        if not external_data_helper.uses_external_data(tensor):
            continue
        place = external_data_helper.ExternalDataInfo(tensor)
        path = folder / place.location
        if Path(place.location).is_absolute() or not path.resolve().is_relative_to(folder.resolve()):
            raise ModelError(
                f"initializer {tensor.name!r} refers to a file outside the model's folder",
                hint="export the model as one file",
            )
        room -= place.length or path.stat().st_size
        if room < 0:
            raise ModelError(f"the model's weights are over the limit of {MAX_MODEL_BYTES} bytes")
        external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        tensor.ClearField("data_location")
        tensor.ClearField("external_data")


def _check(proto: onnx.ModelProto, where: str) -> None:
    if not proto.graph.node or not proto.opset_import:
        raise ModelError(f"{where} is not an ONNX model: it holds no graph", hint="name an ONNX file")
    onnx.checker.check_model(proto)
    if proto.graph.sparse_initializer:
        raise ModelError("the model has sparse initializers", hint="export it with dense weights")
    for tensor in proto.graph.initializer:
        try:
            numpy_helper.to_array(tensor)
        except ValueError as error:
            raise ModelError(
                f"initializer {tensor.name!r} is broken: {error}", hint="export the model again"
            ) from error
    names = [*(t.name for t in proto.graph.initializer), *(v.name for v in (*proto.graph.input, *proto.graph.output))]
    for name in names:
        if not name.isprintable() or not 0 < len(name) <= MAX_NAME_LENGTH:
            raise ModelError(f"a tensor name is empty, unprintable or over {MAX_NAME_LENGTH} characters: {name!r:.80}")


def _normal_form(proto: onnx.ModelProto) -> SourceModel:
    flat = onnx.inliner.inline_local_functions(proto) if proto.functions else proto
    opset = _opset(flat)
    initializers = {tensor.name: tensor for tensor in flat.graph.initializer}
    nodes = _without_dropout(flat.graph.node, initializers, {value.name for value in flat.graph.output})
    for node in nodes:
        _require_same_meaning(node, opset)
    inputs = [value for value in flat.graph.input if value.name not in initializers]
    if not inputs:
        raise ModelError("the model has no input", hint="export it with its input tensor")
    tensors = tuple(_input(value) for value in inputs)
    shapes, per_sample = infer_shapes(flat, [tensor.name for tensor in tensors])
    outputs = tuple(_output(value, shapes) for value in flat.graph.output)
    proto.ir_version = min(proto.ir_version, IR_VERSION)
    for imported in proto.opset_import:
        imported.version = min(imported.version, OPSET) if imported.domain in ("", "ai.onnx") else imported.version
    return SourceModel(proto, nodes, initializers, tensors, outputs, shapes, per_sample)


def _opset(proto: onnx.ModelProto) -> int:
    version = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
    if version < OLDEST_OPSET:
        raise ModelError(
            f"the model uses ai.onnx opset {version}; edgefl reads {OLDEST_OPSET} and later",
            hint=f"export it with opset {OPSET}, or convert it: onnx.version_converter.convert_version(model, {OPSET})",
        )
    return int(version)


def _without_dropout(
    nodes: Sequence[onnx.NodeProto], initializers: dict[str, onnx.TensorProto], outputs: set[str]
) -> list[onnx.NodeProto]:
    """Dropout as inference means it: the identity."""
    read = {name for node in nodes for name in node.input} | outputs
    constants = dict(initializers)
    result = []
    for node in nodes:
        if node.op_type == "Constant" and "value" in (values := attributes_of(node)):
            constants[node.output[0]] = values["value"]
        if node.op_type == "Dropout" and node.domain in ("", "ai.onnx"):
            mode = node.input[2] if len(node.input) > 2 else ""
            if mode and (mode not in constants or numpy_helper.to_array(constants[mode]).any()):
                raise UnsupportedOperatorError(
                    f"Dropout node {node.name!r} is in training mode", hint="export the model in inference mode"
                )
            if len(node.output) > 1 and node.output[1] in read:
                raise UnsupportedOperatorError(f"the mask of Dropout node {node.name!r} is used by another node")
            node = onnx.helper.make_node("Identity", node.input[:1], node.output[:1], node.name)
        result.append(node)
    return result


def _require_same_meaning(node: onnx.NodeProto, opset: int) -> None:
    what = f"node {node.name!r} uses {node.op_type}"
    if node.domain not in ("", "ai.onnx"):
        raise UnsupportedOperatorError(
            f"{what} of domain {node.domain!r} (opset {opset})",
            hint=f"only standard ai.onnx operators are supported: {', '.join(sorted(RULES))}",
        )
    if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
        raise UnsupportedOperatorError(
            f"{what} (opset {opset}), control flow", hint="export the model without If and Loop"
        )
    if node.op_type in UNCHANGED:
        return
    there = onnx.defs.get_schema(node.op_type, opset).since_version
    here = onnx.defs.get_schema(node.op_type, OPSET).since_version if there <= OPSET else 0
    if there != here:
        raise UnsupportedOperatorError(
            f"{what}, whose meaning at the model's opset {opset} differs from opset {OPSET}",
            hint=f"export the model with opset {OPSET}; supported: {', '.join(sorted(RULES))}",
        )


def _input(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.tensor_type
    dtype = _dtype(value)
    dims = kind.shape.dim
    if not kind.HasField("shape") or not 1 <= len(dims) <= MAX_RANK:
        raise ModelError(
            f"input {value.name!r} has no known shape with a batch dimension", hint="export it with its input shape"
        )
    for axis, dim in enumerate(dims[1:], 1):
        if dim.dim_value < 1:
            raise ModelError(
                f"dimension {axis} of input {value.name!r} is open ({dim.dim_param or 'unknown'})",
                hint="only the first (batch) dimension may be open: export the model with the others fixed",
            )
    if value.name == "target":
        raise ModelError("an input of the model is named 'target', the name of the labels", hint="rename the input")
    return Tensor(value.name, dtype, (None, *(dim.dim_value for dim in dims[1:])))


def _output(value: onnx.ValueInfoProto, shapes: dict[str, Shape]) -> Tensor:
    if value.name not in shapes:
        raise ModelError(
            f"the shape of output {value.name!r} cannot be inferred",
            hint="export the model with fixed sizes for everything but the batch",
        )
    return Tensor(value.name, _dtype(value), shapes[value.name])


def _dtype(value: onnx.ValueInfoProto) -> str:
    code = value.type.tensor_type.elem_type
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(code)).name if code else "unknown"
    if dtype not in DTYPES:
        raise ModelError(
            f"{value.name!r} is of type {dtype}; inputs and outputs may be {', '.join(DTYPES)}",
            hint="export the model in float32",
        )
    return dtype
