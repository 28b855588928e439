"""edgefl: federated learning with no server.

One daemon per device. The daemons find each other, form their own network and train ONNX models together on data
that never leaves the device. The rooms, from the wire upwards:

    wire/       every message, declared once
    identity/   who may take part: device keys, fleets, tokens, certificates
    transport/  the event loop and every socket                                            (I/O)
    overlay/    who talks to whom: rings, rendezvous, trees                                (pure)
    learning/   what a round does: applications, rounds, aggregation                       (pure)
    trainer/    how a device learns: ONNX graphs in, steps on stock ONNX Runtime out
    telemetry/  the device's load, the daemon's counters
    store/      everything on disk, crash-safe
    daemon.py   builds the parts and hands them to each other
    api/        what programs call: edgefl.App, an application; edgefl.Node, a program as a device of the fleet
    cli/        what people type
    sim/        overlay/ and learning/ under a virtual clock and a faulty network
    datasets/   the digits that the demonstration trains on
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgefl.api import App as App
    from edgefl.api import Node as Node

__version__ = "0.1.0"

# From 1.29 on, ONNX Runtime's wheels send usage data to their maker unless told not to before they are imported; both
# names of the switch have been in use. Nothing leaves a device that its owner has not asked for.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("ORT_TELEMETRY_DISABLED", "1")


def __getattr__(name: str) -> Any:
    """`edgefl.App` and `edgefl.Node`, which brings the whole daemon with it: not before a program asks for it."""
    if name in ("App", "Node"):
        return getattr(importlib.import_module("edgefl.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
