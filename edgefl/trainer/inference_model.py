"""The user's own model with trained weights put in, on a device that has no `onnx` package.

ONNX is protobuf, and a tensor's raw_data lies in the file as plain little-endian bytes. When artifacts are built, the
place of every trained tensor is looked up once (`raw_data_offsets`) and kept in the manifest; exporting is then a copy
of the file with those bytes overwritten (`with_weights`).

Wire format: protobuf.dev, encoding; field numbers: onnx.proto (ModelProto.graph 7, GraphProto.initializer 5,
TensorProto.name 8, raw_data 9).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgefl.trainer.manifest import Parameter

_GRAPH, _INITIALIZER, _NAME, _RAW_DATA = 7, 5, 8, 9
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def with_weights(
    content: bytes, parameters: Sequence[Parameter], values: Mapping[str, npt.NDArray[np.float32]]
) -> bytes:
    """`content` with every parameter's bytes replaced by `values[name]`."""
    patched = bytearray(content)
    for parameter in parameters:
        start = parameter.inference_offset
        patched[start : start + parameter.size_bytes] = values[parameter.name].astype("<f4", copy=False).tobytes()
    return bytes(patched)


def raw_data_offsets(content: bytes) -> dict[str, int]:
    """Where the raw_data of each initializer starts in a serialised model. `content` is our own well-formed output."""
    offsets: dict[str, int] = {}
    for graph in _spans(content, 0, len(content), _GRAPH):
        for tensor in _spans(content, *graph, _INITIALIZER):
            for name in _spans(content, *tensor, _NAME):
                for start, _ in _spans(content, *tensor, _RAW_DATA):
                    offsets[content[slice(*name)].decode()] = start
    return offsets


def _spans(content: bytes, start: int, stop: int, wanted: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of every length-delimited field number `wanted` within [start, stop)."""
    while start < stop:
        tag, start = _varint(content, start)
        kind = tag & 7
        if kind == _BYTES:
            length, start = _varint(content, start)
            if tag >> 3 == wanted:
                yield start, start + length
            start += length
        elif kind == _VARINT:
            _, start = _varint(content, start)
        elif kind in (_FIXED64, _FIXED32):
            start += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")


def _varint(content: bytes, start: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
        shift += 7
