"""What a daemon may take of its device: the table [limits] of the configuration.

    uplink = "20 Mbit/s"          rate of everything large that is sent
    site_uplink = "50 Mbit/s"     rate of the line that all devices of the site share; bounds nothing (docs/game.md)
    memory = "256 MB"             of the whole daemon; training pauses above it, larger models are refused
    cpu = 0.5                     share of the device's cores that training takes on average
    battery = 0.3                 no training below it, off mains
    temperature = 75              no training above it (degrees Celsius)
    background_cpu = 0.5          no training while the device's other work takes more than this share of the cores
    hours = "22:00-06:00"         training only then, by the device's own clock
    transfer = "10 GiB/month"     bytes sent and received for all applications; when they are used up, no training
    shares = { digits = 2 }       processor of an application, by name or id, as a multiple of that of the others

Everything is optional; without a key there is no such limit.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import field
from types import MappingProxyType
from typing import Any

from edgefl.declared import dataclass
from edgefl.errors import UsageError

UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}

PERIODS = ("day", "month")

SHARES = ("cpu", "battery", "background_cpu")
"""Keys that are fractions."""

KEYS = ("uplink", "site_uplink", "memory", *SHARES, "temperature", "hours", "transfer", "shares")

MAX_TEMPERATURE_C = 150.0
"""Above this no device runs: a value in Fahrenheit, or a slip."""

MAX_WEIGHT = 1000.0
MAX_SHARES = 64
"""Applications with a weight: as many as a device takes part in (learning/node.py)."""

MINUTES = 24 * 60


@dataclass(frozen=True, slots=True)
class Quota:
    """So many bytes in each `period`."""

    size_bytes: int
    period: str


@dataclass(frozen=True, slots=True)
class DeviceLimits:
    """What the keys above mean. `hours` is (first, last) minute of the day, the last one not included; it may pass
    midnight. None and 0: no limit."""

    cpu: float = 1.0
    memory_bytes: int = 0
    battery: float = 0.0
    temperature_c: float = 0.0
    background_cpu: float = 0.0
    hours: tuple[int, int] | None = None
    transfer: Quota | None = None
    shares: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    def weight(self, app_id: int, name: str) -> float:
        """The share of an application, by its id (16 hexadecimal digits) or else by its name; 1 by default."""
        return self.shares.get(f"{app_id:016x}", self.shares.get(name, 1.0))


def read_limits(table: Mapping[str, Any], *, memory: str = "") -> DeviceLimits:
    """The limits in the table (without `uplink`, `site_uplink` and `memory`, which are texts of their own). Raises
    UsageError naming the key."""
    values: dict[str, Any] = {"memory_bytes": parse_size(memory)}
    for key, value in table.items():
        if key in SHARES:
            values[key] = _number(key, value, 1.0, "a share above 0 and at most 1, for example 0.5")
        elif key == "temperature":
            values["temperature_c"] = _number(key, value, MAX_TEMPERATURE_C, "degrees Celsius, for example 75")
        elif key == "hours":
            values[key] = _hours(value)
        elif key == "transfer":
            values[key] = _quota(value)
        elif key == "shares":
            values[key] = _weights(value)
        else:
            raise UsageError(f"[limits] has no key {key!r}", hint=f"its keys are {', '.join(KEYS)}")
    return DeviceLimits(**values)


def _number(key: str, value: Any, most: float, rule: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
        raise UsageError(f"[limits] {key} cannot be {value!r}", hint=f"it is {rule}")
    return float(value)


def _hours(value: Any) -> tuple[int, int]:
    found = re.fullmatch(r"(\d\d?):(\d\d)-(\d\d?):(\d\d)", value.replace(" ", "")) if isinstance(value, str) else None
    if found is not None:
        hour, minute, last_hour, last_minute = map(int, found.groups())
        first, last = hour * 60 + minute, last_hour * 60 + last_minute
        if max(minute, last_minute) < 60 and max(first, last) <= MINUTES and first % MINUTES != last % MINUTES:
            return first % MINUTES, last % MINUTES
    raise UsageError(f"[limits] hours cannot be {value!r}", hint='for example hours = "22:00-06:00"')


def _quota(value: Any) -> Quota:
    size, slash, period = value.partition("/") if isinstance(value, str) else ("", "", "")
    if slash and period.strip() in PERIODS:
        with contextlib.suppress(UsageError):
            quota = Quota(parse_size(size.strip()), period.strip())
            if quota.size_bytes > 0:
                return quota
    raise UsageError(
        f"[limits] transfer cannot be {value!r}", hint='for example transfer = "10 GiB/month", or "200 MB/day"'
    )


def _weights(value: Any) -> Mapping[str, float]:
    if not isinstance(value, dict) or len(value) > MAX_SHARES:
        raise UsageError("[limits] shares is a table of names and numbers", hint="shares = { digits = 2 }")
    return {
        name: _number(f"shares.{name}", weight, MAX_WEIGHT, f"above 0 and at most {MAX_WEIGHT:g}")
        for name, weight in value.items()
    }


def parse_rate(text: str) -> float:
    """Bytes a second of a text like "20 Mbit/s" or "2.5 MB/s"; 0.0 of an empty one. Raises UsageError."""
    return _parse(text, {"bit/s": 1 / 8, "B/s": 1.0}, "20 Mbit/s")


def parse_size(text: str) -> int:
    """Bytes of a text like "256 MB"; 0 of an empty one. Raises UsageError."""
    return int(_parse(text, {"B": 1.0}, "256 MB"))


def _parse(text: str, kinds: Mapping[str, float], example: str) -> float:
    if not text:
        return 0.0
    number, _, unit = text.strip().partition(" ")
    for kind, factor in kinds.items():
        prefix = unit.strip().removesuffix(kind)
        if unit.strip().endswith(kind) and prefix in UNITS:
            with contextlib.suppress(ValueError):
                value = float(number) * UNITS[prefix] * factor
                if 0.0 < value < float("inf"):
                    return value
    raise UsageError(f"{text!r} is no such quantity", hint=f"write it like {example!r}")
