"""Artifacts built in the test's own process: a new one for each would take a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgefl.trainer import Manifest, read_manifest
from edgefl.trainer.building.artifacts import build_here


def build(model: Any, *, out: Path, **options: Any) -> Manifest:
    """As `trainer.build`."""
    build_here(model=model, out=out, **options)
    return read_manifest(Path(out))
