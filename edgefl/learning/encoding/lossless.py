"""zstd on top of another encoding (the extra `zstd`): worth it for positions, hardly for values.

A frame says how much it unpacks to; that is checked before a byte is unpacked, so a small frame cannot ask for much
memory. A chunk that zstd does not make smaller is sent as it is: the first byte says which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgefl.learning.encoding.codec import Codec, EncodingError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgefl.learning.encoding.codec import Place

AS_IT_IS, COMPRESSED = b"\0", b"\1"
LEVEL = 3


class Zstd:
    """Another codec's bytes, compressed."""

    def __init__(self, inner: Codec) -> None:
        self.inner = inner
        self.feedback = inner.feedback

    def limit(self, size: int) -> int:
        return 1 + self.inner.limit(size)

    def pack(self, values: NDArray[np.float32], place: Place, own: np.random.Generator) -> bytes:
        data = self.inner.pack(values, place, own)
        squeezed: bytes = _zstandard().ZstdCompressor(level=LEVEL).compress(data)
        return COMPRESSED + squeezed if len(squeezed) < len(data) else AS_IT_IS + data

    def unpack(self, data: memoryview, size: int, place: Place) -> NDArray[np.float32]:
        kind, rest = bytes(data[:1]), data[1:]
        if kind == AS_IT_IS:
            return self.inner.unpack(rest, size, place)
        if kind != COMPRESSED:
            raise EncodingError("neither compressed nor as it is")
        zstandard, limit = _zstandard(), self.inner.limit(size)
        try:
            claimed = zstandard.get_frame_parameters(rest).content_size
            if claimed > limit:  # an unknown size is a very large number
                raise EncodingError(f"a frame of {claimed} bytes for {size} values, more than {limit}")
            plain = zstandard.ZstdDecompressor().decompress(rest, max_output_size=limit)
        except zstandard.ZstdError as error:
            raise EncodingError(f"not a zstd frame: {error}") from None
        return self.inner.unpack(memoryview(plain), size, place)


def _zstandard() -> Any:
    import zstandard

    return zstandard
