"""Reading ONNX files on a device that has no `onnx` package: just enough of protobuf's wire format.

Strict on purpose: where a lenient reader and ONNX Runtime's own could understand different things (overlong tags,
groups, lengths beyond the message), this one refuses. Source: protobuf.dev, encoding.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgefl.errors import ModelError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

MAX_TAG = 1 << 32
"""Field numbers have 29 bits; a longer tag would be cut off by some readers and not by others."""


def fields(content: bytes, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """(field number, begin, end) of each field's value within the message [start, stop), in file order.

    Raises ModelError for anything that is not a well-formed message.
    """
    while start < stop:
        tag, start = varint(content, start, stop)
        kind, begin = tag & 7, start
        if kind == _BYTES:
            length, begin = varint(content, start, stop)
            start = begin + length
        elif kind == _VARINT:
            _, start = varint(content, start, stop)
        elif kind in (_FIXED64, _FIXED32):
            start += 8 if kind == _FIXED64 else 4
        else:
            raise _bad(f"wire type {kind}")
        if start > stop or tag >= MAX_TAG or tag < 8:
            raise _bad("a field does not fit its message")
        yield tag >> 3, begin, start


def varint(content: bytes, start: int, stop: int) -> tuple[int, int]:
    """(value, place behind it) of a base-128 number."""
    value = 0
    for shift, place in enumerate(range(start, min(start + 10, stop))):
        byte = content[place]
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, place + 1
    raise _bad("a number does not end")


def _bad(what: str) -> ModelError:
    return ModelError(f"broken ONNX file: {what}", hint="build the artifacts again, or fetch them again")
