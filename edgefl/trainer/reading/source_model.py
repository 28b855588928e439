"""The user's ONNX file: read with suspicion, then brought into the one form that the differentiator knows.

That form: one flat graph of ai.onnx nodes at our opset, in inference form, constants computed, every initializer in the
file itself. What cannot be brought there is refused by name. The steps, each a module:

    functions.py        the model's own functions inlined; operators without a rule by the body that ONNX defines
    ml_operators.py     what scikit-learn's converter writes, in standard operators
    untie.py            weights that an exporter merged, set apart
    strays.py           float vectors that are no weights
    fold.py, shapes.py  what is constant, and the shape of everything else
    inference_form.py   Dropout, BatchNormalization, sequences, casts
    opset.py            the words of our opset
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from onnx import external_data_helper, numpy_helper

from edgefl.errors import EdgeflError, ModelError
from edgefl.trainer.files.manifest import DTYPES, MAX_MODEL_BYTES, MAX_NAME_LENGTH, MAX_RANK, Shape, Tensor
from edgefl.trainer.files.vetting import contents_of
from edgefl.trainer.gradients import RULES
from edgefl.trainer.gradients.differentiate import reachable
from edgefl.trainer.graph import IR_VERSION, OPSET
from edgefl.trainer.reading.decompose import decompose
from edgefl.trainer.reading.flat_graph import STANDARD, Facts, FlatGraph, dtype_name, name_apart, unsupported
from edgefl.trainer.reading.fold import fold
from edgefl.trainer.reading.functions import MAX_NODES, expand, require_finite, without_functions
from edgefl.trainer.reading.inference_form import DropoutSite, for_inference, to_inference_form, without_identities
from edgefl.trainer.reading.ml_operators import DOMAIN as ML_DOMAIN
from edgefl.trainer.reading.ml_operators import WITHOUT_GRADIENT, in_standard_operators
from edgefl.trainer.reading.opset import NEWEST, OLDEST, is_newer, means_the_same, to_our_opset, version_at
from edgefl.trainer.reading.strays import set_strays_apart
from edgefl.trainer.reading.untie import untie

MAX_INNER_NAME_LENGTH = 4096
"""Of a node, or a tensor between nodes. They are repeated in the names of what becomes of them."""

MAX_ROUNDS = 8
"""Of folding and rewriting. Functions within functions take one each; three is the most seen."""


@dataclass(frozen=True, slots=True)
class SourceModel:
    """`proto` is the user's model, flat and in inference form, the rest its normal form: shapes and dtypes of every
    tensor (None grows with the batch), those with one row per sample, and where the model drops out while it learns.
    The first output is the one to train. `initializers` are those of the file and constants; a float32 one with
    dimensions that a gradient can reach is always the file's own."""

    proto: onnx.ModelProto
    nodes: Sequence[onnx.NodeProto]
    initializers: dict[str, onnx.TensorProto]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    shapes: dict[str, Shape]
    per_sample: set[str]
    dtypes: dict[str, str] = field(default_factory=dict)
    dropouts: tuple[DropoutSite, ...] = ()

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
    if isinstance(model, onnx.ModelProto):
        content = bytes(model.SerializeToString())
    else:
        content = model if isinstance(model, bytes) else _read(Path(model))
    if len(content) > MAX_MODEL_BYTES:
        raise ModelError(
            f"{where} has {len(content)} bytes, over the limit of {MAX_MODEL_BYTES}", hint="use a smaller model"
        )
    folder = None if isinstance(model, (bytes, onnx.ModelProto)) else Path(model).parent
    require_readable(content, where, beside=folder is not None)
    proto: onnx.ModelProto = onnx.ModelProto.FromString(content)
    if folder is not None:
        _load_external_data(proto, folder)
    return proto


def require_readable(content: bytes, where: str, *, beside: bool) -> None:
    """Refuse what would take too much of whoever parses it, or name files that are not its own (`beside`: weights in
    other files are for the caller to judge). Raises ModelError."""
    try:
        found = contents_of(content, beside=beside)
    except ModelError as error:
        raise ModelError(f"{where} is not a valid ONNX model: {error.cause}", hint="export the model again") from None
    if found.nodes > MAX_NODES:
        raise ModelError(f"{where} has more than {MAX_NODES} nodes", hint="use a smaller model")


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
        if (place.length or 0) < 0 or (place.offset or 0) < 0:
            raise ModelError(f"initializer {tensor.name!r} has no place in its file", hint="export the model again")
        room -= place.length or path.stat().st_size
        if room < 0:
            raise ModelError(f"the model's weights are over the limit of {MAX_MODEL_BYTES} bytes")
        external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        tensor.ClearField("data_location")
        tensor.ClearField("external_data")


def _check(proto: onnx.ModelProto, where: str) -> None:
    if not proto.graph.node or not proto.opset_import:
        raise ModelError(f"{where} is not an ONNX model: it holds no graph", hint="name an ONNX file")
    _require_known(proto)
    require_finite(proto)  # the checker follows calls in recursion
    onnx.checker.check_model(_without_withdrawn(proto))
    if proto.graph.sparse_initializer:
        raise ModelError("the model has sparse initializers", hint="export it with dense weights")
    for tensor in proto.graph.initializer:
        try:
            if numpy_helper.to_array(tensor).shape != tuple(tensor.dims):
                raise ValueError(f"{list(tensor.dims)} is no shape")
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"initializer {tensor.name!r} is broken: {error}", hint="export the model again"
            ) from error
    names = [*(t.name for t in proto.graph.initializer), *(v.name for v in (*proto.graph.input, *proto.graph.output))]
    for name in names:
        if not name.isprintable() or not 0 < len(name) <= MAX_NAME_LENGTH:
            raise ModelError(f"a tensor name is empty, unprintable or over {MAX_NAME_LENGTH} characters: {name!r:.80}")
    nodes = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    inner = {name for node in nodes for name in (*node.input, *node.output, node.name, node.op_type)}
    if too_long := next((name for name in inner if len(name) > MAX_INNER_NAME_LENGTH), ""):
        raise ModelError(f"a name has over {MAX_INNER_NAME_LENGTH} characters: {too_long!r:.80}")


def _without_withdrawn(proto: onnx.ModelProto) -> onnx.ModelProto:
    """For ONNX's checker, which refuses operators that were withdrawn later, though their meaning is clear."""
    if _opset(proto) >= OPSET or not any(node.op_type == "GroupNormalization" for node in proto.graph.node):
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for node in copy.graph.node:
        if node.op_type == "GroupNormalization" and node.domain in STANDARD:
            node.domain = "withdrawn"
    copy.opset_import.add(domain="withdrawn", version=1)
    return copy


def _opset(proto: onnx.ModelProto) -> int:
    return next((int(o.version) for o in proto.opset_import if o.domain in STANDARD), 0)


def _require_known(proto: onnx.ModelProto) -> None:
    """Opset and standard operators are such as this onnx package knows."""
    opset = _opset(proto)
    newest = min(NEWEST, onnx.defs.onnx_opset_version())
    if not OLDEST <= opset <= newest:
        update = ", or update the onnx package" if opset <= NEWEST else ""
        raise ModelError(
            f"the model uses ai.onnx opset {opset}; edgefl reads {OLDEST} to {newest} with onnx {onnx.__version__}",
            hint=f"export it with opset {OPSET}{update}",
        )
    for node in proto.graph.node:
        if node.domain in STANDARD and not version_at(node, opset):
            hint = "export the model again, from layers that its converter knows in standard ONNX operators"
            raise unsupported(node, opset, ", which ONNX does not have", hint)


def _normal_form(proto: onnx.ModelProto) -> SourceModel:
    proto = without_functions(proto)
    _require_known(proto)
    in_standard_operators(proto)
    untie(proto)
    for_inference(proto)
    graph = _flat(proto)
    sites, facts = _settle(graph)
    outputs = tuple(_output(value, facts) for value in proto.graph.output if value.name in graph.outputs)
    first = next((place for place, tensor in enumerate(outputs) if tensor.dtype == "float32"), 0)
    outputs = (outputs[first], *outputs[:first], *outputs[first + 1 :])
    _lower_opset(proto)
    initializers = graph.initializers
    return SourceModel(
        proto,
        graph.nodes,
        initializers,
        graph.inputs,
        outputs,
        facts.shapes,
        facts.per_sample,
        facts.dtypes,
        tuple(sites),
    )


def _flat(proto: onnx.ModelProto) -> FlatGraph:
    """The nodes that outputs of a plain type need. Raises UnsupportedOperatorError if all of them need others."""
    file = {tensor.name: tensor for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in file]
    if not inputs:
        raise ModelError("the model has no input", hint="export it with its input tensor")
    tensors = tuple(_input(value) for value in inputs)
    opset = _opset(proto)
    spoilt: set[str] = set()
    first: EdgeflError | None = None
    for node in proto.graph.node:
        error = _foreign(node, opset)
        first = first or error
        if error or spoilt.intersection(node.input):
            spoilt.update(filter(None, node.output))
    wanted = [value for value in proto.graph.output if value.name not in spoilt]
    if not wanted:
        raise first or ModelError("the model has no output", hint="export it with the tensor to train as its output")
    plain = [value.name for value in wanted if _plain_dtype(value)] or [value.name for value in wanted[:1]]
    batches = {value.type.tensor_type.shape.dim[0].dim_value for value in inputs}
    batch = batches.pop() if len(batches) == 1 else None
    graph = FlatGraph(opset, [], file, tensors, tuple(plain), batch or None)
    graph.nodes = graph.needed(proto.graph.node)
    graph.taken.update(name for node in graph.nodes for name in (*node.input, *node.output))
    set_strays_apart(graph, proto.graph.value_info)
    return graph


def _foreign(node: onnx.NodeProto, opset: int) -> EdgeflError | None:
    """The error for a node that the device's loader does not accept."""
    if node.domain not in STANDARD:
        hint = f"only standard ai.onnx operators are supported: {', '.join(sorted(RULES))}"
        return unsupported(node, opset, "", WITHOUT_GRADIENT if node.domain == ML_DOMAIN else hint)
    if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
        hint = "export the model without If, Loop and Scan: recurrent layers as LSTM or GRU nodes, or unrolled"
        return unsupported(node, opset, ", control flow", hint)
    if any(a.ref_attr_name for a in node.attribute):
        return unsupported(node, opset, " with an attribute of a function that it is no part of", "export it again")
    return None


def _settle(graph: FlatGraph) -> tuple[list[DropoutSite], Facts]:
    """Fold and rewrite in turns until nothing changes."""
    dropouts: dict[str, tuple[str, float]] = {}
    facts = fold(graph)
    for _ in range(MAX_ROUNDS):
        before = list(graph.nodes)
        dropouts.update(to_inference_form(graph, facts))
        without_identities(graph, set(dropouts))
        graph.nodes, made = decompose(graph.nodes, facts.shapes, graph.fresh, facts.dtypes)
        graph.constants.update({tensor.name: tensor for tensor in made})
        if not _without_newer(graph, facts):
            graph.nodes = [n for node in graph.nodes for n in to_our_opset(node, graph.opset, graph, facts)]
            graph.opset = OPSET
            goal = next((name for name in graph.outputs if facts.dtypes.get(name) == "float32"), graph.outputs[0])
            path = {node.output[0] for node in reachable(graph.nodes, graph.weights(), goal)}
            expand(graph, facts, {node.output[0] for node in graph.nodes if node.op_type not in RULES} & path)
        if graph.nodes == before:
            break
        facts = fold(graph)
    name_apart(graph.nodes)
    sites = [
        DropoutSite(dropouts[node.output[0]][0], node.input[0], node.output[0], dropouts[node.output[0]][1])
        for node in graph.nodes
        if node.output[0] in dropouts
    ]
    return sites, facts


def _without_newer(graph: FlatGraph, facts: Facts) -> bool:
    """Expand the operators that our opset does not have; whether there were any."""
    newer = [node for node in graph.nodes if is_newer(node, graph.opset)]
    before = graph.nodes
    expand(graph, facts, {node.output[0] for node in newer})
    if newer and graph.nodes == before:
        to_our_opset(newer[0], graph.opset, graph, facts)  # which refuses it by name
    return bool(newer)


def _lower_opset(proto: onnx.ModelProto) -> None:
    """State our opset where a newer one says the same, so that every ONNX Runtime that trains the model loads it."""
    opset = _opset(proto)
    if opset > OPSET and all(means_the_same(node, opset) for node in proto.graph.node):
        proto.ir_version = min(proto.ir_version, IR_VERSION)
        for imported in proto.opset_import:
            imported.version = OPSET if imported.domain in STANDARD else imported.version


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


def _output(value: onnx.ValueInfoProto, facts: Facts) -> Tensor:
    if value.name not in facts.shapes:
        raise ModelError(
            f"the shape of output {value.name!r} cannot be inferred",
            hint="export the model with fixed sizes for everything but the batch",
        )
    return Tensor(value.name, _dtype(value), facts.shapes[value.name])


def _plain_dtype(value: onnx.ValueInfoProto) -> str:
    """A numpy name that edgefl carries, or ""."""
    dtype = dtype_name(value.type.tensor_type.elem_type)
    return dtype if dtype in DTYPES else ""


def _dtype(value: onnx.ValueInfoProto) -> str:
    if dtype := _plain_dtype(value):
        return dtype
    kind = dtype_name(value.type.tensor_type.elem_type) or "unknown"
    raise ModelError(
        f"{value.name!r} is of type {kind}; inputs and outputs may be {', '.join(DTYPES)}",
        hint="export the model in float32",
    )
