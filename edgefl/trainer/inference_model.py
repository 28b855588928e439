"""The user's own model with trained weights put in, on a device that has no `onnx` package.

ONNX is protobuf, and a tensor's raw_data lies in the file as plain little-endian bytes. When artifacts are built, the
place of every trained tensor is looked up once (`raw_data_offsets`) and kept in the manifest; exporting is then a copy
of the file with those bytes overwritten (`with_weights`).

Field numbers: onnx.proto (ModelProto.graph 7, GraphProto.initializer 5, TensorProto.name 8, raw_data 9).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgefl.trainer.manifest import Parameter
from edgefl.trainer.protobuf import fields
from edgefl.trainer.vetting import contents_of

_GRAPH, _INITIALIZER, _NAME, _RAW_DATA = 7, 5, 8, 9


def with_weights(
    content: bytes, parameters: Sequence[Parameter], values: Mapping[str, npt.NDArray[np.float32]]
) -> bytes:
    """`content` with every parameter's bytes replaced by `values[name]`.

    Raises ModelError for a model that refers to files: what we hand out must not read those of whoever runs it.
    """
    contents_of(content)
    patched = bytearray(content)
    for parameter in parameters:
        start = parameter.inference_offset
        patched[start : start + parameter.size_bytes] = values[parameter.name].astype("<f4", copy=False).tobytes()
    return bytes(patched)


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
