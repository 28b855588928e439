"""What a family of encodings fulfils, and the parts that are the same for all: feedback, measured error, memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgefl.declared import dataclass
from edgefl.errors import WireError
from edgefl.wire.learning import CHUNK_PARAMETERS

if TYPE_CHECKING:
    from random import Random

    from numpy.typing import NDArray

    from edgefl.learning.effects import Tag


class EncodingError(WireError):
    """Bytes that the encoding of this application cannot have made."""

    name = "encoding"


@dataclass(frozen=True, slots=True)
class Place:
    """Which chunk this is: `shared` seeds what all devices of the round must draw alike."""

    shared: tuple[int, ...]

    def generator(self) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(self.shared))


class Codec(Protocol):
    """One family. `pack` and `unpack` handle one chunk: float32 [size], size at most CHUNK_PARAMETERS."""

    feedback: bool
    """Whether what is left out is worth keeping for the next round."""

    def limit(self, size: int) -> int:
        """The most bytes that `pack` makes of `size` values."""
        ...

    def pack(self, values: NDArray[np.float32], place: Place, own: np.random.Generator) -> bytes:
        """`own` is this device's generator. The values are finite."""
        ...

    def unpack(self, data: memoryview, size: int, place: Place) -> NDArray[np.float32]:
        """Raises EncodingError for bytes that `pack` cannot have made. Takes memory in proportion to `size`, whatever
        the bytes say. The result may be a view of `data`."""
        ...


@dataclass(frozen=True, slots=True)
class Encoded:
    """One chunk, ready to send. `error` and `norm`: squared norms of what was left out, and of what was to be said."""

    data: memoryview
    error: float = 0.0
    norm: float = 0.0


class Encoding:
    """A codec in use by one application. `seed` is shared by all its devices."""

    def __init__(self, codec: Codec, seed: int) -> None:
        self.codec = codec
        from edgefl.learning.encoding.plain import Float32

        self.feedback = codec.feedback
        self.chunk_bytes = max(1, codec.limit(CHUNK_PARAMETERS))
        self._seed = seed
        self._exact = isinstance(codec, Float32)

    def encode(
        self,
        values: NDArray[np.float32],
        tag: Tag,
        index: int,
        memory: NDArray[np.float32] | None,
        random: Random,
    ) -> Encoded:
        """Write a chunk in its own memory, as bytes. `values` is written over; `memory`, what earlier rounds left out,
        is added first and then holds what this one leaves out."""
        view = values.view(np.uint8).data
        if self._exact:
            return Encoded(view.toreadonly())
        if memory is not None:
            np.add(values, memory, out=values)
        place, own = self._place(tag, index), np.random.Generator(np.random.SFC64(random.getrandbits(64)))
        packed = self.codec.pack(values, place, own)
        missing = values - self.codec.unpack(memoryview(packed), values.size, place)
        error, norm = float(np.dot(missing, missing)), float(np.dot(values, values))
        if memory is not None:
            memory[...] = missing
        if len(packed) > len(view):  # a few values: the overhead is more than what is saved
            return Encoded(memoryview(packed), error, norm)
        view[: len(packed)] = packed
        return Encoded(view[: len(packed)].toreadonly(), error, norm)

    def decode(self, data: Any, size: int, tag: Tag, index: int) -> NDArray[np.float32]:
        """The values of a chunk: float32 [size], a view of `data` where that is possible. Raises EncodingError."""
        view = memoryview(data).cast("B")
        if len(view) > self.codec.limit(size):
            raise EncodingError(f"{len(view)} bytes for {size} values, more than {self.codec.limit(size)}")
        return self.codec.unpack(view, size, self._place(tag, index))

    def _place(self, tag: Tag, index: int) -> Place:
        return Place((self._seed, *tag, index))
