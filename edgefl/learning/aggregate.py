"""The running weighted sum of one open round: exact for any tree shape, any order of arrival and any loss.

Every device sends (sum of n_i * delta_i, sum of n_i, who contributed) for its whole subtree, chunk by chunk; a parent
only adds, in place. The division happens once, at the root, so a chain, a star and anything between give the same
average up to the rounding of float32. FedAvg: McMahan et al., 2017.

**Every chunk has its own weight and its own contributors.** A device that dies between two chunks then leaves nothing
to undo: the mean of each chunk is exact over those who are in it. That is what allows one accumulator for all children
and adding at once; whole updates would need a buffer for each child, or a subtraction that float32 cannot do exactly.

Memory: one vector, however many children there are, and at most 512 bytes of names for each chunk (0.2 %). When a
child's chunk comes before this device's own delta, the delta is held beside it until the last chunk is sealed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgefl.errors import WireError
from edgefl.learning.metrics import merge
from edgefl.wire.learning import CHUNK_PARAMETERS, MAX_CONTRIBUTORS, Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray


class DuplicateError(WireError):
    """A chunk that would count a device twice."""


def squared_length(vector: NDArray[np.float32]) -> float:
    """Of a vector; not finite when one of its values is not, or is far too large. One pass, no temporary."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.dot(vector, vector))


def is_finite(vector: NDArray[np.float32]) -> bool:
    """Whether all values are finite and none is far too large."""
    return bool(np.isfinite(squared_length(vector)))


class Accumulator:
    """The sum of one round at one device, over a flat vector of `parameters` float32 in chunks of CHUNK_PARAMETERS.

    `max_samples` is the most that one device may claim to have. A chunk is open for additions until it is sealed;
    from then on its memory does not change any more.
    """

    __slots__ = (
        "_bits",
        "_masks",
        "_own",
        "_own_bit",
        "_own_done",
        "_participants",
        "_raw",
        "_samples",
        "chunks",
        "max_samples",
        "metrics",
        "names",
        "parameters",
        "sealed",
        "total",
    )

    AT_ONCE: ClassVar[int] = 4
    """Chunks sealed in one go: 1 MiB, about 10 ms of encoding on a small device. Other work has its turn in between."""

    def __init__(self, parameters: int, max_samples: int) -> None:
        self.parameters = parameters
        self.max_samples = max_samples
        self.chunks = -(-parameters // CHUNK_PARAMETERS)
        self.total: NDArray[np.float32] | None = None
        self.metrics: tuple[Metric, ...] = ()
        self.names: list[int] = []
        self.sealed = 0
        self._bits: dict[int, int] = {}
        self._samples = [0] * self.chunks
        self._participants = [0] * self.chunks
        self._masks = [0] * self.chunks
        self._own: tuple[NDArray[np.float32], int] | None = None
        self._own_bit = 0
        self._own_done = bytearray(self.chunks)
        self._raw = False  # whether `total` is the own delta, its open chunks not multiplied yet

    # Who takes part

    @property
    def empty(self) -> bool:
        """Whether nothing was added yet."""
        return self._own is None and not any(self._participants)

    @property
    def participants(self) -> int:
        """Devices that are in every chunk, as far as counts tell: the fewest of any chunk."""
        return min(self._participants, default=0)

    @property
    def samples(self) -> int:
        """The smallest weight of any chunk."""
        return min(self._samples, default=0)

    def contributors(self, index: int) -> set[int]:
        """The names in a chunk."""
        mask = self._masks[index]
        return {name for bit, name in enumerate(self.names) if mask >> bit & 1}

    def expect(self, node_id: int) -> None:
        """This device will add its own delta: nobody else may have it in a sum."""
        self._own_bit = self.bits([node_id])[0]

    def bits(self, names: Iterable[int]) -> list[int]:
        """One bit for each name, made up if need be; 0 for names beyond the first MAX_CONTRIBUTORS."""
        bits = []
        for name in names:
            if name not in self._bits and len(self.names) < MAX_CONTRIBUTORS:
                self._bits[name] = 1 << len(self.names)
                self.names.append(name)
            bits.append(self._bits.get(name, 0))
        return bits

    def weight(self, index: int) -> tuple[int, int, int]:
        """(samples, participants, mask) of a chunk."""
        return self._samples[index], self._participants[index], self._masks[index]

    def chunk_size(self, index: int) -> int:
        """Parameters in a chunk: CHUNK_PARAMETERS, fewer in the last."""
        return min(CHUNK_PARAMETERS, self.parameters - index * CHUNK_PARAMETERS)

    # Adding

    def add_own(self, delta: NDArray[np.float32] | None, samples: int, metrics: Iterable[Metric]) -> None:
        """Add this device's own delta (float32 [parameters], finite), weighted by its samples. The array belongs to
        the sum from now on: where nothing has come before, it becomes the sum, multiplied in place chunk by chunk.

        Raises WireError for a delta of the wrong shape.
        """
        if delta is None or samples <= 0:
            self.metrics = merge(self.metrics, metrics)
            return
        if delta.shape != (self.parameters,):
            raise WireError(f"a vector of shape {delta.shape} where {self.parameters} parameters belong")
        self.metrics = merge(self.metrics, metrics)
        if not (delta.dtype == np.float32 and delta.flags.writeable and delta.flags.c_contiguous):
            delta = np.array(delta, dtype=np.float32)
        self._own = (delta, min(samples, self.max_samples))
        self._take_own(delta)

    def _take_own(self, delta: NDArray[np.float32]) -> None:
        if self.total is None:
            self.total, self._raw = delta, True

    def add_chunk(
        self, index: int, values: NDArray[np.float32], samples: int, participants: int, mask: int, group: int = 0
    ) -> None:
        """Add a child's sum of an open chunk. `mask`: the bits of those in it, 0 if it names nobody. `group`: the child
        (see groups.py; here it makes no difference).

        Raises WireError when the claim cannot be true, DuplicateError when a device would be counted twice; nothing is
        added then.
        """
        if not 0 < samples <= participants * self.max_samples:
            raise WireError(f"{samples} samples from {participants} devices: more than {self.max_samples} each")
        if mask & (self._named(index, group) | self._own_bit):
            raise DuplicateError("devices of this chunk are in the sum already")
        if values.shape != (self.chunk_size(index),):
            raise WireError(f"a chunk of shape {values.shape} where {self.chunk_size(index)} parameters belong")
        if not is_finite(values):
            raise WireError("a chunk with values that are not finite (or far too large)")
        self._put(index, values, samples, group)
        self._samples[index] += samples
        self._participants[index] += participants
        self._masks[index] |= mask

    def _named(self, index: int, group: int) -> int:
        """Those whose part of a chunk is in already."""
        return self._masks[index]

    def _put(self, index: int, values: NDArray[np.float32], samples: int, group: int) -> None:
        if self._raw:
            self._add_own_chunk(index)
        view = self._view(index)
        if self._participants[index]:
            np.add(view, values, out=view)
        else:
            view[...] = values

    def seal(self) -> NDArray[np.float32] | None:
        """Close the next chunk: add this device's own part if it is not in yet. The chunk's sum, which the caller may
        write over; None when nobody is in it."""
        index = self.sealed
        if self._own is not None:
            self._add_own_chunk(index)
        self._close_chunk()
        return self._view(index) if self._participants[index] else None

    def seal_mean(self) -> NDArray[np.float32] | None:
        """The same at the root, where the sum becomes the mean."""
        index = self.sealed
        values = self.seal()
        if values is not None:
            np.divide(values, np.float32(self._samples[index]), out=values)
        return values

    def _close_chunk(self) -> None:
        self.sealed += 1
        if self.sealed == self.chunks:
            self._own = None

    def _own_part(self, index: int) -> tuple[NDArray[np.float32], int] | None:
        """This device's own delta and samples in a chunk, counted from now on; None when it is in already."""
        if self._own is None or self._own_done[index]:
            return None
        self._own_done[index] = 1
        delta, samples = self._own
        self._samples[index] += samples
        self._participants[index] += 1
        self._masks[index] |= self._own_bit
        return delta[index * CHUNK_PARAMETERS : (index + 1) * CHUNK_PARAMETERS], samples

    def _add_own_chunk(self, index: int) -> None:
        others = self._participants[index]
        part = self._own_part(index)
        if part is None:
            return
        own, samples = part
        np.multiply(own, np.float32(samples), out=own)
        if self._raw:
            return
        view = self._view(index)
        if others:
            np.add(view, own, out=view)
        else:
            view[...] = own

    def _view(self, index: int) -> NDArray[np.float32]:
        if self.total is None:
            self.total = np.zeros(self.parameters, np.float32)  # pages are taken as they are written
        return self.total[index * CHUNK_PARAMETERS : (index + 1) * CHUNK_PARAMETERS]
