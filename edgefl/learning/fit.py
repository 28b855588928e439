"""Does a model fit into this device? Asked where an application is made, and on every device before it is fetched.

Counted in copies of what travels, as float32. What a batch takes besides is not known before the graph is opened.
"""

from __future__ import annotations

from edgefl.learning.manifest import ManifestError, travelling
from edgefl.wire.application import Manifest
from edgefl.wire.blob import FLOAT_BYTES

TRAINING_COPIES = 8
"""Weights, gradient, two moments of the optimiser, the round's beginning, the delta, the model as it came, the next."""

PASSING_COPIES = 3
"""What an observer or a helper holds: the model, the next, and a sum."""


def memory_need(manifest: Manifest, *, trains: bool) -> int:
    """Bytes that a device needs at the least to take part."""
    return travelling(manifest) * FLOAT_BYTES * (TRAINING_COPIES if trains else PASSING_COPIES)


def check_fits(manifest: Manifest, memory_bytes: int | None, *, trains: bool) -> None:
    """Raises ManifestError when the model is larger than the device's budget (None: not known)."""
    need = memory_need(manifest, trains=trains)
    if memory_bytes is not None and need > memory_bytes:
        raise ManifestError(
            f"a model of {manifest.parameters:,} parameters needs {need / 1e6:,.0f} MB of memory, "
            f"and this device may take {memory_bytes / 1e6:,.0f} MB",
            hint="use a smaller model, or raise memory under [limits] if the device has more",
        )
