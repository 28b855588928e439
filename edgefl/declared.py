"""`dataclass`, as the standard library's, but that a class's methods are written when they are needed.

The standard one writes constructor, comparison, hash and representation of each class as text and compiles it, when
the class is declared. A device declares some 170 of them, and has few instances of few before it is in its fleet: all
the rest would have to be paid for at each boot. What is written in the end is what the standard one writes, so that
an instance behaves, and costs, the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

WORTH_WRITING = 20
"""The instance of a class with which its constructor is written. To write one of four fields takes 2.8 million
instructions; an instance takes 33,000 field by field, and 10,000 with the written one (Python 3.13, callgrind)."""

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(
        *, frozen: bool = False, slots: bool = False, eq: bool = True, kw_only: bool = False
    ) -> Callable[[type[Any]], type[Any]]:
        """See `dataclasses.dataclass`; for a class without InitVar fields and without a constructor of its own."""

        def declare(cls: type[Any]) -> type[Any]:
            own, text = vars(cls), cls.__doc__
            cls.__doc__ = text or "undocumented"  # otherwise `dataclasses` asks for the whole signature
            made = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots, kw_only=kw_only)(cls)
            made.__doc__ = text
            made.__init__ = _constructor(made, frozen)
            if "__repr__" not in own:
                made.__repr__ = _unwritten(made, "__repr__")
            if eq and "__eq__" not in own:
                made.__eq__ = _unwritten(made, "__eq__")
            if eq and own.get("__hash__") is None:
                made.__hash__ = _unwritten(made, "__hash__") if frozen else None
            if frozen:
                made.__setattr__ = made.__delattr__ = _refuse
                made.__getstate__, made.__setstate__ = _state, _set_state
            return made

        return declare


def _constructor(cls: type[Any], frozen: bool) -> Callable[..., None]:
    """Fills the fields one by one, as often as that is less work than to write the real one."""
    made = 0

    def fill(self: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal made
        made += 1
        values = _values(cls, args, kwargs) if made < WORTH_WRITING else None
        if values is None:
            cls.__init__ = _write(cls, "__init__", frozen)
            cls.__init__(self, *args, **kwargs)
            return
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if hasattr(cls, "__post_init__"):
            self.__post_init__()

    return fill


def _values(cls: type[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """The values of all fields; None if these are not the arguments: the written constructor says what is wrong."""
    fields = dataclasses.fields(cls)
    names = [field.name for field in fields if field.init and not field.kw_only]
    values = dict(zip(names, args, strict=False))
    if len(args) > len(names) or not values.keys().isdisjoint(kwargs):
        return None
    values |= kwargs
    for field in fields:
        if field.name in values:
            if not field.init:
                return None
        elif field.default is not dataclasses.MISSING:
            values[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            values[field.name] = field.default_factory()
        elif field.init:
            return None
    return values if len(values) <= len(fields) else None


def _unwritten(cls: type[Any], name: str) -> Callable[..., Any]:
    """Stands for a method until it is called."""

    def first(self: Any, *args: Any) -> Any:
        if vars(cls)[name] is first:
            setattr(cls, name, _write(cls, name))
        return vars(cls)[name](self, *args)

    return first


def _write(cls: type[Any], name: str, frozen: bool = False) -> Callable[..., Any]:
    """The method as `dataclasses` writes it, of a class with the same fields."""
    twin = dataclasses.make_dataclass(
        cls.__qualname__,
        [(field.name, field.type, field) for field in dataclasses.fields(cls)],
        namespace={"__post_init__": cls.__post_init__} if hasattr(cls, "__post_init__") else None,
        init=name == "__init__",
        repr=name == "__repr__",
        eq=name == "__eq__",
        unsafe_hash=name == "__hash__",
        frozen=frozen,
    )
    method: Callable[..., Any] = vars(twin)[name]
    return method


def _refuse(self: Any, name: str, *_: Any) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"{type(self).__name__}.{name} is frozen")


def _state(self: Any) -> list[Any]:
    return [getattr(self, field.name) for field in dataclasses.fields(self)]


def _set_state(self: Any, state: list[Any]) -> None:
    for field, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, field.name, value)
