"""`dataclass`, as the standard library's, but that a class with slots has its methods written when they are needed.

The standard one writes constructor, comparison, hash and representation of each class as text and compiles it, when
the class is declared. A device declares some 170 of them, and has few instances of few before it is in its fleet: all
the rest would have to be paid for at each boot. What is written in the end is what the standard one writes, so that
an instance behaves, and costs, the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING
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
        """See `dataclasses.dataclass`. A class with slots has no InitVar, no constructor of its own, texts as its
        annotations (`from __future__ import annotations`), and no base with fields that is not declared here."""
        if not slots:
            return dataclasses.dataclass(frozen=frozen, eq=eq, kw_only=kw_only)
        return lambda cls: _Declared(cls, frozen, eq, kw_only).made


class _Declared:
    """What is known of a class from its declaration."""

    def __init__(self, cls: type[Any], frozen: bool, eq: bool, kw_only: bool) -> None:
        self.frozen, self.kw_only = frozen, kw_only
        self.annotations: dict[str, str] = cls.__annotations__
        self.names = [name for name, text in self.annotations.items() if not str(text).startswith("ClassVar")]
        own = dict(vars(cls))
        own.pop("__dict__", None)
        own.pop("__weakref__", None)
        self.defaults = {name: own.pop(name) for name in self.names if name in own}
        taken = {name for base in cls.__mro__[1:] for name in vars(base).get("__slots__", ())}
        own["__slots__"] = tuple(name for name in self.names if name not in taken)
        own["__qualname__"] = cls.__qualname__
        own["__declared__"] = self
        own["__init__"] = _constructor(self)
        own.setdefault("__repr__", _unwritten(self, "__repr__"))
        if eq and own.get("__hash__") is None:
            own["__hash__"] = _unwritten(self, "__hash__") if frozen else None
        if eq:
            own.setdefault("__eq__", _unwritten(self, "__eq__"))
        if frozen:
            own |= {"__setattr__": _refuse, "__delattr__": _refuse, "__getstate__": _state, "__setstate__": _set_state}
        for name in _ASKED_FOR:
            own[name] = _AskedFor(self, name)
        metaclass: Any = type(cls)
        self.made: type[Any] = metaclass(cls.__name__, cls.__bases__, own)
        self._entries: list[tuple[str, bool, bool, Any, Any]] | None = None

    def entries(self) -> list[tuple[str, bool, bool, Any, Any]]:
        """Of each field: name, whether the constructor takes it, and by its name alone, default, maker of defaults."""
        if self._entries is None:
            found = {}
            for base in reversed(self.made.__mro__):
                declared = vars(base).get("__declared__")
                if declared is None:
                    continue
                for name in declared.names:
                    default = declared.defaults.get(name, MISSING)
                    if isinstance(default, dataclasses.Field):
                        named = declared.kw_only if default.kw_only is MISSING else default.kw_only
                        found[name] = (name, default.init, named, default.default, default.default_factory)
                    else:
                        found[name] = (name, True, declared.kw_only, default, MISSING)
            self._entries = list(found.values())
        return self._entries


_ASKED_FOR = ("__dataclass_fields__", "__dataclass_params__", "__match_args__")


class _AskedFor:
    """Stands for what `dataclasses` keeps in a class, until it is asked for."""

    def __init__(self, declared: _Declared, name: str) -> None:
        self._declared, self._name = declared, name

    def __get__(self, _: Any, __: type[Any]) -> Any:
        made = self._declared.made
        known = {"__module__": made.__module__, "__annotations__": self._declared.annotations, "__doc__": "not made up"}
        same = type(made.__name__, made.__bases__, known | self._declared.defaults)
        dataclasses.dataclass(init=False, repr=False, eq=False, kw_only=self._declared.kw_only)(same)
        for name in _ASKED_FOR:
            setattr(made, name, vars(same)[name])
        return vars(made)[self._name]


def _constructor(declared: _Declared) -> Callable[..., None]:
    """Fills the fields one by one, as often as that is less work than to write the real one."""
    count = 0

    def fill(self: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal count
        count += 1
        cls = declared.made
        values = _values(declared, args, kwargs) if count < WORTH_WRITING else None
        if values is None:
            cls.__init__ = _write(declared, "__init__")
            cls.__init__(self, *args, **kwargs)
            return
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if hasattr(cls, "__post_init__"):
            self.__post_init__()

    return fill


def _values(declared: _Declared, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """The values of all fields; None if these are not the arguments: the written constructor says what is wrong."""
    entries = declared.entries()
    names = [name for name, init, named, _, _ in entries if init and not named]
    values = dict(zip(names, args, strict=False))
    if len(args) > len(names) or not values.keys().isdisjoint(kwargs):
        return None
    values |= kwargs
    for name, init, _, default, factory in entries:
        if name in values:
            if not init:
                return None
        elif default is not MISSING:
            values[name] = default
        elif factory is not MISSING:
            values[name] = factory()
        elif init:
            return None
    return values if len(values) <= len(entries) else None


def _unwritten(declared: _Declared, name: str) -> Callable[..., Any]:
    """Stands for a method until it is called."""

    def first(self: Any, *args: Any) -> Any:
        cls = declared.made
        if vars(cls)[name] is first:
            setattr(cls, name, _write(declared, name))
        return vars(cls)[name](self, *args)

    return first


def _write(declared: _Declared, name: str) -> Callable[..., Any]:
    """The method as `dataclasses` writes it, of a class with the same fields."""
    cls = declared.made
    same = dataclasses.make_dataclass(
        cls.__qualname__,
        [(field.name, field.type, field) for field in dataclasses.fields(cls)],
        namespace={"__post_init__": cls.__post_init__} if hasattr(cls, "__post_init__") else None,
        init=name == "__init__",
        repr=name == "__repr__",
        eq=name == "__eq__",
        unsafe_hash=name == "__hash__",
        frozen=declared.frozen,
    )
    method: Callable[..., Any] = vars(same)[name]
    return method


def _refuse(self: Any, name: str, *_: Any) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"{type(self).__name__}.{name} is frozen")


def _state(self: Any) -> list[Any]:
    return [getattr(self, field.name) for field in dataclasses.fields(self)]


def _set_state(self: Any, state: list[Any]) -> None:
    for field, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, field.name, value)
