"""A frozen dataclass with slots, whose methods are written when its first instance is made.

`dataclass` writes constructor, comparison, hash and representation of a class as text and compiles it: 2.7 million
instructions for four fields (Python 3.13, callgrind). A device declares about a hundred records and uses a few of them;
to write the methods of all took 231 of the 1,014 million instructions until a daemon is imported. What is written in
the end is what `dataclass` writes, so an instance behaves, and costs, the same.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NoReturn

_WRITTEN = ("__init__", "__repr__", "__eq__", "__hash__")


def frozen(cls: type[Any]) -> Any:
    """The class as `dataclass(frozen=True, slots=True)` makes it, for one that has no `__post_init__` and no method of
    these names of its own. Its instances cannot be pickled."""
    made = dataclasses.dataclass(init=False, repr=False, eq=False, slots=True)(cls)
    made.__init__ = _first
    for name in ("__setattr__", "__delattr__"):
        setattr(made, name, _refuse)
    return made


def _first(self: Any, *args: Any, **kwargs: Any) -> None:
    """Stands for the constructor, until it is needed."""
    cls = type(self)
    fields = [
        (field.name, field.type, dataclasses.field(default=field.default, default_factory=field.default_factory))
        for field in dataclasses.fields(cls)
    ]
    twin = dataclasses.make_dataclass(cls.__qualname__, fields, frozen=True)
    for name in _WRITTEN:
        setattr(cls, name, vars(twin)[name])
    cls.__init__(self, *args, **kwargs)


def _refuse(self: Any, name: str, *_: Any) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"{type(self).__name__}.{name} is frozen")
