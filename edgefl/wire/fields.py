"""Codecs of single values: what CBOR carries for them, and the checks that a stranger's value must pass.

Every codec is bounded: lengths in bytes or items are part of its declaration.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import IntEnum
from typing import Any

from edgefl.declared import dataclass
from edgefl.errors import WireError


@dataclass(frozen=True, slots=True)
class Codec:
    """A pair of functions between a Python value and what CBOR carries. `decode` raises WireError."""

    name: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


def same(value: Any) -> Any:
    """Travels as it is."""
    return value


def _uint(bits: int) -> Codec:
    limit = 1 << bits

    def decode(value: Any) -> int:
        if type(value) is not int or not 0 <= value < limit:
            raise WireError(f"not an unsigned integer of {bits} bits")
        return value

    return Codec(f"u{bits}", same, decode)


def _float(value: Any) -> float:
    if type(value) is not float or not math.isfinite(value):
        raise WireError("not a finite number")
    return value


def _bool(value: Any) -> bool:
    if type(value) is not bool:
        raise WireError("not a boolean")
    return value


def raw(maximum: int, *, exactly: bool = False) -> Codec:
    """A byte string of at most (or exactly) `maximum` bytes."""

    def decode(value: Any) -> bytes:
        if type(value) is not bytes or len(value) > maximum or (exactly and len(value) != maximum):
            raise WireError(f"not a byte string of {'' if exactly else 'at most '}{maximum} bytes")
        return value

    return Codec(f"bytes[{'' if exactly else '≤'}{maximum}]", bytes, decode)


def text(maximum: int) -> Codec:
    """A UTF-8 string of at most `maximum` bytes."""

    def decode(value: Any) -> str:
        if type(value) is not str or len(value.encode("utf-8", "surrogatepass")) > maximum:
            raise WireError(f"not a text of at most {maximum} bytes")
        return value

    return Codec(f"text[≤{maximum}]", same, decode)


def choice(enum: type[IntEnum]) -> Codec:
    """A member of an IntEnum, by number."""

    def decode(value: Any) -> IntEnum:
        if type(value) is not int:
            raise WireError(f"not a number of {enum.__name__}")
        try:
            return enum(value)
        except ValueError:
            raise WireError(f"{value} is no {enum.__name__}") from None

    return Codec(enum.__name__, int, decode)


def many(codec: Codec, maximum: int) -> Codec:
    """A tuple of at most `maximum` items."""

    def encode(values: Any) -> list[Any]:
        return [codec.encode(value) for value in values]

    def decode(value: Any) -> tuple[Any, ...]:
        if type(value) is not list or len(value) > maximum:
            raise WireError(f"not a list of at most {maximum} items")
        return tuple([codec.decode(item) for item in value])

    return Codec(f"[{codec.name} ≤{maximum}]", encode, decode)


def optional(codec: Codec) -> Codec:
    """A value or None. Give the field the default None, so that None is never sent."""

    def encode(value: Any) -> Any:
        return None if value is None else codec.encode(value)

    return Codec(f"{codec.name}?", encode, codec.decode)


U8, U16, U32, U64 = _uint(8), _uint(16), _uint(32), _uint(64)
F64 = Codec("f64", float, _float)
BOOL = Codec("bool", bool, _bool)
