"""Low rank: a chunk as a matrix of 256 columns, projected on a few directions that all devices draw alike.

P = M Q with an orthonormal Q [256, rank]; the receiver has P Q^T. Projections add up, so a tree may sum them, and
nothing is lost at inner devices. This is PowerSGD (Vogels et al. 2019) with its right factor drawn anew in every round
instead of being improved by a power iteration: that would need a second pass through the tree in every round (P up, its
orthonormal form down, the other factor up). What a subspace does not hold stays in the error feedback for later ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgefl.learning.encoding.plain import SCALE_BYTES, pack_half, unpack_half

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgefl.learning.encoding.codec import Place

COLUMNS = 256
"""The side of a full chunk as a square."""


class LowRank:
    """Projection on `rank` directions."""

    feedback = True

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def _shape(self, size: int) -> tuple[int, int, int]:
        """(rows, columns, rank) for a chunk: smaller ones have fewer columns. Values behind the last row travel as they
        are: a row that is cut off could not be summed."""
        columns = max(1, min(COLUMNS, int(size**0.5)))
        return size // columns, columns, min(self.rank, columns)

    def limit(self, size: int) -> int:
        rows, columns, rank = self._shape(size)
        return SCALE_BYTES + 2 * (rows * rank + size - rows * columns)

    def pack(self, values: NDArray[np.float32], place: Place, own: np.random.Generator) -> bytes:
        rows, columns, rank = self._shape(values.size)
        matrix, rest = values[: rows * columns].reshape(rows, columns), values[rows * columns :]
        projected = matrix @ _directions(columns, rank, place)
        return pack_half(np.concatenate((projected.reshape(-1), rest)))

    def unpack(self, data: memoryview, size: int, place: Place) -> NDArray[np.float32]:
        rows, columns, rank = self._shape(size)
        sent = unpack_half(data, rows * rank + size - rows * columns)
        values = np.empty(size, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused where it is added
            restored = sent[: rows * rank].reshape(rows, rank) @ _directions(columns, rank, place).T
        values[: rows * columns] = restored.reshape(-1)
        values[rows * columns :] = sent[rows * rank :]
        return values


def _directions(columns: int, rank: int, place: Place) -> NDArray[np.float32]:
    drawn = place.generator().standard_normal((columns, rank))
    return np.linalg.qr(drawn)[0].astype(np.float32)
