"""Options as people write them, NAME:key=value,…, beside their defaults: what is given is checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeVar

from edgefl.errors import UsageError

MAX_OPTIONS_BYTES = 128
"""A handful of options with their names."""

_WORDS: Mapping[str, bool] = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class Options(Protocol):
    """A frozen dataclass whose fields are int, float, bool or str, each with a default."""

    def objection(self) -> str | None:
        """Why no device could run this, or None."""
        ...


T = TypeVar("T", bound=Options)


def parse_options(kind: type[T], text: str, what: str) -> T:
    """Take key=value,… apart; the rest keeps its default. Raises UsageError, which begins with `what` they are of."""
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    options = kind(**given_options(defaults, text, what)) if text else kind()
    objection = options.objection()
    if objection is not None:
        raise UsageError(f"{what}: {objection}", hint=options_hint(defaults, what))
    return options


def given_options(defaults: Mapping[str, object], text: str, what: str) -> dict[str, Any]:
    """The values in key=value,… by key, each of the type of its default. Raises UsageError."""
    hint = options_hint(defaults, what)
    if len(text.encode()) > MAX_OPTIONS_BYTES:
        raise UsageError(f"the options of {what} take more than {MAX_OPTIONS_BYTES} bytes", hint="write shorter ones")
    given: dict[str, object] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        if key not in defaults:
            raise UsageError(f"{what} has no option {key!r}", hint=hint)
        if key in given:
            raise UsageError(f"{what} has {key} twice", hint="give each option once")
        try:
            given[key] = _read(value, defaults[key])
        except (ValueError, KeyError):
            kind_name = {bool: "yes or no", int: "a whole number"}.get(type(defaults[key]), "a number")
            raise UsageError(f"{key} of {what} is {value!r}, but must be {kind_name}", hint=hint) from None
    return given


def options_hint(known: Iterable[str], what: str) -> str:
    names = list(known)
    return f"the options of {what} are {', '.join(names)}, written as {what}:{names[0]}=…"


def _read(value: str, default: object) -> object:
    if isinstance(default, bool):
        return _WORDS[value.lower()]
    if isinstance(default, int):
        return int(value)
    if isinstance(default, float):
        return float(value)
    return value
