"""A share of the values, and error feedback for the rest: the largest of a chunk, or some that all devices draw alike.

top-k (Aji and Heafield 2017; with memory: Stich et al. 2018) takes what matters most, and needs positions: two bytes
each within a chunk of 65,536, as the distance to the one before. Sums of different choices are denser, so an inner
device chooses again, from its sum. random-k needs no positions, since the choice follows from a shared seed (Konecny et
al. 2016), and sums stay as sparse as they are: nothing is lost at inner devices. Values are float16 relative to the
largest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgefl.learning.encoding.codec import EncodingError
from edgefl.learning.encoding.plain import SCALE_BYTES, pack_half, unpack_half

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgefl.learning.encoding.codec import Place

POSITION_BYTES = 2


def _count(share: float, size: int) -> int:
    return min(size, max(1, round(share * size)))


class TopK:
    """The largest share of a chunk, by magnitude."""

    feedback = True

    def __init__(self, share: float) -> None:
        self.share = share

    def limit(self, size: int) -> int:
        return SCALE_BYTES + (POSITION_BYTES + 2) * _count(self.share, size)

    def pack(self, values: NDArray[np.float32], place: Place, own: np.random.Generator) -> bytes:
        count = _count(self.share, values.size)
        chosen = np.argpartition(np.abs(values), values.size - count)[values.size - count :]
        chosen.sort()
        gaps = np.diff(chosen, prepend=0).astype("<u2")
        # All low bytes, then all high bytes, most of which are zero: something for zstd.
        planes = gaps.view(np.uint8).reshape(-1, POSITION_BYTES).T
        return b"".join((planes.tobytes(), pack_half(values[chosen])))

    def unpack(self, data: memoryview, size: int, place: Place) -> NDArray[np.float32]:
        count = _count(self.share, size)
        if len(data) != SCALE_BYTES + (POSITION_BYTES + 2) * count:
            raise EncodingError(f"{len(data)} bytes for the largest {count} of {size} values")
        planes = np.frombuffer(data[: POSITION_BYTES * count], np.uint8).reshape(POSITION_BYTES, count)
        gaps = np.ascontiguousarray(planes.T).view("<u2").reshape(-1).astype(np.int64)
        chosen = np.cumsum(gaps)
        if chosen[-1] >= size or (gaps[1:] == 0).any():
            raise EncodingError("positions that do not ascend within the chunk")
        values = np.zeros(size, np.float32)
        values[chosen] = unpack_half(data[POSITION_BYTES * count :], count)
        return values


class RandomK:
    """A share of a chunk that is drawn anew in every round, alike on all devices."""

    feedback = True

    def __init__(self, share: float) -> None:
        self.share = share

    def limit(self, size: int) -> int:
        return SCALE_BYTES + 2 * _count(self.share, size)

    def pack(self, values: NDArray[np.float32], place: Place, own: np.random.Generator) -> bytes:
        return pack_half(values[self._chosen(values.size, place)])

    def unpack(self, data: memoryview, size: int, place: Place) -> NDArray[np.float32]:
        chosen = self._chosen(size, place)
        values = np.zeros(size, np.float32)
        values[chosen] = unpack_half(data, len(chosen))
        return values

    def _chosen(self, size: int, place: Place) -> NDArray[np.int64]:
        count = _count(self.share, size)
        chosen: NDArray[np.int64] = place.generator().choice(size, count, replace=False, shuffle=False)
        return chosen
