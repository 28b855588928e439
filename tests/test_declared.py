"""A class of `declared.dataclass` is what the standard `dataclass` makes, before and after its methods are written."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Annotated, Any, ClassVar

import pytest

from edgefl import declared
from edgefl.wire.codec import Record, message_types, record
from edgefl.wire.fields import U8, U16

BOTH = pytest.mark.parametrize("dataclass", [dataclasses.dataclass, declared.dataclass], ids=["standard", "declared"])
"""What is said of one holds for the other."""

Declare = Callable[..., Callable[[type[Any]], type[Any]]]


@record
class Place(Record):
    """Where."""

    row: Annotated[int, 1, U8]
    column: Annotated[int, 2, U16] = 7


@dataclasses.dataclass(frozen=True, slots=True)
class Usual(Record):
    row: Annotated[int, 1, U8]
    column: Annotated[int, 2, U16] = 7


@declared.dataclass(frozen=True, slots=True)
class Kept:
    """At the top of the module, where another process finds it."""

    number: int
    texts: tuple[str, ...] = ()


def late() -> type[Any]:
    return declared.dataclass(frozen=True, slots=True)(type("Late", (), {"__annotations__": {"row": "int"}}))


def test_a_constructor_is_written_when_it_is_worth_it_and_only_once() -> None:
    made = late()
    before = vars(made)["__init__"]
    few = [made(number) for number in range(declared.WORTH_WRITING - 1)]
    assert vars(made)["__init__"] is before
    assert made(row=4).row == 4
    written = vars(made)["__init__"]
    assert written is not before
    assert [one.row for one in few] == list(range(len(few)))
    assert made(row=5).row == 5
    assert vars(made)["__init__"] is written


@pytest.mark.parametrize("name", ["__repr__", "__eq__", "__hash__"])
def test_any_other_method_is_written_when_it_is_called(name: str) -> None:
    made = late()
    one, other = made(1), made(1)
    before = vars(made)[name]
    assert {"__repr__": lambda: "row=1" in repr(one), "__eq__": lambda: one == other, "__hash__": lambda: {one}}[name]()
    assert vars(made)[name] is not before
    assert one == other
    assert hash(one) == hash(other)
    assert repr(one) == repr(other)


@BOTH
def test_constructors_take_the_same_arguments(dataclass: Declare) -> None:
    @dataclass(slots=True, kw_only=False)
    class Many:
        first: int
        texts: list[str] = dataclasses.field(default_factory=list)
        doubled: int = dataclasses.field(init=False, default=0)
        last: int = dataclasses.field(default=3, kw_only=True)

        def __post_init__(self) -> None:
            self.doubled = 2 * self.first

    for _ in range(declared.WORTH_WRITING + 1):
        many = Many(1)
        assert dataclasses.astuple(many) == (1, [], 2, 3)
        assert many.texts is not Many(1).texts
        assert dataclasses.astuple(Many(1, ["x"], last=4)) == (1, ["x"], 2, 4)
    for wrong in ((), (1, [], 5), (1, [], 5, 6)):
        with pytest.raises(TypeError, match="__init__"):
            Many(*wrong)
    for named in ({"doubled": 5}, {"other": 1}, {"first": 2}):
        with pytest.raises(TypeError, match=next(iter(named))):
            Many(1, **named)
    with pytest.raises(TypeError, match="unhashable"):
        hash(many)
    many.first = 5
    assert many != Many(1)


@BOTH
def test_what_is_wrong_is_said_from_the_first_instance_on(dataclass: Declare) -> None:
    for wrong, named, words in (
        ((), {}, "missing 1 required positional argument: 'row'"),
        ((1,), {"row": 2}, "multiple values for argument 'row'"),
        ((1,), {"extra": 2}, "unexpected keyword argument 'extra'"),
        ((1, 2), {}, "takes 2 positional arguments but 3 were given"),
    ):
        made = dataclass(frozen=True, slots=True)(type("Late", (), {"__annotations__": {"row": "int"}}))
        for _ in range(2):
            with pytest.raises(TypeError, match=words):
                made(*wrong, **named)


@BOTH
def test_a_class_keeps_its_own_methods_and_those_of_its_base(dataclass: Declare) -> None:
    @dataclass(frozen=True, slots=True)
    class Base:
        name: str

        def __repr__(self) -> str:
            return f"<{self.name}>"

        def __hash__(self) -> int:
            return 7

    @dataclass(frozen=True, slots=True, eq=False)
    class Derived(Base):
        size: int = 2

    class Plain(Base):
        pass

    assert (repr(Base("a")), hash(Base("a"))) == ("<a>", 7)
    assert Base("a") == Base("a") != Base("b")
    assert dataclasses.astuple(Derived("a")) == ("a", 2)
    assert Base("a") != Derived("a")
    assert Plain("a") == Plain("a") != Base("a")
    assert "size=2" in repr(Derived("a"))


def test_what_has_no_text_is_given_none() -> None:
    assert late().__doc__ is None


@BOTH
def test_a_class_is_a_dataclass_to_others(dataclass: Declare) -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Base:
        count: ClassVar[int] = 5
        name: str
        size: int = dataclasses.field(default=2, repr=False)

    @dataclass(frozen=True, slots=True)
    class Derived(Base):
        place: tuple[int, ...] = ()

    assert dataclasses.is_dataclass(Derived)
    assert [field.name for field in dataclasses.fields(Derived)] == ["name", "size", "place"]
    assert [field.type for field in dataclasses.fields(Derived)] == ["str", "int", "tuple[int, ...]"]
    assert (Base.__match_args__, Derived.__match_args__) == ((), ("place",))
    one = Derived((1,), name="a")
    match one:
        case Derived(place):
            assert place == (1,)
    assert dataclasses.replace(one, size=3) == Derived((1,), name="a", size=3) != one
    assert repr(one).endswith("Derived(name='a', place=(1,))")
    assert Derived.__slots__[-1] == "place"
    assert Derived.count == 5
    assert not hasattr(one, "__dict__")
    with pytest.raises(TypeError, match="name"):
        Derived((1,))


@BOTH
def test_without_eq_an_instance_is_itself_alone(dataclass: Declare) -> None:
    @dataclass(slots=True, eq=False)
    class Single:
        name: str

    one = Single("a")
    assert one != Single("a")
    assert {one: 1}[one] == 1


def test_instances_are_copied_and_travel_to_other_processes() -> None:
    kept = Kept(3, ("a",))
    assert copy.deepcopy(kept) == kept
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(repr, kept).result() == repr(kept)
        assert pool.submit(dataclasses.replace, kept, number=4).result() == Kept(4, ("a",))


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


def test_what_dataclasses_keeps_is_made_when_it_is_asked_for() -> None:
    made = late()
    made(1)
    assert not isinstance(vars(made)["__dataclass_fields__"], dict)
    assert dataclasses.fields(made)[0].name == "row"
    assert isinstance(vars(made)["__dataclass_fields__"], dict)


def test_nothing_of_an_instance_can_be_changed() -> None:
    place = Place(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        place.row = 2  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        del place.row  # type: ignore[misc]
    assert place == Place(1)


def test_every_message_has_the_constructor_that_its_fields_say() -> None:
    for cls in message_types().values():
        required = [field.name for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING]  # type: ignore[arg-type]
        if required:
            with pytest.raises(TypeError, match=required[0]):
                cls()
        else:
            assert cls() == cls()
