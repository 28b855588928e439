"""The names of encodings, as they stand in a manifest and behind `--compress`."""

from __future__ import annotations

import math
from importlib.util import find_spec

from edgefl.declared import dataclass
from edgefl.errors import ConfigError, UsageError

PLAIN = ("none", "fp16", "bf16", "int8", "int4")
SHARES = ("topk", "randk")

MIN_SHARE = 1e-4
"""Six values of a chunk; fewer would starve most parameters for thousands of rounds."""

MAX_SHARE = 0.5
"""More is better written as int8."""

MAX_RANK = 64
"""A quarter of full rank, where int8 is better."""

GRAMMAR = "none, fp16, bf16, int8, int4, topk:F, randk:F (share F, as 0.01) or lowrank:R, each with +zstd if wanted"


@dataclass(frozen=True, slots=True)
class Spec:
    """A name, taken apart. `number`: the share or the rank."""

    family: str
    number: float = 0.0
    zstd: bool = False


def parse_spec(name: str) -> Spec:
    """Raises UsageError for anything that is no encoding."""
    base, plus, wrapper = name.partition("+")
    family, colon, argument = base.partition(":")
    if plus and wrapper != "zstd":
        raise _unknown(name)
    if family in PLAIN and not colon:
        return Spec(family, zstd=bool(plus))
    try:
        number = float(argument)
    except ValueError:
        raise _unknown(name) from None
    fits = family in SHARES and MIN_SHARE <= number <= MAX_SHARE
    fits |= family == "lowrank" and 1 <= number <= MAX_RANK and argument.isdecimal()
    if not (fits and math.isfinite(number)):
        raise _unknown(name)
    return Spec(family, number, bool(plus))


def check_extra(name: str) -> None:
    """Raises ConfigError when this encoding needs a package that this device lacks."""
    if parse_spec(name).zstd and find_spec("zstandard") is None:
        raise ConfigError(f"the encoding {name} needs the package zstandard", hint="pip install 'edgefl[zstd]'")


def _unknown(name: str) -> UsageError:
    return UsageError(f"no encoding is called {name!r}", hint=f"use {GRAMMAR}")
