"""How a dataclass becomes a CBOR map with integer keys, and how a stranger's bytes become a dataclass or a WireError.

A record is a frozen dataclass (declared.py) whose fields are annotated with their wire key and codec:

    @message(13)
    class Ping(Message):
        request: Annotated[int, 1, U32]

Rules that keep two versions interoperable: a key never changes its meaning; a new field gets a new key and a default;
unknown keys are ignored; a field equal to its default is left out.

Invariant: `decode` returns a message or raises WireError for every byte string, in time and memory linear in its
length. Only plain CBOR is accepted (RFC 8949: no tags, no indefinite lengths, no duplicate keys, bounded depth), and
only in the one encoding that `encode` produces (shortest lengths, keys ascending), so that signatures and duplicates
can be judged on bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar, get_type_hints

import cbor2

from edgefl.declared import dataclass
from edgefl.errors import MissingPackageError, WireError
from edgefl.wire.fields import U16, Codec, same

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:  # in typing since Python 3.11; it does nothing there either

    def dataclass_transform(**_: Any) -> Callable[[T], T]:
        return lambda declare: declare


MAX_MESSAGE_BYTES = 64 * 1024
"""One control message. The largest legitimate one is an update with 4,096 contributors (37 kB)."""

MAX_DEPTH = 6
"""Nesting of a legitimate message: message, list, record, list. Two to spare for later versions."""

TYPE_KEY = 0
"""The map key that carries the message type."""

_KNOWN_TAGS = (0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 100, 256, 258, 260, 261, 1004, 43000, 55799)

T = TypeVar("T")


class Record:
    """A nested part of a message: a map without a type."""

    __slots__ = ()


class Message:
    """Base of everything that travels alone."""

    __slots__ = ()
    TYPE: ClassVar[int]
    BULK: ClassVar[bool] = False
    """Whether a second frame of raw bytes follows."""


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    key: int
    codec: Codec
    default: Any  # dataclasses.MISSING where the field is required


class _Fields(dict[type, "tuple[_Field, ...]"]):
    """The fields of each record, read off its annotations when it is first used: a device uses a few of the hundred
    records, and to read all of them took a tenth of what the start of a daemon computes."""

    def __missing__(self, cls: type) -> tuple[_Field, ...]:
        fields = self[cls] = _fields_of(cls)
        return fields


class _Fillers(dict[type, "Callable[[dict[int, Any], Any], None]"]):
    """Puts the fields of a record into a map; made by `_filler` when the record is first used."""

    def __missing__(self, cls: type) -> Callable[[dict[int, Any], Any], None]:
        fill = self[cls] = _filler(_fields[cls])
        return fill


_fields = _Fields()
_fillers = _Fillers()
_records: list[type] = []
_messages: dict[int, type[Message]] = {}

C = TypeVar("C", bound=type)


@dataclass_transform(frozen_default=True)
def record(cls: C) -> C:
    """Declare a nested record."""
    declare: Callable[..., Any] = dataclass(frozen=True, slots=True)
    made: C = declare(cls)
    _records.append(made)
    return made


def _fields_of(cls: type) -> tuple[_Field, ...]:
    """Raises TypeError where the annotations are no sound declaration."""
    hints = get_type_hints(cls, include_extras=True)
    fields = []
    for field in dataclasses.fields(cls):
        key, codec = hints[field.name].__metadata__
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        fields.append(_Field(field.name, key, codec, default))
    keys = [field.key for field in fields]
    if keys != sorted(set(keys)) or TYPE_KEY in keys:
        raise TypeError(f"{cls.__name__}: wire keys must ascend and not be {TYPE_KEY}")
    return tuple(fields)


def _filler(fields: Iterable[_Field]) -> Callable[[dict[int, Any], Any], None]:
    """The function that puts the fields of one type into a map, as straight code like that which `dataclass` makes of
    them: a loop over the fields would take three times as long, and devices encode whatever they say."""
    lines = ["def fill(body, value):", "    pass"]
    names: dict[str, Any] = {}
    for number, field in enumerate(fields):
        names[f"encode{number}"], names[f"default{number}"] = field.codec.encode, field.default
        item = f"value.{field.name}" if field.codec.encode is same else f"encode{number}(value.{field.name})"
        put = f"body[{field.key}] = {item}"
        required = field.default is dataclasses.MISSING
        lines.append(f"    {put}" if required else f"    if value.{field.name} != default{number}: {put}")
    exec("\n".join(lines), names)  # noqa: S102 - of our own declarations alone
    fill: Callable[[dict[int, Any], Any], None] = names["fill"]
    return fill


@dataclass_transform(frozen_default=True)
def message(number: int, *, bulk: bool = False) -> Callable[[C], C]:
    """Declare a message type; `bulk`: a second frame of raw bytes comes with it."""

    def declare(cls: C) -> C:
        if number in _messages:
            raise TypeError(f"message type {number} is taken by {_messages[number].__name__}")
        made = record(cls)
        made.TYPE = number  # type: ignore[attr-defined]
        made.BULK = bulk  # type: ignore[attr-defined]
        _messages[number] = made
        return made

    return declare


def message_types() -> dict[int, type[Message]]:
    """All declared messages by number (for tests and the table in the docs)."""
    return dict(_messages)


def record_fields() -> dict[type, tuple[_Field, ...]]:
    """All declared records, messages among them, with their fields (for tests). Raises TypeError as declared."""
    return {cls: _fields[cls] for cls in _records}


def encode(message: Message) -> bytes:
    """The one encoding of a message. Raises WireError when it would be longer than MAX_MESSAGE_BYTES."""
    body: dict[int, Any] = {TYPE_KEY: message.TYPE}
    _fillers[type(message)](body, message)
    data = cbor2.dumps(body)
    if len(data) > MAX_MESSAGE_BYTES:
        raise WireError(f"{type(message).__name__} of {len(data)} bytes is longer than {MAX_MESSAGE_BYTES}")
    return data


def decode(data: bytes) -> Message | None:
    """The message in `data`, or None for a well-formed message of a type that this version does not know."""
    body = _strict_map(data, MAX_MESSAGE_BYTES)
    cls = _messages.get(U16.decode(body.get(TYPE_KEY)))
    if cls is None:
        return None
    value: Message = _from_map(cls, body)
    return value


def encode_record(value: Record) -> bytes:
    """A record on its own (certificates, adverts, stored rows)."""
    return cbor2.dumps(_to_map(value))


def decode_record(cls: type[T], data: bytes, *, limit: int = MAX_MESSAGE_BYTES) -> T:
    """The record of type `cls` in `data`; WireError otherwise."""
    value: T = _from_map(cls, _strict_map(data, limit))
    return value


def _refuse(*_: Any) -> NoReturn:
    raise cbor2.CBORDecodeError("tags are not part of the protocol")


_STRICT: dict[str, Any] = {
    "semantic_decoders": dict.fromkeys(_KNOWN_TAGS, _refuse),
    "tag_hook": _refuse,
    "allow_indefinite": False,
    "allow_duplicate_keys": False,
    "max_depth": MAX_DEPTH,
}


def require_bounds(loads: Callable[..., object] = cbor2.loads) -> None:
    """Raise MissingPackageError where cbor2 cannot bound what it decodes: every message would look like a bad one."""
    try:
        loads(b"\xa0", **_STRICT)
    except TypeError:
        raise MissingPackageError(
            "this cbor2 is too old: it cannot bound what strangers send", hint="install cbor2 6 or later"
        ) from None


require_bounds()


def _strict_map(data: bytes, limit: int) -> dict[Any, Any]:
    if len(data) > limit:
        raise WireError(f"{len(data)} bytes, more than {limit}")
    try:
        body = cbor2.loads(data, **_STRICT)
        # The comparison refuses trailing bytes and every second spelling of the same value.
        canonical = isinstance(body, dict) and cbor2.dumps(body) == data
    except Exception as error:  # whatever the decoder makes of hostile bytes, it is the sender's fault
        raise WireError(f"not a message: {error}") from None
    if not canonical:
        raise WireError("not in the one encoding that the protocol allows")
    return body  # type: ignore[no-any-return]


def _to_map(value: Any) -> dict[int, Any]:
    body: dict[int, Any] = {}
    _fillers[type(value)](body, value)
    return body


def _from_map(cls: type, body: Any) -> Any:
    if not isinstance(body, dict):
        raise WireError(f"{cls.__name__} is not a map")
    previous = -1
    for key in body:
        if type(key) is not int or key <= previous:
            raise WireError(f"{cls.__name__} has keys that are no ascending integers")
        previous = key
    arguments = {}
    for field in _fields[cls]:
        if field.key in body:
            try:
                arguments[field.name] = field.codec.decode(body[field.key])
            except WireError as error:
                raise WireError(f"{cls.__name__}.{field.name}: {error.cause}") from None
        elif field.default is dataclasses.MISSING:
            raise WireError(f"{cls.__name__}.{field.name} is missing")
    return cls(**arguments)


def nested(cls: type) -> Codec:
    """A record inside a message."""
    return Codec(cls.__name__, _to_map, lambda value: _from_map(cls, value))
