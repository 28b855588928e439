"""The checkpoint file: named tensors in the safetensors layout.

    8 bytes   length of the header, little-endian
    header    JSON: {"name": {"dtype": "F32", "shape": [64, 10], "data_offsets": [begin, end]}, …}, padded with spaces
    data      the tensors one after another, little-endian, C order, without a gap

Why this layout: it is read by every other tool, holds no code (unlike pickle), and a device can map it. The reader
believes nothing: header length, names, shapes and offsets are checked before a single tensor is made, and what it
refuses is always a ModelError. Source: the format section of the safetensors documentation.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefl.durable import write_atomically
from edgefl.errors import ModelError

Array = npt.NDArray[Any]

MAX_HEADER_BYTES = 8 << 20
"""Header of the largest checkpoint: 64 Ki tensors at 128 bytes each."""

MAX_RANK = 8
"""No operator of the trainer knows tensors of higher rank."""

DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "I64": np.dtype("<i8")}
_CODES = {dtype: code for code, dtype in DTYPES.items()}


def serialise(tensors: Mapping[str, Array]) -> bytes:
    """The file's bytes; float32 and int64 tensors alone."""
    header: dict[str, Any] = {}
    chunks: list[bytes] = []
    position = 0
    for name, tensor in tensors.items():
        dtype = tensor.dtype.newbyteorder("<")
        chunk = tensor.astype(dtype, copy=False).tobytes()
        header[name] = {
            "dtype": _CODES[dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, position + len(chunk)],
        }
        position += len(chunk)
        chunks.append(chunk)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *chunks])


def parse(content: bytes) -> dict[str, Array]:
    """Tensors by name, in file order, each its own writable array. Raises ModelError on anything malformed."""
    header, data = _header(content)
    tensors: dict[str, Array] = {}
    spans: list[tuple[int, int]] = [(0, 0)]
    for name, entry in header.items():
        dtype, shape, begin, end = _entry(name, entry)
        if end > len(data) or end - begin != math.prod(shape) * dtype.itemsize:
            raise _bad(f"tensor {name!r} does not cover its shape within the file")
        spans.append((begin, end))
        # frombuffer on an empty span would take the rest of the buffer, so the span is cut out first
        tensors[name] = np.frombuffer(data[begin:end], dtype=dtype).reshape(shape).copy()
    spans.sort()
    if any(before[1] != after[0] for before, after in pairwise(spans)) or spans[-1][1] != len(data):
        raise _bad("tensors overlap or leave a gap")
    return tensors


def write(path: Path, tensors: Mapping[str, Array]) -> None:
    """Write atomically. Raises StorageError."""
    write_atomically(path, serialise(tensors))


def _header(content: bytes) -> tuple[dict[str, Any], memoryview]:
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > MAX_HEADER_BYTES or 8 + length > len(content):
        raise _bad(f"a header of {length} bytes does not fit the file of {len(content)}")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise _bad("a name appears twice")
        return dict(pairs)

    try:
        header = json.loads(content[8 : 8 + length].decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError):
        raise _bad("the header is not JSON") from None
    if not isinstance(header, dict):
        raise _bad("the header is not a JSON object")
    header.pop("__metadata__", None)
    return header, memoryview(content)[8 + length :]


def _entry(name: str, entry: Any) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    match entry:
        case {"dtype": str(code), "shape": [*shape], "data_offsets": [begin, end]} if len(entry) == 3:
            numbers = [*shape, begin, end]
            if code in DTYPES and len(shape) <= MAX_RANK and all(type(n) is int and 0 <= n < 1 << 48 for n in numbers):
                return DTYPES[code], tuple(shape), begin, end
    raise _bad(f"tensor {name!r} has no valid dtype, shape and data_offsets")


def _bad(what: str) -> ModelError:
    return ModelError(f"broken checkpoint: {what}", hint="build the artifacts again, or fetch them again")
