"""Every tensor's shape, with the dimensions that grow with the batch told apart from the fixed ones.

ONNX shape inference is run twice, with two batch sizes as plain numbers; a dimension that differs depends on the batch.
Plain numbers pass through every Shape-Gather-Concat-Reshape chain that an exporter leaves, where symbols get lost.
"""

from __future__ import annotations

import onnx

from edgefl.errors import ModelError
from edgefl.trainer.manifest import Shape

BATCHES = (5040, 10080)
"""Two batch sizes with many divisors, unlikely as fixed dimensions; one alone could be mistaken, both could not."""


def infer_shapes(model: onnx.ModelProto, inputs: list[str]) -> tuple[dict[str, Shape], set[str]]:
    """Shape of every tensor by name, None where it grows with the batch; tensors of unknown shape are left out.
    With it, the names of the tensors that have exactly one row per sample.

    `inputs` are the model inputs proper; the first dimension of each becomes the batch. Raises ModelError where the
    graph contradicts itself, for example because it was exported for one fixed batch size.
    """
    small, large = (_infer(model, inputs, batch) for batch in BATCHES)
    shapes = {
        name: tuple(a if a == b else None for a, b in zip(shape, large[name], strict=True))
        for name, shape in small.items()
        if name in large and len(large[name]) == len(shape)
    }
    return shapes, {name for name in shapes if (small[name][:1], large[name][:1]) == tuple((b,) for b in BATCHES)}


def _infer(model: onnx.ModelProto, inputs: list[str], batch: int) -> dict[str, tuple[int, ...]]:
    trial = onnx.ModelProto()
    trial.CopyFrom(model)
    del trial.graph.value_info[:]
    for value in trial.graph.input:
        if value.name in inputs:
            value.type.tensor_type.shape.dim[0].dim_value = batch
    for value in trial.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        trial = onnx.shape_inference.infer_shapes(trial, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:  # the C++ side raises its own types, RuntimeError and ValueError
        raise ModelError(
            f"the model's shapes do not fit together at batch size {batch}: {str(error).strip()[:300]}",
            hint="export the model with a dynamic first (batch) dimension for every input",
        ) from error
    known: dict[str, tuple[int, ...]] = {tensor.name: tuple(tensor.dims) for tensor in trial.graph.initializer}
    for value in (*trial.graph.input, *trial.graph.value_info, *trial.graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            known[value.name] = tuple(dim.dim_value for dim in kind.shape.dim)
    return known
