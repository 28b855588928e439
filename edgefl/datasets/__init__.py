"""What the demonstration trains on: real handwritten digits, the ways to split them, small models for them.

digits.npz     1,797 images of 8×8 pixels (origin and licence: ATTRIBUTION.md)
partition.py   a data set split between devices, as unevenly as wanted
models.py      a perceptron and a convolutional network as ONNX (needs the onnx package)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt


def digits() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """(x, y): x float32 [1797, 64] scaled to 0..1, rows of an 8×8 image; y int64 [1797], 0 to 9."""
    with np.load(Path(__file__).parent / "digits.npz", allow_pickle=False) as arrays:
        return arrays["x"].astype(np.float32) / np.float32(16), arrays["y"].astype(np.int64)
