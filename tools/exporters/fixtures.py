"""What an exported model is compared with, and how both are stored (see tools/export_models.py)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

OUT = Path(__file__).parent.parent.parent / "tests" / "trainer" / "exported"
BATCHES = (1, 7, 32)
CLASSES = 10
STEPS, RATE = 20, 0.02
"""Of gradient descent."""

KEPT_NOTES = ("pkg.torch.onnx.name_scopes", "pkg.torch.export.graph_signature.InputSpec.kind")
"""Of what exporters note: origins. Stack traces name files of the machine."""

Weights = dict[str, np.ndarray]


def draw(spec: Mapping[str, Any], batch: int) -> tuple[np.ndarray, np.ndarray]:
    """A batch of inputs and targets."""
    rng = np.random.RandomState(spec["seed"] + batch)
    shape = (batch, *spec["input"])
    x = rng.randint(0, spec["tokens"], shape) if spec["tokens"] else rng.standard_normal(shape).astype(np.float32)
    if spec["loss"] == "cross-entropy":
        return x, rng.randint(0, spec["classes"], batch)
    return x, rng.standard_normal((batch, *spec["output"])).astype(np.float32)


def specification(shape: tuple[int, ...], **options: Any) -> dict[str, Any]:
    usual = {"input": list(shape), "tokens": 0, "loss": "cross-entropy", "classes": CLASSES, "output": [], "seed": 1}
    return {**usual, **options}


def store(
    name: str,
    exporter: str,
    proto: onnx.ModelProto,
    spec: Mapping[str, Any],
    known: Mapping[str, Weights],
    *,
    hidden: Mapping[str, Any] | None = None,
) -> None:
    """One exported model, and which of `known` (kind -> weights by name) its initializers are; `hidden` says
    so where they are attributes."""
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        kept = [(entry.key, entry.value) for entry in part.metadata_props if entry.key in KEPT_NOTES]
        del part.metadata_props[:]
        for key, value in kept:
            part.metadata_props.add(key=key, value=value)
    noted = [value for value in graph.value_info if value.metadata_props]
    del graph.value_info[:]
    graph.value_info.extend(noted)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    floats = {key: array for key, array in arrays.items() if array.dtype == np.float32 and array.ndim}
    kinds = {}
    for kind, weights in known.items():
        found = {key: place for key, array in floats.items() if (place := matching(array, weights))}
        if len({place[0] for place in found.values()}) == len(weights):
            kinds[kind] = found
    if hidden:
        kinds = {kind: dict(hidden) for kind in known}
    assert kinds, f"{name}.{exporter}: not all weights were found among {sorted(floats)}"
    path = OUT / f"{name}.{exporter}.onnx"
    onnx.save(proto, path)
    index_path = OUT / "index.json"
    index = json.loads(index_path.read_text()) if index_path.exists() else {}
    index[f"{name}.{exporter}"] = {"model": name, "spec": dict(spec), "weights": kinds}
    lines = [f"{json.dumps(key)}: {json.dumps(index[key])}" for key in sorted(index)]
    index_path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    operators = sorted({node.op_type for node in proto.graph.node})
    print(f"{path.name:<34}{path.stat().st_size:>8}  {', '.join(kinds)}: {' '.join(operators)}", flush=True)


def matching(array: np.ndarray, weights: Weights) -> tuple[str, list[int]] | None:
    """The weight whose axes, in some order and then reshaped, are this array."""
    for name, weight in weights.items():
        if weight.size != array.size:
            continue
        for order in itertools.permutations(range(weight.ndim)):
            if np.allclose(weight.transpose(order).reshape(array.shape), array, rtol=1e-5, atol=1e-6):
                return name, list(order)
    return None


def write_reference(name: str, results: Mapping[str, np.ndarray]) -> None:
    OUT.mkdir(exist_ok=True)
    path = OUT / f"{name}.npz"
    np.savez_compressed(path, **{key: np.asarray(value, np.float32) for key, value in results.items()})
    print(f"{path.name:<34}{path.stat().st_size:>8}", flush=True)
