"""From an ONNX inference model to an artifact directory that stock ONNX Runtime trains.

read and normalise        reading/source_model.py
strip what the loss has   a final Softmax or Sigmoid: losses are taken on the logits, which is exact and stable; the
                          exported model keeps it
forms that cost less      simplify.py
adapters, if wanted       lora.py
training form             training_form.py
convolution before a pool phases.py
may batches be divided?   divisible.py
loss                      losses.py, own_loss.py
differentiate             gradients/differentiate.py
optimiser                 optimizers.py
write                     files/
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from edgefl.durable import write_atomically
from edgefl.errors import EdgeflError, ModelError, StorageError
from edgefl.trainer.building.divisible import is_divisible
from edgefl.trainer.building.lora import adapt
from edgefl.trainer.building.losses import LOSSES, shown
from edgefl.trainer.building.losses import Loss as AnyLoss
from edgefl.trainer.building.low_rank import LowRank
from edgefl.trainer.building.optimizers import optimizer_model
from edgefl.trainer.building.own_loss import read_loss
from edgefl.trainer.building.phases import in_phases
from edgefl.trainer.building.simplify import simplify
from edgefl.trainer.building.training_form import append_training_form, moving_statistics
from edgefl.trainer.files import checkpoint
from edgefl.trainer.files.inference_model import raw_data_offsets
from edgefl.trainer.files.manifest import (
    CHECKPOINT,
    EVALUATION,
    INFERENCE,
    MANIFEST,
    MAX_MODEL_BYTES,
    OPTIMIZER,
    OWN_LOSS,
    TRAINING,
    Adapter,
    File,
    Loss,
    Manifest,
    Option,
    Parameter,
    Shape,
    Tensor,
)
from edgefl.trainer.gradients.differentiate import differentiable_inputs, gradients, reachable, require_rules
from edgefl.trainer.graph import OPSET, Graph, Value, attributes_of
from edgefl.trainer.reading.source_model import SourceModel, read_model

Values = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is to be trained: what `build` was asked for."""

    loss: AnyLoss
    loss_options: Mapping[str, Option]
    optimizer: str
    optimizer_options: Mapping[str, float]
    trainable: Sequence[str] | None
    frozen: Sequence[str]
    lora: LowRank | None
    portable: bool

    def learns(self, name: str) -> bool:
        """Whether --frozen leaves this tensor alone."""
        return not any(fnmatchcase(name, glob) for glob in self.frozen)


def build_here(
    *,
    model: str | os.PathLike[str] | bytes | onnx.ModelProto,
    loss: str | os.PathLike[str] | bytes | onnx.ModelProto,
    optimizer: str = "sgd",
    out: str | os.PathLike[str],
    trainable: Sequence[str] | None = None,
    frozen: Sequence[str] = (),
    loss_options: Mapping[str, Option] | None = None,
    optimizer_options: Mapping[str, float] | None = None,
    lora: LowRank | None = None,
    portable: bool = False,
) -> None:
    """`build` (apart.py) in this process, which a hostile model may end. Raises ModelError, StorageError."""
    if isinstance(loss, str) and loss not in LOSSES and not loss.endswith(".onnx"):
        raise ModelError(
            f"no loss {loss!r}", hint=f"choose one of {', '.join(LOSSES)}, or name an ONNX file with a loss of your own"
        )
    chosen = LOSSES[loss] if isinstance(loss, str) and loss in LOSSES else read_loss(loss)
    source = read_model(model)
    recipe = Recipe(chosen, loss_options or {}, optimizer, optimizer_options or {}, trainable, frozen, lora, portable)
    try:
        manifest, files = _build(source, recipe)
    except EdgeflError:
        raise
    except MemoryError as error:
        raise ModelError(f"the training graph does not fit into memory: {error}", hint="use a smaller model") from error
    except Exception as error:  # onnx and numpy raise many unrelated types where nodes contradict each other
        raise ModelError(
            f"no valid training graph comes out of this model: {str(error).strip()[:300]}",
            hint="every tensor between the trained weights and the output must be float32",
        ) from error
    _write(Path(out), manifest, files)


def _build(source: SourceModel, recipe: Recipe) -> tuple[Manifest, dict[str, bytes]]:

    loss = recipe.loss
    output = source.outputs[0]
    if output.dtype != "float32" or output.name not in source.per_sample:
        shape = f"{output.dtype}{shown(output.shape)}"
        raise ModelError(
            f"output {output.name!r} is {shape}; a loss needs float32, one row per sample{source.end_of_batch()}",
            hint="export the model with a dynamic batch dimension, and the output to train as its first",
        )
    options = loss.settings(recipe.loss_options)
    goal, stripped = _logits(source, output.name, partial(loss.takes_in, options=options))
    prediction = source.shapes[goal]
    target = loss.target(prediction, options)

    taken = source.names | {tensor.name for tensor in (*source.inputs, *source.outputs)}
    graph = Graph(recipe.portable, taken=taken)
    model = _Learner.of(source, recipe, goal, graph.fresh)
    moving = moving_statistics(
        model.nodes, source.initializers, lambda name: name in model.trained or name in model.statistics(recipe)
    )
    buffers = {name: _array(source.initializers[name]) for pair in moving.values() for name in pair}
    proto = source.proto
    _store_raw(proto, [*model.trained, *buffers, *model.sides])
    inference = proto.SerializeToString()
    offsets = raw_data_offsets(inference)
    parameters = [Parameter(name, value.shape, offsets.get(name)) for name, value in model.trained.items()]
    carried = [*parameters, *(Parameter(name, value.shape, offsets[name]) for name, value in buffers.items())]
    constants = {n: t for n, t in source.initializers.items() if n not in model.trained and n not in buffers}
    constants.update(model.constants)

    # Evaluation: the inference form, and the loss behind it.
    target = Tensor(graph.fresh(target.name), target.dtype, target.shape)
    inputs = [*source.inputs, target, *(Tensor(p.name, "float32", p.shape) for p in carried)]
    judging = Graph(recipe.portable, taken=set(graph.taken), constants=dict(constants))
    judging.nodes.extend(model.nodes)
    value, _ = loss.terms(Value(judging, goal, prediction), Value(judging, target.name, target.shape), options)
    (loss_name,) = judging.name_results([value], ["loss"])
    evaluation = judging.model("evaluation", inputs, [Tensor(loss_name, "float32", ()), *source.outputs])

    # Training: the training form, the loss, and backwards through both.
    graph.constants.update(constants)
    dropouts = {site.output: site.ratio for site in getattr(source, "dropouts", ())}
    form = append_training_form(graph, model.nodes, model.shapes, moving, dropouts)
    in_phases(graph, form.shapes, model.trained, goal)
    path = reachable(graph.nodes, model.trained, goal)
    require_rules(path)
    scale = Tensor(graph.fresh("scale"), "float32", ())
    given = Value(graph, goal, prediction), Value(graph, target.name, target.shape)
    value, slope = loss.terms(*given, options, Value(graph, scale.name, ()))
    slopes = gradients(graph, path, form.shapes, goal, slope, list(model.trained))
    names = graph.name_results([value, *slopes], ["loss", *(f"{p.name}.gradient" for p in parameters)])
    results = [
        Tensor(name, "float32", shape) for name, shape in zip(names, [(), *(p.shape for p in parameters)], strict=True)
    ]
    results += [Tensor(form.moved[name], "float32", array.shape) for name, array in buffers.items()]
    seed = [Tensor(form.seed, "int64", ())] if form.seed else []
    training = graph.model("training", [*inputs, scale, *seed], results)
    size = sum(parameter.size for parameter in parameters)
    names_in = [tensor.name for tensor in source.inputs]
    divisible = (
        not (buffers or seed or loss.name == OWN_LOSS)  # of one's own loss it is not known
        and is_divisible(model.nodes, model.shapes, constants, names_in, model.trained, goal)
    )
    stepping, record = optimizer_model(recipe.optimizer, recipe.optimizer_options, size)

    files = {
        TRAINING: training.SerializeToString(),
        EVALUATION: evaluation.SerializeToString(),
        OPTIMIZER: stepping.SerializeToString(),
        INFERENCE: inference,
        CHECKPOINT: checkpoint.serialise({**model.trained, **buffers}),
    }
    for name, content in files.items():
        if len(content) > MAX_MODEL_BYTES:
            raise ModelError(f"{name} would have {len(content)} bytes, over the limit of {MAX_MODEL_BYTES}")
    manifest = Manifest(
        inputs=source.inputs,
        target=target,
        outputs=source.outputs,
        parameters=tuple(parameters),
        buffers=tuple(carried[len(parameters) :]),
        adapters=tuple(
            Adapter(name, tuple(source.initializers[name].dims), offsets[name], left, right, model.scale, transposed)
            for name, (left, right, transposed) in model.sides.items()
        ),
        seeded=bool(seed),
        divisible=divisible,
        loss=Loss(loss.name, options, loss.classes(prediction, options)),
        stripped=stripped,
        optimizer=record,
        opset=OPSET,
        operators=tuple(sorted({n.op_type for m in (training, evaluation, stepping) for n in m.graph.node})),
        files={name: File.of(content) for name, content in files.items()},
    )
    return manifest, files


@dataclass(slots=True)
class _Learner:
    """The model with what is trained told apart; `sides`, `scale` and `constants` belong to adapters."""

    nodes: Sequence[onnx.NodeProto]
    shapes: Mapping[str, Shape]
    trained: Values
    sides: Mapping[str, tuple[str, str, bool]]
    constants: Mapping[str, onnx.TensorProto]
    scale: float

    @classmethod
    def of(cls, source: SourceModel, recipe: Recipe, goal: str, fresh: Callable[[str], str]) -> _Learner:

        useful = differentiable_inputs(source.nodes, goal)
        kept = [goal, *(output.name for output in source.outputs)]
        forms = simplify(source.nodes, source.shapes, source.initializers, kept, fresh)
        nodes, shapes = forms.nodes, forms.shapes
        added = {name: tensor for name, tensor in forms.constants.items() if name not in source.initializers}
        if recipe.lora is None:
            return cls(nodes, shapes, _initial_values(source, recipe, useful), {}, added, 0.0)

        wanted = {name for name in useful if recipe.learns(name)}
        adapted = adapt(nodes, source.initializers, shapes, wanted, recipe.lora, fresh)
        beside = _initial_values(source, recipe, useful) if recipe.trainable else {}
        trained = {name: value for name, value in beside.items() if name not in adapted.sides} | adapted.values
        added.update(adapted.constants)
        return cls(adapted.nodes, adapted.shapes, trained, adapted.sides, added, recipe.lora.scale)

    def statistics(self, recipe: Recipe) -> set[str]:
        """Running statistics that --frozen does not keep as they are."""
        return {
            name
            for node in self.nodes
            if node.op_type == "BatchNormalization"
            for name in node.input[3:5]
            if recipe.learns(name)
        }


def _logits(source: SourceModel, output: str, contained: Callable[..., bool]) -> tuple[str, str]:
    """Where the loss starts: before a final operator that it contains, whose name is returned too."""

    producer = next((node for node in source.nodes if output in node.output), None)
    if producer is not None and contained(producer.op_type, attributes_of(producer), source.shapes[output]):
        return producer.input[0], producer.op_type
    return output, ""


def _initial_values(source: SourceModel, recipe: Recipe, useful: set[str]) -> Values:
    """The trained tensors by name, in the model's own order."""

    own = {tensor.name for tensor in source.proto.graph.initializer}  # not the constants that rewriting has brought
    candidates = [
        tensor
        for name, tensor in source.initializers.items()
        if name in useful & own and tensor.data_type == onnx.TensorProto.FLOAT and 0 not in tensor.dims
    ]
    known = ", ".join(tensor.name for tensor in candidates)[:300] or "none"
    for glob, group in [
        *((g, candidates) for g in recipe.trainable or ()),
        *((g, source.initializers.values()) for g in recipe.frozen),
    ]:
        if not any(fnmatchcase(tensor.name, glob) for tensor in group):
            raise ModelError(f"no weight matches {glob!r}", hint=f"trainable weights of this model: {known}")
    wanted = recipe.trainable
    chosen = {
        tensor.name: _array(tensor)
        for tensor in candidates
        if (tensor.dims if wanted is None else any(fnmatchcase(tensor.name, glob) for glob in wanted))
        and recipe.learns(tensor.name)
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


def _array(tensor: onnx.TensorProto) -> npt.NDArray[np.float32]:

    return np.array(numpy_helper.to_array(tensor), np.float32)


def _store_raw(proto: onnx.ModelProto, names: Sequence[str]) -> None:
    """Rewrite initializers of the inference model so that their bytes can be replaced in place."""

    wanted = set(names)
    for tensor in proto.graph.initializer:
        if tensor.name in wanted:
            tensor.CopyFrom(numpy_helper.from_array(_array(tensor), tensor.name))


def _write(directory: Path, manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """The manifest goes last: until then, and after a crash in between, its hashes do not fit and loading refuses."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {directory}: {error.strerror or error}", hint="name another folder") from error
    for name, content in files.items():
        write_atomically(directory / name, content)
    write_atomically(directory / MANIFEST, manifest.serialise())
