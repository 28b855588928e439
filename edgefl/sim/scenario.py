"""What happens to a fleet, as data: phases, each a fault with its beginning, its duration and its size.

A scenario file is TOML: one `[[phase]]` for each, with its `kind` and the fields of the class of that name here
(`start` and `duration` in seconds, counted from the beginning of the scenario). The parser takes nothing that it does
not know: an unknown key, a wrong type or a value out of range is an error that names the phase and the key.

`pick` chooses the devices that a phase is about: another number, other devices. It belongs to the phase, so that
leaving one phase out changes nothing in the others.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

from edgefl.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_FILE_BYTES = 64 * 1024
MAX_TIME_S = 86_400.0
"""A day of virtual time: no scenario needs more, and a mistyped number should not run for ever."""

LIMITS: Mapping[str, tuple[float, float]] = {
    "start": (0, MAX_TIME_S),
    "duration": (0, MAX_TIME_S),
    "share": (0, 1),
    "loss": (0, 0.9),
    "duplicate": (0, 0.9),
    "reorder": (0, 0.9),
    "delay_s": (0, 60),
    "seconds": (0, MAX_TIME_S),
    "joins_per_s": (0, 1000),
    "leaves_per_s": (0, 1000),
    "polite": (0, 1),
    "parts": (2, 16),
    "zones": (1, 0xFFFF),
    "pick": (0, 0xFFFFFFFF),
}
"""The least and the greatest value of each key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Something that happens from `start` on, for `duration` seconds."""

    kind: ClassVar[str]
    start: float
    duration: float = 0.0
    pick: int = 0

    @property
    def end(self) -> float:
        return self.start + self.duration


@dataclass(frozen=True, slots=True, kw_only=True)
class Churn(Phase):
    """Devices join and leave at random times (two Poisson processes); a share of those that leave says good-bye."""

    kind: ClassVar[str] = "churn"
    joins_per_s: float = 0.0
    leaves_per_s: float = 0.0
    polite: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash(Phase):
    """A share of all devices vanishes at once. With a duration they come back when it is over: the same devices, or
    (`forgetful`) without their state, which makes them new ones at the old addresses. With `noticed` it is their
    processes that die: the links break, and whoever had one to them hears of it; without, it is their power."""

    kind: ClassVar[str] = "crash"
    share: float
    forgetful: bool = False
    noticed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneFailure(Phase):
    """So many whole zones go dark, the largest first, and come back when the duration is over."""

    kind: ClassVar[str] = "zone-failure"
    zones: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition(Phase):
    """The fleet falls into parts that do not hear each other, and heals; whole zones fall into one part with
    `by_zone`."""

    kind: ClassVar[str] = "partition"
    parts: int = 2
    by_zone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BadNetwork(Phase):
    """Messages are lost, repeated and overtaken with these probabilities, and all take longer."""

    kind: ClassVar[str] = "network"
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Slow(Phase):
    """A share of all devices gets round to everything so much later."""

    kind: ClassVar[str] = "slow"
    share: float
    delay_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockJump(Phase):
    """The clocks of a share of all devices leap ahead (monotonic clocks never go back)."""

    kind: ClassVar[str] = "clock-jump"
    share: float
    seconds: float


KINDS: Mapping[str, type[Phase]] = {
    cls.kind: cls for cls in (Churn, Crash, ZoneFailure, Partition, BadNetwork, Slow, ClockJump)
}

ENDLESS = frozenset({Crash.kind, ClockJump.kind})
"""Kinds that need no duration: who has vanished may stay away, and a leap takes no time."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """Phases in the order of their beginnings."""

    phases: tuple[Phase, ...]

    @property
    def end(self) -> float:
        """When the last phase is over."""
        return max((phase.end for phase in self.phases), default=0.0)

    def documents(self) -> list[dict[str, Any]]:
        """The phases as a file gives them, without what is left at its default."""
        return [_document(phase) for phase in self.phases]


def read_scenario(path: Path) -> Scenario:
    """The scenario in a file. Raises ConfigError that names the phase and the key."""
    try:
        data = path.read_bytes()[: MAX_FILE_BYTES + 1]
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{path} is longer than {MAX_FILE_BYTES} bytes", hint="a scenario is a page of text")
    try:
        document = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    try:
        return scenario(document)
    except ValueError as error:
        raise ConfigError(
            f"{path}: {error}", hint="docs/scenario.toml shows every kind of phase with its keys"
        ) from None


def scenario(document: Mapping[str, Any]) -> Scenario:
    """A scenario from a parsed file. Raises ValueError."""
    unknown = sorted(document.keys() - {"phase"})
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}; a scenario has [[phase]] alone")
    tables = document.get("phase")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise ValueError("a scenario needs at least one [[phase]]")
    return in_order(_phase(number, table) for number, table in enumerate(tables, 1))


def in_order(phases: Iterable[Phase]) -> Scenario:
    """A scenario of these phases."""
    return Scenario(tuple(sorted(phases, key=lambda phase: phase.start)))


def _phase(number: int, table: Mapping[str, Any]) -> Phase:
    where = f"phase {number}"
    kind = table.get("kind")
    cls = KINDS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise ValueError(f"{where}: kind is one of {', '.join(KINDS)}, not {kind!r}")
    where += f" ({kind})"
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key == "kind":
            continue
        if key not in fields:
            raise ValueError(f"{where}: unknown key {key!r}; known are {', '.join(fields)}")
        values[key] = _value(f"{where}: {key}", value, hints[key], LIMITS.get(key))
    for name, field in fields.items():
        if name not in values and field.default is dataclasses.MISSING:
            raise ValueError(f"{where}: {name} is missing")
    if kind not in ENDLESS and not values.get("duration"):
        raise ValueError(f"{where}: duration is missing, in seconds")
    return cls(**values)


def _value(where: str, value: Any, wanted: type, limits: tuple[float, float] | None) -> Any:
    if wanted is bool:
        if not isinstance(value, bool):
            raise ValueError(f"{where} is true or false, not {value!r}")
        return value
    if isinstance(value, bool) or not isinstance(value, int if wanted is int else (int, float)):
        raise ValueError(f"{where} is {'a whole number' if wanted is int else 'a number'}, not {value!r}")
    if limits is not None and (not math.isfinite(value) or not limits[0] <= value <= limits[1]):
        raise ValueError(f"{where} is between {limits[0]:g} and {limits[1]:g}, not {value!r}")
    return wanted(value)


def _document(phase: Phase) -> dict[str, Any]:
    values = {field.name: (getattr(phase, field.name), field.default) for field in dataclasses.fields(phase)}
    return {"kind": phase.kind, **{name: value for name, (value, default) in values.items() if value != default}}


def as_toml(scenario: Scenario) -> str:
    """The scenario as a file that gives the same one."""
    return "\n".join(
        "[[phase]]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in document.items())
        for document in scenario.documents()
    )


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)
