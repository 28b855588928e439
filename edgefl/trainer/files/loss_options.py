"""The losses' names and options: defaults, and which values make sense.

Stated apart from the formulas (losses.py), which need the onnx package: a device reads options from a manifest, which
anybody may have written, and needs them to count what the loss counts (metrics.py). Values are JSON: numbers and lists
of numbers. An option that has no value is absent.

Meanings are PyTorch's, so that published settings carry over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any

from edgefl.errors import ModelError

Settings = Mapping[str, Any]

NO_OPTIONS: Settings = MappingProxyType({})

LEAST, MOST = 1e-30, 1e30
"""Numbers that are not 0 lie between these: float32 arithmetic with them neither vanishes nor overflows."""

MAX_CLASSES = 1 << 16
"""Class weights are listed in the manifest."""

MAX_LABEL = 1 << 40
"""Labels and the number that marks ignored ones are below it: JSON readers lose digits of larger ones."""


@dataclass(frozen=True, slots=True)
class Option:
    """`read` gives the value in its own type, or None where it makes no sense; `wants` completes "must be …"."""

    read: Callable[[Any], Any]
    wants: str
    default: Any = None


def _whole(low: int, high: int) -> Callable[[Any], int | None]:
    def read(value: Any) -> int | None:
        right = isinstance(value, Integral) and not isinstance(value, bool) and low <= int(value) <= high
        return int(value) if right else None

    return read


def _number(value: Any) -> float | None:
    """0, or a number that float32 can take."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return None
    number = float(value)
    return number if number == 0 or LEAST <= number <= MOST else None


def _above_0(value: Any) -> float | None:
    return _number(value) or None


def _share(value: Any) -> float | None:
    number = _number(value)
    return number if number is not None and number <= 1 else None


def _numbers(value: Any) -> list[float] | None:
    """Not all 0."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or len(value) > MAX_CLASSES:
        return None
    numbers = [_number(entry) for entry in value]
    return [n for n in numbers if n is not None] if any(numbers) and None not in numbers else None


def _number_or_numbers(value: Any) -> float | list[float] | None:
    numbers = _numbers(value)
    return numbers if numbers is not None else _above_0(value)


OPTIONS: dict[str, dict[str, Option]] = {
    "cross-entropy": {
        "axis": Option(_whole(-8, 7), "a whole number, which axis of the output holds the classes"),
        "class_weights": Option(_numbers, "a list of one number for each class, from 0, not all 0"),
        "ignore_index": Option(_whole(-MAX_LABEL + 1, MAX_LABEL - 1), "a whole number, the label that does not count"),
        "label_smoothing": Option(_share, "a number from 0 to 1", 0.0),
    },
    "bce": {"pos_weight": Option(_number_or_numbers, "a number above 0, or a list of one for each last element", 1.0)},
    "mse": {},
    "mae": {},
    "huber": {"delta": Option(_above_0, "a number above 0", 1.0)},
    "own": {},
}


def settings(loss: str, options: Settings) -> dict[str, Any]:
    """Every option of `loss` that has a value, given or by default, checked. `settings(loss, settings(…))` changes
    nothing. Raises ModelError for a loss or an option that does not exist, and for a value that makes no sense.
    """
    if loss not in OPTIONS:
        raise ModelError(f"no loss {loss!r:.80}", hint=f"choose one of {', '.join(OPTIONS)}")
    known = OPTIONS[loss]
    if unknown := sorted(set(options) - set(known)):
        raise ModelError(
            f"loss {loss} has no option {', '.join(unknown):.80}", hint=f"its options are: {', '.join(known) or 'none'}"
        )
    values = {}
    for name, option in known.items():
        value = option.default
        if name in options and (value := option.read(options[name])) is None:
            raise ModelError(
                f"option {name} of loss {loss} is {options[name]!r:.80}", hint=f"it must be {option.wants}"
            )
        if value is not None:
            values[name] = value
    return values


def class_axis(rank: int, options: Settings) -> int:
    """Which axis of an output of `rank` axes holds the classes: by default the last of [batch, classes] and [batch, …,
    classes], and axis 1 of images and volumes (rank 4 and above), which is where frameworks put their channels.
    Raises ModelError for an axis that is not there, or is the batch.
    """
    axis: int = options.get("axis", -1 if rank <= 3 else 1)
    place = axis + rank if axis < 0 else axis
    if not 0 < place < rank:
        raise ModelError(
            f"axis {axis} of an output with {rank} axes holds no classes",
            hint="the first axis is the batch; choose one behind it",
        )
    return place
