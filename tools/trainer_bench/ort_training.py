"""Artifacts by ONNX Runtime's own training package, the last release there was (1.19.2, x86-64): ort_training.py
DIRECTORY OPTIMISER, which holds model.onnx and batch.npz. Exits with 1 and the reason where it cannot build them."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
from onnxruntime.training import artifacts


def main() -> None:
    directory, optimizer = Path(sys.argv[1]), sys.argv[2]
    model = onnx.load(directory / "model.onnx")
    for node in model.graph.node:
        if node.op_type == "LayerNormalization" and len(node.output) == 1:
            node.output.extend([f"{node.output[0]}_mean", f"{node.output[0]}_inv_std"])  # its gradient reads them
    statistics = {name for node in model.graph.node if node.op_type == "BatchNormalization" for name in node.input[3:5]}
    trained = [
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.dims and tensor.name not in statistics
    ]
    optimizers = {"sgd": artifacts.OptimType.SGD, "adamw": artifacts.OptimType.AdamW}
    if optimizer not in optimizers:
        raise SystemExit(f"it has no optimiser {optimizer}")
    artifacts.generate_artifacts(
        model,
        requires_grad=trained,
        loss=artifacts.LossType.CrossEntropyLoss,
        optimizer=optimizers[optimizer],
        artifact_directory=str(directory),
    )


if __name__ == "__main__":
    main()
