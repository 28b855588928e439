"""How a device learns: training artifacts made from an ONNX model, run on stock ONNX Runtime.

    building/     an inference model in, a directory of artifacts out (needs the onnx package, on any machine)
    reading/      the user's ONNX file, read with suspicion and brought into the one form that has derivatives
    gradients/    one rule per ONNX operator, and reverse mode
    graph.py      a graph under construction; values that read like mathematics
    running/      a Session takes steps with artifacts (needs onnxruntime and numpy alone)
    files/        what is in the directory, read with suspicion as well
    child.py      work that can crash, in a process of its own

Rooms know those below them in this order: building, reading, gradients, graph, files; running knows files alone. None
knows the network.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgefl.trainer.building.apart import build
    from edgefl.trainer.building.low_rank import LowRank
    from edgefl.trainer.files.manifest import Manifest, read_manifest
    from edgefl.trainer.running.correction import Correction
    from edgefl.trainer.running.data import Dataset, check_fit, open_source
    from edgefl.trainer.running.local import LocalResult, LocalSpec, evaluate_local, train_local
    from edgefl.trainer.running.schedule import Schedule, parse_schedule
    from edgefl.trainer.running.session import Session

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
    "building.apart": ("build",),
    "building.low_rank": ("LowRank",),
    "files.manifest": ("Manifest", "read_manifest"),
    "running.correction": ("Correction",),
    "running.data": ("Dataset", "check_fit", "open_source"),
    "running.local": ("LocalResult", "LocalSpec", "evaluate_local", "train_local"),
    "running.schedule": ("Schedule", "parse_schedule"),
    "running.session": ("Session",),
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first asked for: this package itself imports nothing heavy."""
    for module, names in _HOMES.items():
        if name in names:
            value = getattr(importlib.import_module(f"edgefl.trainer.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'edgefl.trainer' has no attribute {name!r}")
