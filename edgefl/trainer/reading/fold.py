"""What is constant is computed once, when the artifacts are built: Constant nodes, arithmetic on constants, and the
arithmetic on shapes that exporters leave (Shape-Gather-Concat-Reshape), as far as only fixed dimensions go into it.

Afterwards gradient rules find axes, starts, scales and shapes among the constants. Weights that may be trained are not
constant, nor is what is computed from them: a Transpose of a weight stays in the graph, and is differentiated.

Values are computed at both trial batch sizes; what comes out the same does not depend on the batch. A Reshape target in
which one element does, and only one, becomes a constant with -1 in that place.

Bounded: nothing is computed before its size is known, nothing above `MAX_CONSTANT_BYTES` is, and together no more than
`MAX_FOLDED_BYTES`. What is left stays in the graph: ONNX Runtime folds it when it loads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from edgefl.trainer.graph import attributes_of
from edgefl.trainer.reading.fixed_batch import FixedBatch
from edgefl.trainer.reading.flat_graph import Array, Facts, FlatGraph, data_inputs
from edgefl.trainer.reading.shapes import BATCHES, Trial, facts, reshaped

MAX_CONSTANT_BYTES = 1 << 20
"""An attention mask over 1024 positions. Larger ones help no gradient rule, and would only fill the artifacts."""

MAX_FOLDED_BYTES = 64 << 20
"""All values that are computed, used or not: a file cannot make the build larger than that."""

_MOVING = (
    *("Cast", "Concat", "ConstantOfShape", "Expand", "EyeLike", "Flatten", "Gather", "GatherElements", "Identity"),
    *("Pad", "Range", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze"),
)
_COMPUTING = (
    *("Abs", "Add", "Cos", "CumSum", "DequantizeLinear", "Div", "Exp", "Log", "Mean", "Mul", "Neg", "Pow"),
    *("Reciprocal", "ReduceMean", "ReduceProd", "ReduceSum", "Sin", "Sqrt", "Sub", "Sum"),
)
_DECIDING = (
    *("And", "Ceil", "Clip", "Equal", "Floor", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual"),
    *("Max", "Min", "Mod", "NonZero", "Not", "Or", "ReduceMax", "ReduceMin", "Round", "Sign", "Where", "Xor"),
)

FOLDABLE = frozenset((*_MOVING, *_COMPUTING, *_DECIDING))
"""Operators whose work grows with the size of what goes in and comes out, no faster."""

DECIDING = frozenset(_DECIDING)
"""Those that may come out the same at both trial batch sizes, being large, and differently at small ones."""


def fold(graph: FlatGraph) -> Facts:
    """Replace what is constant in the graph; what is known of its tensors then. Raises ModelError where shapes do not
    fit together."""
    weights = graph.weights()
    initializers = graph.initializers
    trials = [Trial(batch, graph.opset, graph.inputs, initializers) for batch in BATCHES]
    values = {
        name: numpy_helper.to_array(tensor)
        for name, tensor in initializers.items()
        if name not in weights
        and _size(tensor.dims, 8) <= MAX_CONSTANT_BYTES
        and tensor.data_type != onnx.TensorProto.STRING
    }
    for trial in trials:
        trial.values.update(values)
    places = FixedBatch(graph.batch) if graph.batch else None
    room = MAX_FOLDED_BYTES
    kept: list[onnx.NodeProto] = []
    found = {name: values[name] for name in graph.constants if name in values}
    for node in graph.nodes:
        if node.op_type == "Reshape":
            node = _with_open_batch(graph, node, trials, places)
        for trial in trials:
            trial.visit(node)
        if places:
            places.visit(node, trials)
        results = _results(node, trials, room)
        if node.op_type != "Constant":  # whose value is in the file already
            room -= sum(array.nbytes for arrays in results for array in arrays)
        constant = bool(results[0])
        for name, small, large in zip(node.output, *results, strict=False):
            same = small is large or (node.op_type not in DECIDING and _equal(small, large))
            trials[0].values[name], trials[1].values[name] = small, small if same else large
            constant = constant and same
        if constant:
            found.update(zip(node.output, results[0], strict=False))
        else:
            kept.append(node)
    found.pop("", None)
    _place(graph, kept, found)
    return facts(trials[0], trials[1], {**values, **found})


def _equal(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))


def _size(dims: Sequence[int], item_bytes: int) -> int:
    return math.prod(dims) * item_bytes


def _place(graph: FlatGraph, nodes: list[onnx.NodeProto], found: dict[str, Array]) -> None:
    """Put the constants that are still read into the graph.

    A float vector that a gradient could reach is no weight of the file: it stays a Constant node, so that nobody trains
    it by accident. Everything else becomes an initializer.
    """
    nodes = graph.needed(nodes)
    read = {name for node in nodes for name in node.input}.union(graph.outputs)
    reachable = {name for node in nodes for name in data_inputs(node)}
    reachable.update(name for node in nodes if node.op_type == "BatchNormalization" for name in node.input[3:])
    constants = []
    for name, array in found.items():
        if name not in read:
            continue
        tensor = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        trainable = array.dtype == np.float32 and array.ndim > 0 and name in reachable
        if trainable or name in graph.outputs:
            graph.constants.pop(name, None)
            constants.append(onnx.helper.make_node("Constant", [], [name], name, value=tensor))
        else:
            graph.constants[name] = tensor
    graph.nodes = constants + nodes
    graph.constants = {name: tensor for name, tensor in graph.constants.items() if name in read}


def _results(node: onnx.NodeProto, trials: Sequence[Trial], room: int) -> list[list[Array]]:
    """The node's outputs at both batch sizes, if they can be known; else nothing."""
    small = _evaluated(node, trials[0], room)
    if small is None:
        return [[], []]
    reads = [name for name in node.input if name]
    if node.op_type not in ("Shape", "Size") and all(trials[0].values[n] is trials[1].values[n] for n in reads):
        return [small, small]  # one list: its values depend on constants alone
    large = _evaluated(node, trials[1], room)
    return [[], []] if large is None else [small, large]


def _evaluated(node: onnx.NodeProto, trial: Trial, room: int) -> list[Array] | None:
    if node.op_type in ("Shape", "Size"):
        shape = trial.shape(node.input[0])
        if shape is None:
            return None
        attributes = attributes_of(node)
        part = shape[attributes.get("start", 0) : attributes.get("end", len(shape))]
        return [np.array(part if node.op_type == "Shape" else math.prod(shape), np.int64)]
    if node.op_type == "Constant":
        return _constant(node)
    if node.op_type not in FOLDABLE or not all(name in trial.values for name in node.input if name):
        return None
    if not all(0 < _bytes(node, name, trial) <= min(MAX_CONSTANT_BYTES, room) for name in node.output if name):
        return None
    try:
        with np.errstate(all="ignore"):
            feeds = {name: trial.values[name] for name in node.input if name}
            results = ReferenceEvaluator(node, opsets={"": trial.opset}).run(None, feeds)
    except Exception:  # attributes that the reference implementation does not know: the node is left as it is
        return None
    arrays = [np.asarray(result) for result in results]
    expected = [(trial.dtype(name), trial.shape(name)) for name in node.output if name]
    if node.op_type != "NonZero" and expected != [(array.dtype.name, array.shape) for array in arrays]:
        return None
    return arrays


def _bytes(node: onnx.NodeProto, output: str, trial: Trial) -> int:
    """The size of an output, at most; 0 where it is not known."""
    dtype, shape = trial.dtype(output), trial.shape(output)
    if node.op_type == "NonZero":
        values = trial.values[node.input[0]]
        return _size(values.shape, 8 * max(1, values.ndim))
    if not dtype or shape is None or np.dtype(dtype).kind not in "biuf":
        return 0
    return max(1, _size(shape, np.dtype(dtype).itemsize))


def _constant(node: onnx.NodeProto) -> list[Array] | None:
    attributes = attributes_of(node)
    if "value" in attributes:
        value = numpy_helper.to_array(attributes["value"])
        return [value] if value.dtype.kind in "biuf" else None
    for name, dtype in (("value_float", np.float32), ("value_int", np.int64)):
        for form in (name, f"{name}s"):
            if form in attributes:
                return [np.array(attributes[form], dtype)]
    return None


def _with_open_batch(
    graph: FlatGraph, node: onnx.NodeProto, trials: Sequence[Trial], places: FixedBatch | None
) -> onnx.NodeProto:
    """A Reshape whose target is a constant that fits every batch size, where that follows from what is known."""
    small, large = trials
    found = small.values.get(node.input[1])
    other = large.values.get(node.input[1])
    before, after = small.shape(node.input[0]), large.shape(node.input[0])
    if found is None or other is None or before is None or after is None or found.ndim != 1:
        return node
    stated = [int(n) for n in found]
    target = stated
    if found is not other:
        sizes, larger = reshaped(node, before, stated), reshaped(node, after, [int(n) for n in other])
        moving = [place for place, (a, b) in enumerate(zip(sizes or [], larger or [], strict=False)) if a != b]
        if sizes and larger and len(sizes) == len(larger) and len(moving) == 1:
            target = [-1 if place == moving[0] else n for place, n in enumerate(sizes)]
    elif places:
        target = places.target(node, trials, stated)
    if target == stated:
        return node
    changed = onnx.NodeProto()
    changed.CopyFrom(node)
    changed.input[1] = graph.integers(target)
    for trial in trials:
        trial.values[changed.input[1]] = np.array(target, np.int64)
        trial.types[changed.input[1]] = onnx.helper.make_tensor_type_proto(onnx.TensorProto.INT64, [len(target)])
    return changed
