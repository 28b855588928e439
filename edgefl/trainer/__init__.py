"""How a device learns: training artifacts made from an ONNX model, run on stock ONNX Runtime.

Building (needs the onnx package, on any machine):

    artifacts.py        build(): an inference model in, a directory of artifacts out
    source_model.py     the user's file, read with suspicion and normalised
    shapes.py           every tensor's shape, the batch told apart
    graph.py            a graph under construction; values that read like mathematics
    differentiate.py    reverse mode, by the table of rules in gradients/
    gradients/          one rule per ONNX operator
    losses.py           cross-entropy, mse
    optimizers.py       sgd, momentum, adam, adamw

The directory:

    manifest.py         what is in it, with sizes and hashes
    checkpoint.py       named tensors in the safetensors layout
    inference_model.py  trained weights put back into the user's own file
    vetting.py          what a graph would make ONNX Runtime do, found out first
    protobuf.py         the wire format that ONNX files are in

Running (needs onnxruntime and numpy alone):

    session.py          Session: step, evaluate, vector, export
    data.py             data sources and whether they fit the model
    local.py            a device's share of a round: local epochs, local evaluation
    gradient_check.py   the artifacts' gradients against finite differences

This room knows nothing of the network.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgefl.trainer.artifacts import build
    from edgefl.trainer.correction import Correction
    from edgefl.trainer.data import Dataset, check_fit, open_source
    from edgefl.trainer.local import LocalResult, LocalSpec, evaluate_local, train_local
    from edgefl.trainer.lora import LowRank
    from edgefl.trainer.manifest import Manifest, read_manifest
    from edgefl.trainer.schedule import Schedule, parse_schedule
    from edgefl.trainer.session import Session

__all__ = [
    "Correction",
    "Dataset",
    "LocalResult",
    "LocalSpec",
    "LowRank",
    "Manifest",
    "Schedule",
    "Session",
    "build",
    "check_fit",
    "evaluate_local",
    "open_source",
    "parse_schedule",
    "read_manifest",
    "train_local",
]

_HOMES = {
    "artifacts": ("build",),
    "correction": ("Correction",),
    "data": ("Dataset", "check_fit", "open_source"),
    "local": ("LocalResult", "LocalSpec", "evaluate_local", "train_local"),
    "lora": ("LowRank",),
    "manifest": ("Manifest", "read_manifest"),
    "schedule": ("Schedule", "parse_schedule"),
    "session": ("Session",),
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first asked for: this package itself imports nothing heavy."""
    for module, names in _HOMES.items():
        if name in names:
            value = getattr(importlib.import_module(f"edgefl.trainer.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'edgefl.trainer' has no attribute {name!r}")
