"""int8 and int4: small integers with one scale per block, rounded stochastically.

A block's scale is its largest magnitude over the largest integer, so nothing is clipped and one outlier spoils its own
block alone. Rounding up with the probability of the fraction makes every value right on average (QSGD: Alistarh et al.
2017), so errors of many devices cancel in the sum instead of adding up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgefl.learning.encoding.codec import EncodingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgefl.learning.encoding.codec import Place

BLOCK = {8: 256, 4: 128}
"""Values per scale (a float32): 1.6 % and 6 % on top of the integers."""


class Blocks:
    """Integers of `width` bits, 8 or 4."""

    feedback = True

    def __init__(self, width: int) -> None:
        self.width = width
        self.block = BLOCK[width]
        self.largest = 2 ** (width - 1) - 1

    def _layout(self, size: int) -> tuple[int, int]:
        """(blocks, bytes of integers)."""
        return -(-size // self.block), -(-size * self.width // 8)

    def limit(self, size: int) -> int:
        blocks, integers = self._layout(size)
        return 4 * blocks + integers

    def pack(self, values: NDArray[np.float32], place: Place, own: np.random.Generator) -> bytes:
        blocks, _ = self._layout(values.size)
        padded = values
        if values.size != blocks * self.block:
            padded = np.zeros(blocks * self.block, np.float32)
            padded[: values.size] = values
        table = padded.reshape(blocks, self.block)
        scales = np.maximum(table.max(axis=1), -table.min(axis=1)) / np.float32(self.largest)
        inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales > np.finfo(np.float32).tiny)
        scaled = table * inverse[:, None]
        scaled += own.random(scaled.shape, np.float32)
        np.floor(scaled, out=scaled)
        np.clip(scaled, -self.largest, self.largest, out=scaled)  # float32 may round the sum of both up to the next
        integers = scaled.astype(np.int8).reshape(-1)[: values.size]
        return b"".join((scales.astype("<f4", copy=False).tobytes(), self._squeeze(integers).tobytes()))

    def unpack(self, data: memoryview, size: int, place: Place) -> NDArray[np.float32]:
        if len(data) != self.limit(size):
            raise EncodingError(f"{len(data)} bytes for {size} values of {self.width} bits: not {self.limit(size)}")
        blocks, _ = self._layout(size)
        scales = np.frombuffer(data[: 4 * blocks], "<f4")
        if not (np.isfinite(scales).all() and (scales >= 0).all()):
            raise EncodingError("scales that are negative or not finite")
        values = np.zeros(blocks * self.block, np.float32)
        values[:size] = self._spread(np.frombuffer(data[4 * blocks :], np.uint8), size)
        with np.errstate(over="ignore"):  # what is not finite is refused where it is added
            table = values.reshape(blocks, self.block)
            table *= scales[:, None]
        return values[:size]

    def _squeeze(self, integers: NDArray[np.int8]) -> NDArray[np.uint8]:
        raw: NDArray[np.uint8] = integers.view(np.uint8)
        if self.width == 8:
            return raw
        nibbles = np.zeros(2 * (-(-raw.size // 2)), np.uint8)
        nibbles[: raw.size] = raw & np.uint8(0x0F)
        packed: NDArray[np.uint8] = np.bitwise_or(nibbles[0::2], np.left_shift(nibbles[1::2], np.uint8(4)))
        return packed

    def _spread(self, raw: NDArray[np.uint8], size: int) -> NDArray[np.int8]:
        if self.width == 8:
            return raw.view(np.int8)
        nibbles = np.empty(2 * raw.size, np.uint8)
        nibbles[0::2], nibbles[1::2] = raw & np.uint8(0x0F), raw >> np.uint8(4)
        signed: NDArray[np.int8] = np.bitwise_xor(nibbles, np.uint8(8)).view(np.int8) - np.int8(8)
        return signed[:size]
