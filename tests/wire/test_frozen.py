"""A class of `frozen` is what `dataclass(frozen=True, slots=True)` makes, before and after its first instance."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated

import pytest

from edgefl.wire.codec import Record, message_types, record
from edgefl.wire.fields import U8, U16
from edgefl.wire.frozen import frozen


@record
class Place(Record):
    """Where."""

    row: Annotated[int, 1, U8]
    column: Annotated[int, 2, U16] = 7


@dataclass(frozen=True, slots=True)
class Usual(Record):
    row: Annotated[int, 1, U8]
    column: Annotated[int, 2, U16] = 7


def test_methods_are_written_when_the_first_instance_is_made_and_only_once() -> None:
    made = frozen(type("Late", (), {"__annotations__": {"row": "int"}}))
    before = vars(made)["__init__"]
    assert made(3).row == 3
    written = vars(made)["__init__"]
    assert written is not before
    assert made(row=4).row == 4
    assert vars(made)["__init__"] is written


def test_it_behaves_as_a_frozen_dataclass() -> None:
    place, usual = Place(1), Usual(1)
    assert repr(place) == repr(usual).replace("Usual", "Place")
    assert hash(place) == hash(usual) == hash(Place(1, 7))
    assert place == Place(1, 7) != Place(1, 8)
    assert place != usual
    assert dataclasses.replace(place, row=2) == Place(2)
    assert dataclasses.asdict(place) == {"row": 1, "column": 7}
    assert not hasattr(place, "__dict__")
    assert Place.__doc__ == "Where."
    assert Place.__match_args__ == Usual.__match_args__


def test_nothing_of_an_instance_can_be_changed() -> None:
    place = Place(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        place.row = 2  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        del place.row  # type: ignore[misc]
    assert place == Place(1)


def test_what_is_missing_or_too_much_is_refused_from_the_first_on() -> None:
    for _ in range(2):
        made = frozen(type("Late", (), {"__annotations__": {"row": "int"}}))
        with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'row'"):
            made()
        with pytest.raises(TypeError, match="unexpected keyword argument 'extra'"):
            made(1, extra=2)


def test_every_message_has_the_constructor_that_its_fields_say() -> None:
    for cls in message_types().values():
        required = [field.name for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING]  # type: ignore[arg-type]
        if required:
            with pytest.raises(TypeError, match=required[0]):
                cls()
        else:
            assert cls() == cls()
