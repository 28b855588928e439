"""A user's own loss: a second ONNX graph, (prediction, target) → one number, put behind the model and differentiated by
the same rules as the model itself.

The graph's second input says what the target is. Sizes that it leaves open are the model's: dimensions of one name have
one size, and those of the prediction are known, so that one file serves models of all sizes; the first dimension of
both inputs is the batch.

The file is read with the same suspicion as a model. What comes out is a `losses.Loss` like any other.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from onnx import external_data_helper, helper

from edgefl.errors import EdgeflError, ModelError, UnsupportedOperatorError
from edgefl.trainer.building.losses import LOSSES, Loss, Terms, shown
from edgefl.trainer.files.loss_options import Settings
from edgefl.trainer.files.manifest import OWN_LOSS, Shape, Tensor
from edgefl.trainer.gradients.differentiate import gradients, reachable, require_rules
from edgefl.trainer.graph import Value
from edgefl.trainer.reading.source_model import SourceModel, read_model, require_readable

PREDICTION, TARGET = "prediction", "target"

MAX_LOSS_BYTES = 16 << 20
"""A loss holds constants at most, such as class weights; its file is read before anything is known about it."""

PREFIX = "loss."
"""Before the names of its tensors where they meet the model's."""


def read_loss(loss: str | os.PathLike[str] | bytes | onnx.ModelProto) -> Loss:
    """Read a loss from a file, its bytes, or a model in memory.

    Its inputs are told by their names, prediction and target, or else by their order; its one output is a float32 of
    one element, a mean over the batch. Raises ModelError for a file that is no such model. What depends on the model's
    output is checked by `Loss.target`: it raises ModelError where the loss does not fit it or does not change with it,
    UnsupportedOperatorError naming the node.
    """
    where = "the loss" if isinstance(loss, (bytes, onnx.ModelProto)) else str(loss)
    with _suspicious(where):
        proto = _parse(loss, where)
        initializers = {tensor.name for tensor in proto.graph.initializer}
        inputs = [value.name for value in proto.graph.input if value.name not in initializers]
        if len(inputs) != 2 or len(set(inputs)) != 2 or len(proto.graph.output) != 1:
            raise ModelError(
                f"{where} has the inputs {', '.join(inputs) or 'none'} and {len(proto.graph.output)} outputs",
                hint=f"a loss is an ONNX model with the inputs {PREDICTION} and {TARGET} and one output, a number",
            )
        if inputs[0] == TARGET or inputs[1] == PREDICTION:
            inputs.reverse()
        if any(external_data_helper.uses_external_data(tensor) for tensor in proto.graph.initializer):
            raise ModelError(
                f"{where} keeps constants in another file", hint="export it as one file: external_data=False"
            )
    own = _OwnLoss(proto, *inputs)
    return Loss(OWN_LOSS, own.terms, own.fitting)


@dataclass(frozen=True, slots=True)
class _OwnLoss:
    """The file, and what its two inputs are called there."""

    proto: onnx.ModelProto
    prediction: str
    target: str

    def fitting(self, prediction: Shape, _: Settings) -> Tensor:
        with _suspicious("the loss"):
            source = self._fitted(prediction)
            try:
                require_rules(_path(source))
            except UnsupportedOperatorError as error:
                hint = f"write it with other operators, or use one of {', '.join(LOSSES)}"
                raise UnsupportedOperatorError(f"the loss: {error.cause}", hint=hint) from error
        return Tensor(TARGET, source.inputs[1].dtype, source.inputs[1].shape)

    def terms(self, prediction: Value, target: Value, _: Settings, scale: Value | None) -> Terms:
        with _suspicious("the loss"):
            return _append(self._fitted(prediction.shape), prediction, target, scale)

    def _fitted(self, prediction: Shape) -> SourceModel:
        """The loss in its normal form, (prediction, target) in this order, its open sizes filled in."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        graph = proto.graph
        inputs = {value.name: value for value in graph.input}
        first, second = inputs[self.prediction], inputs[self.target]
        _fit_target(second, _fit_prediction(first, prediction))
        # their own names could mean something to read_model, as "target" does
        taken = {name for node in graph.node for name in (*node.input, *node.output)}
        names = {old: _free(PREFIX + old, taken) for old in (self.prediction, self.target)}
        first.name, second.name = names.values()
        graph.output[0].type.tensor_type.shape.SetInParent()  # onnx wants one; what it is turns out below
        nodes = [_renamed(node, names) for node in graph.node]
        for field in ("node", "value_info"):
            graph.ClearField(field)
        graph.node.extend(nodes)
        try:
            source = read_model(proto)
        except ModelError as error:
            raise type(error)(f"the loss: {error.cause}", hint=error.hint) from error
        tensors = {tensor.name: tensor for tensor in source.inputs}
        source = replace(source, inputs=tuple(tensors[name] for name in names.values()))
        (output,) = source.outputs
        if output.dtype != "float32" or any(size != 1 for size in output.shape):
            raise ModelError(
                f"the loss gives {output.dtype}{shown(output.shape)}, not one float32 number",
                hint="let it end in a mean over everything",
            )
        return source


@contextmanager
def _suspicious(where: str) -> Iterator[None]:
    """protobuf and onnx raise many unrelated types on broken content."""
    try:
        yield
    except EdgeflError:
        raise
    except Exception as error:
        raise ModelError(
            f"{where} is not a valid ONNX model: {str(error).strip()[:300]}",
            hint="check the file with onnx.checker.check_model, or export it again",
        ) from error


def _parse(loss: str | os.PathLike[str] | bytes | onnx.ModelProto, where: str) -> onnx.ModelProto:
    if isinstance(loss, onnx.ModelProto):
        loss = bytes(loss.SerializeToString())
    try:
        if not isinstance(loss, bytes):
            with Path(loss).open("rb") as file:
                loss = file.read(MAX_LOSS_BYTES + 1)
    except OSError as error:
        raise ModelError(f"cannot read {where}: {error.strerror or error}", hint="name an ONNX file") from error
    if len(loss) > MAX_LOSS_BYTES:
        raise ModelError(f"{where} has over {MAX_LOSS_BYTES} bytes", hint="a loss holds no weights: export it alone")
    require_readable(loss, where, beside=True)
    proto: onnx.ModelProto = onnx.ModelProto.FromString(loss)
    return proto


def _fit_prediction(value: onnx.ValueInfoProto, shape: Shape) -> dict[str, int]:
    """Give the input the shape of what the model predicts; the sizes of the named dimensions behind the batch."""
    declared = value.type.tensor_type.shape.dim
    sizes: dict[str, int] = {}
    fits = len(declared) == len(shape) or not value.type.tensor_type.HasField("shape")
    for dim, size in zip(declared[1:], shape[1:], strict=False):
        fits = fits and (size is None or dim.dim_value in (0, size))
        if dim.dim_param and size is not None:
            fits = fits and sizes.setdefault(dim.dim_param, size) == size
    if not fits:
        wanted = ", ".join(dim.dim_param or str(dim.dim_value or "?") for dim in declared)
        raise ModelError(
            f"the loss takes a prediction [{wanted}], the model gives {shown(shape)}",
            hint="export the loss for this model's output, or with open sizes",
        )
    _declare(value, shape)
    return sizes


def _fit_target(value: onnx.ValueInfoProto, sizes: dict[str, int]) -> None:
    declared = value.type.tensor_type.shape.dim
    if not declared:
        raise ModelError(
            f"the input {value.name!r} of the loss has no known shape with a batch dimension",
            hint="export the loss with the shape of its target",
        )
    _declare(value, [None, *(dim.dim_value or sizes.get(dim.dim_param) for dim in declared[1:])])


def _declare(value: onnx.ValueInfoProto, shape: Sequence[int | None]) -> None:
    kind = value.type.tensor_type
    value.CopyFrom(helper.make_tensor_value_info(value.name, kind.elem_type, shape))


def _path(source: SourceModel) -> list[onnx.NodeProto]:
    """The nodes that lead from the prediction to the loss."""
    path = reachable(source.nodes, [source.inputs[0].name], source.outputs[0].name)
    if not path:
        raise ModelError(
            "the loss does not change with the prediction",
            hint="only constant operators (such as ArgMax) lead from there to its output, or none",
        )
    return path


def _append(source: SourceModel, prediction: Value, target: Value, scale: Value | None) -> Terms:
    """Put the loss into the prediction's graph, under names that nobody has there, and its gradient behind it."""
    graph = prediction.graph
    names = {source.inputs[0].name: prediction.name, source.inputs[1].name: target.name}
    for name, tensor in source.initializers.items():
        names[name] = graph.fresh(PREFIX + name)
        constant = graph.constants[names[name]] = onnx.TensorProto()
        constant.CopyFrom(tensor)
        constant.name = names[name]
    for node in source.nodes:
        names.update({name: graph.fresh(PREFIX + name) for name in node.output if name})
        graph.nodes.append(_renamed(node, names))
    path = [_renamed(node, names) for node in _path(source)]
    shapes = {names[name]: shape for name, shape in source.shapes.items() if name in names}
    (output,) = source.outputs
    start = (scale or graph.lift(1.0)).reshape(*len(output.shape) * [1])
    (slope,) = gradients(graph, path, shapes, names[output.name], start, [prediction.name])
    return Value(graph, names[output.name]).reshape(), slope


def _free(name: str, taken: Container[str]) -> str:
    while name in taken:
        name += "~"
    return name


def _renamed(node: onnx.NodeProto, names: dict[str, str]) -> onnx.NodeProto:
    renamed = onnx.NodeProto()
    renamed.CopyFrom(node)
    renamed.input[:] = [names.get(name, name) for name in node.input]
    renamed.output[:] = [names.get(name, name) for name in node.output]
    return renamed
