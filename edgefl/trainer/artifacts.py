"""From an ONNX inference model to an artifact directory that stock ONNX Runtime trains.

    read and normalise        source_model.py, shapes.py
    strip a final Softmax     cross-entropy is taken on the logits, which is exact and stable; the exported
                              model keeps its Softmax
    loss                      losses.py
    differentiate             differentiate.py, gradients/
    optimiser                 optimizers.py
    write                     manifest.py, checkpoint.py, inference_model.py

Needs the `onnx` package (pip install 'edgefl[build]'), imported only when `build` is called.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgefl.durable import write_atomically
from edgefl.errors import ConfigError, ModelError, StorageError
from edgefl.trainer import checkpoint
from edgefl.trainer.inference_model import raw_data_offsets
from edgefl.trainer.manifest import (
    CHECKPOINT,
    EVALUATION,
    INFERENCE,
    MANIFEST,
    MAX_MODEL_BYTES,
    OPTIMIZER,
    TRAINING,
    File,
    Manifest,
    Parameter,
    Tensor,
)

if TYPE_CHECKING:
    import onnx

    from edgefl.trainer.source_model import SourceModel


class MissingPackageError(ConfigError):
    """Building needs a package that running does not."""

    name: ClassVar[str] = "missing-package"


def build(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto,
    *,
    loss: str,
    optimizer: str = "sgd",
    out: str | os.PathLike[str],
    trainable: Sequence[str] | None = None,
    frozen: Sequence[str] = (),
    optimizer_options: Mapping[str, float] | None = None,
    portable: bool = False,
) -> Manifest:
    """Make an ONNX inference model (float32, opset ≥ 13) trainable; write the artifact directory `out`.

    loss: "cross-entropy" (the model's first output is [batch, classes]; target int64 [batch]) or "mse" (target float32
    of the output's shape). optimizer: "sgd", "momentum", "adam" or "adamw", its constants in `optimizer_options`.
    trainable, frozen: globs on initializer names; by default every float32 initializer with at least one dimension
    that the loss depends on is trained, and `frozen` is taken away from that. portable: use ai.onnx operators alone,
    for runtimes that lack ONNX Runtime's FusedMatMul.

    A model that ends in Softmax or LogSoftmax is trained with cross-entropy on the logits before it (the manifest's
    `stripped` says so); evaluation and the exported model keep it.

    Raises MissingPackageError without the onnx package, ModelError for a model that cannot be used (its subclass
    UnsupportedOperatorError names the node), StorageError.
    """
    try:
        import onnx
    except ImportError:
        raise MissingPackageError(
            "building artifacts needs the onnx package", hint="pip install 'edgefl[build]'"
        ) from None
    from edgefl.trainer.losses import LOSSES
    from edgefl.trainer.source_model import read_model

    if loss not in LOSSES:
        raise ModelError(f"no loss {loss!r}", hint=f"choose one of {', '.join(LOSSES)}")
    source = read_model(model)
    try:
        manifest, files = _build(source, loss, optimizer, trainable, frozen, optimizer_options or {}, portable)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(
            f"no valid training graph comes out of this model: {str(error).strip()[:300]}",
            hint="every tensor between the trained weights and the output must be float32",
        ) from error
    except MemoryError as error:
        raise ModelError(f"the training graph does not fit into memory: {error}", hint="use a smaller model") from error
    _write(Path(out), manifest, files)
    return manifest


def _build(
    source: SourceModel,
    loss_name: str,
    optimizer: str,
    trainable: Sequence[str] | None,
    frozen: Sequence[str],
    options: Mapping[str, float],
    portable: bool,
) -> tuple[Manifest, dict[str, bytes]]:
    from edgefl.trainer.differentiate import gradients, reachable, require_rules
    from edgefl.trainer.graph import OPSET, Graph, Value
    from edgefl.trainer.losses import LOSSES, shown
    from edgefl.trainer.optimizers import optimizer_model

    loss = LOSSES[loss_name]
    output = source.outputs[0]
    if output.dtype != "float32" or output.name not in source.per_sample:
        shape = f"{output.dtype}{shown(output.shape)}"
        raise ModelError(
            f"output {output.name!r} is {shape}; a loss needs float32, one row per sample{source.end_of_batch()}",
            hint="export the model with a dynamic batch dimension, and the output to train as its first",
        )
    goal, stripped = _logits(source, output.name) if loss_name == "cross-entropy" else (output.name, "")
    prediction = source.shapes[goal]
    target = loss.target(prediction)
    values = _initial_values(source, goal, trainable, frozen)
    path = reachable(source.nodes, values, goal)
    require_rules(path)

    proto = source.proto
    _store_raw(proto, values)
    inference = proto.SerializeToString()
    offsets = raw_data_offsets(inference)
    parameters = [Parameter(name, value.shape, offsets[name]) for name, value in values.items()]

    graph = Graph(portable, taken=source.names | {tensor.name for tensor in (*source.inputs, *source.outputs)})
    graph.constants.update({name: tensor for name, tensor in source.initializers.items() if name not in values})
    graph.nodes.extend(source.nodes)
    target = Tensor(graph.fresh(target.name), target.dtype, target.shape)
    loss_value, dgoal = loss.terms(Value(graph, goal, prediction), Value(graph, target.name, target.shape))
    loss_tensor = Tensor(loss_value.named(graph.fresh("loss")).name, "float32", ())
    inputs = [*source.inputs, target, *(Tensor(p.name, "float32", p.shape) for p in parameters)]
    evaluation = graph.model("evaluation", inputs, [loss_tensor, *source.outputs])
    slopes = [
        Tensor(slope.named(graph.fresh(f"{p.name}.gradient")).name, "float32", p.shape)
        for p, slope in zip(parameters, gradients(graph, path, source.shapes, goal, dgoal, list(values)), strict=True)
    ]
    training = graph.model("training", inputs, [loss_tensor, *slopes])
    stepping, record = optimizer_model(optimizer, options, parameters)

    files = {
        TRAINING: training.SerializeToString(),
        EVALUATION: evaluation.SerializeToString(),
        OPTIMIZER: stepping.SerializeToString(),
        INFERENCE: inference,
        CHECKPOINT: checkpoint.serialise(values),
    }
    for name, content in files.items():
        if len(content) > MAX_MODEL_BYTES:
            raise ModelError(f"{name} would have {len(content)} bytes, over the limit of {MAX_MODEL_BYTES}")
    manifest = Manifest(
        inputs=source.inputs,
        target=target,
        outputs=source.outputs,
        parameters=tuple(parameters),
        buffers=(),
        loss=loss.name,
        classes=loss.classes(prediction),
        stripped=stripped,
        optimizer=record,
        opset=OPSET,
        operators=tuple(sorted({n.op_type for m in (training, evaluation, stepping) for n in m.graph.node})),
        files={name: File.of(content) for name, content in files.items()},
    )
    return manifest, files


def _logits(source: SourceModel, output: str) -> tuple[str, str]:
    """Where cross-entropy starts: before a final Softmax or LogSoftmax over the classes, whose name is returned too."""
    from edgefl.trainer.graph import attributes_of

    producer = next((node for node in source.nodes if output in node.output), None)
    if producer is not None and producer.op_type in ("Softmax", "LogSoftmax"):
        rank = len(source.shapes[output])
        if attributes_of(producer).get("axis", -1) in (-1, rank - 1):
            return producer.input[0], producer.op_type
    return output, ""


def _initial_values(
    source: SourceModel, goal: str, trainable: Sequence[str] | None, frozen: Sequence[str]
) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """The trained tensors by name, in the model's own order."""
    import onnx
    from onnx import numpy_helper

    from edgefl.trainer.differentiate import differentiable_inputs

    useful = differentiable_inputs(source.nodes, goal)
    candidates = [
        tensor
        for name, tensor in source.initializers.items()
        if name in useful and tensor.data_type == onnx.TensorProto.FLOAT and 0 not in tensor.dims
    ]
    known = ", ".join(tensor.name for tensor in candidates)[:300] or "none"
    for glob, group in [
        *((g, candidates) for g in trainable or ()),
        *((g, source.initializers.values()) for g in frozen),
    ]:
        if not any(fnmatchcase(tensor.name, glob) for tensor in group):
            raise ModelError(f"no weight matches {glob!r}", hint=f"trainable weights of this model: {known}")
    chosen = {
        tensor.name: np.array(numpy_helper.to_array(tensor), np.float32)
        for tensor in candidates
        if (tensor.dims if trainable is None else any(fnmatchcase(tensor.name, glob) for glob in trainable))
        and not any(fnmatchcase(tensor.name, glob) for glob in frozen)
    }
    if not chosen:
        raise ModelError(
            "the model has no trainable weight",
            hint=f"weights must be float32 initializers that the output depends on; this model has: {known}",
        )
    for name, value in chosen.items():
        if not np.isfinite(value).all():
            raise ModelError(f"weight {name!r} holds infinities or NaN", hint="export a model with finite weights")
    return chosen


def _store_raw(proto: onnx.ModelProto, values: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Rewrite the trained initializers of the inference model so that their bytes can be replaced in place."""
    from onnx import numpy_helper

    for tensor in proto.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))


def _write(directory: Path, manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """The manifest goes last: until then, and after a crash in between, its hashes do not fit and loading refuses."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {directory}: {error.strerror or error}", hint="name another folder") from error
    for name, content in files.items():
        write_atomically(directory / name, content)
    write_atomically(directory / MANIFEST, manifest.serialise())
