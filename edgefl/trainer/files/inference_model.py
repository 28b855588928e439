"""The user's own model with trained weights put in, on a device that has no `onnx` package.

ONNX is protobuf, and a tensor's raw_data lies in the file as plain little-endian bytes. When artifacts are built, the
place of every tensor of the vector is looked up once (`raw_data_offsets`) and kept in the manifest; exporting is then a
copy of the file with those bytes overwritten (`with_weights`). A weight with an adapter is read from there, and written
back with the adapter added.

Field numbers: onnx.proto (ModelProto.graph 7, GraphProto.initializer 5, TensorProto.name 8, raw_data 9).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgefl.errors import ModelError
from edgefl.trainer.files.manifest import Manifest
from edgefl.trainer.files.protobuf import fields
from edgefl.trainer.files.vetting import contents_of

_GRAPH, _INITIALIZER, _NAME, _RAW_DATA = 7, 5, 8, 9


def with_weights(content: bytes, manifest: Manifest, vector: npt.NDArray[np.float32]) -> bytes:
    """`content` with every tensor's bytes replaced by its part of the flat `vector`.

    Raises ModelError for a vector of another size, and for a model that refers to files: what we hand out must not read
    those of whoever runs it.
    """
    if vector.shape != (manifest.vector_size,):
        raise ModelError(f"a vector of shape {vector.shape} does not fit: it must be ({manifest.vector_size},)")
    contents_of(content)
    patched = bytearray(content)
    values: dict[str, npt.NDArray[np.float32]] = {}
    start = 0
    for tensor in manifest.carried:
        values[tensor.name] = vector[start : start + tensor.size].reshape(tensor.shape)
        start += tensor.size
        if tensor.inference_offset is not None:
            _write(patched, tensor.inference_offset, values[tensor.name])
    for adapter in manifest.adapters:
        # left · right makes the matrix from inputs to outputs; Gemm with transB and Conv keep it the other way round
        change = (values[adapter.left] @ values[adapter.right]) * np.float32(adapter.scale)
        weight = np.frombuffer(content, "<f4", change.size, adapter.inference_offset)
        _write(patched, adapter.inference_offset, weight + (change.T if adapter.transposed else change).ravel())
    return bytes(patched)


def _write(content: bytearray, offset: int, values: npt.NDArray[np.float32]) -> None:
    data = values.astype("<f4", copy=False).tobytes()
    content[offset : offset + len(data)] = data


def raw_data_offsets(content: bytes) -> dict[str, int]:
    """Where the raw_data of each initializer that has one starts in a serialised model."""
    offsets: dict[str, int] = {}
    for number, start, stop in fields(content, 0, len(content)):
        if number != _GRAPH:
            continue
        for inner, begin, end in fields(content, start, stop):
            if inner == _INITIALIZER:
                parts = {part: (first, last) for part, first, last in fields(content, begin, end)}
                if _NAME in parts and _RAW_DATA in parts:
                    offsets[content[slice(*parts[_NAME])].decode()] = parts[_RAW_DATA][0]
    return offsets
