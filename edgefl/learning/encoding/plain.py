"""Floating point: float32 as it is, float16 and bfloat16 rounded to nearest.

float16 ends at 65,504, which a sum over a few thousand samples exceeds, and is coarse below 6e-5: each chunk carries
its largest magnitude as a float32, and the values relative to it. bfloat16 has the range of float32, and 8 bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgefl.learning.encoding.codec import EncodingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgefl.learning.encoding.codec import Place

SCALE_BYTES = 4


def pack_half(values: NDArray[np.float32]) -> bytes:
    """Values as float16 relative to their largest magnitude, which comes first as a float32."""
    scale = np.abs(values).max() if values.size else np.float32(0)
    if scale == 0:
        return bytes(SCALE_BYTES + 2 * values.size)
    halves = np.divide(values, scale).astype("<f2")
    return b"".join((np.array(scale, "<f4").tobytes(), halves.tobytes()))


def unpack_half(data: memoryview, size: int) -> NDArray[np.float32]:
    """The inverse. Raises EncodingError."""
    if len(data) != SCALE_BYTES + 2 * size:
        raise EncodingError(f"{len(data)} bytes for {size} float16 values")
    scale = np.frombuffer(data[:SCALE_BYTES], "<f4")[0]
    if not 0 <= scale < np.inf:
        raise EncodingError(f"a scale of {scale}")
    values = np.frombuffer(data[SCALE_BYTES:], "<f2").astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused where it is added
        values *= scale
    return values


class Float32:
    """Nothing is left out."""

    feedback = False

    def limit(self, size: int) -> int:
        return 4 * size

    def pack(self, values: NDArray[np.float32], place: Place, own: np.random.Generator) -> bytes:
        return values.astype("<f4", copy=False).tobytes()

    def unpack(self, data: memoryview, size: int, place: Place) -> NDArray[np.float32]:
        if len(data) != 4 * size:
            raise EncodingError(f"{len(data)} bytes for {size} float32 values")
        return np.frombuffer(data, "<f4")


class Float16:
    """Half precision, relative to the chunk's largest magnitude."""

    feedback = False

    def limit(self, size: int) -> int:
        return SCALE_BYTES + 2 * size

    def pack(self, values: NDArray[np.float32], place: Place, own: np.random.Generator) -> bytes:
        return pack_half(values)

    def unpack(self, data: memoryview, size: int, place: Place) -> NDArray[np.float32]:
        return unpack_half(data, size)


class BFloat16:
    """The upper half of a float32, rounded to nearest, ties to even."""

    feedback = False

    def limit(self, size: int) -> int:
        return 2 * size

    def pack(self, values: NDArray[np.float32], place: Place, own: np.random.Generator) -> bytes:
        bits = values.view(np.uint32)
        return ((bits + (0x7FFF + (bits >> 16 & 1)).astype(np.uint32)) >> 16).astype("<u2").tobytes()

    def unpack(self, data: memoryview, size: int, place: Place) -> NDArray[np.float32]:
        if len(data) != 2 * size:
            raise EncodingError(f"{len(data)} bytes for {size} bfloat16 values")
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
