"""Laws of the wire: what is sent arrives, and whatever else arrives is a WireError."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from enum import IntEnum
from typing import Annotated, Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.errors import MissingPackageError, WireError
from edgefl.wire import MAX_MESSAGE_BYTES, Message, decode, decode_record, encode, encode_record, message_types
from edgefl.wire import codec as codec_module
from edgefl.wire.application import Advert, AppState, Manifest, Topology, pack_advert, unpack_advert
from edgefl.wire.codec import MAX_DEPTH, Record, message, record, record_fields, require_bounds
from edgefl.wire.contact import Capacity, Contact, Role, pack_contact, unpack_contact
from edgefl.wire.fields import BOOL, F64, U8, U64, many, raw, text
from edgefl.wire.learning import MAX_CONTRIBUTORS, Update
from edgefl.wire.overlay import Candidates, Lookup, Ping, Rows

contacts = st.builds(
    Contact,
    node_id=st.integers(0, 2**64 - 1),
    host=st.one_of(st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str)),
    port=st.integers(1, 2**16 - 1),
    zone=st.integers(0, 2**16 - 1),
    incarnation=st.integers(0, 2**32 - 1),
    capacity=st.sampled_from(Capacity),
    role=st.sampled_from(Role),
)


def values_for(codec_name: str, codec: Any) -> st.SearchStrategy[Any]:
    """A strategy for a codec, read off its name: tests stay complete when messages are added."""
    simple = {
        "u8": st.integers(0, 2**8 - 1),
        "u16": st.integers(0, 2**16 - 1),
        "u32": st.integers(0, 2**32 - 1),
        "u64": st.integers(0, 2**64 - 1),
        "f64": st.floats(allow_nan=False, allow_infinity=False),
        "bool": st.booleans(),
        "contact": contacts,
    }
    if codec_name in simple:
        return simple[codec_name]
    if codec_name.endswith("?"):
        return st.none() | values_for(codec_name[:-1], codec)
    if codec_name.startswith("[") and codec_name.endswith("]"):
        inner, _, maximum = codec_name[1:-1].rpartition(" ≤")
        return st.lists(values_for(inner, codec), max_size=min(3, int(maximum))).map(tuple)
    if codec_name.startswith("bytes["):
        bound = codec_name[6:-1]
        if bound.startswith("≤"):
            return st.binary(max_size=min(40, int(bound[1:])))
        return st.binary(min_size=int(bound), max_size=int(bound))
    if codec_name.startswith("text["):
        return st.text(st.characters(codec="utf-8"), max_size=int(codec_name[6:-1]) // 4)
    for cls in record_fields():
        if cls.__name__ == codec_name:
            return records(cls)
    for enum in IntEnum.__subclasses__():
        if enum.__name__ == codec_name:
            return st.sampled_from(enum)
    raise AssertionError(f"no strategy for {codec_name}")


def records(cls: type) -> st.SearchStrategy[Any]:
    return st.builds(cls, **{f.name: values_for(f.codec.name, f.codec) for f in record_fields()[cls]})


any_message = st.sampled_from(sorted(message_types().values(), key=lambda cls: cls.TYPE)).flatmap(records)


@given(any_message)
def test_every_message_arrives_as_it_was_sent(sent: Message) -> None:
    assert decode(encode(sent)) == sent


@given(st.binary(max_size=300))
def test_any_bytes_give_a_message_or_a_wire_error(data: bytes) -> None:
    check_decoding_is_total(data)


@given(any_message, st.data())
def test_damaged_messages_give_a_message_or_a_wire_error(sent: Message, data: st.DataObject) -> None:
    damaged = bytearray(encode(sent))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    check_decoding_is_total(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))


plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64)
    | st.floats()
    | st.binary(max_size=8)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(0, 20), inner, max_size=6),
    max_leaves=12,
)


@given(st.dictionaries(st.integers(0, 9), plain_values, max_size=6), st.sampled_from(sorted(message_types())))
def test_well_formed_maps_of_the_wrong_shape(body: dict[int, Any], number: int) -> None:
    check_decoding_is_total(cbor2.dumps(dict(sorted({**body, 0: number}.items()))))


def check_decoding_is_total(data: bytes) -> None:
    try:
        received = decode(data)
    except WireError:
        return
    if received is not None:
        again = decode(encode(received))
        assert again == received


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "not a message"),
        (cbor2.dumps([1]), "one encoding"),
        (cbor2.dumps({0: 13, 1: 7}) + b"\x00", "one encoding"),
        (b"\xa2\x00\x0d\x01\x18\x07", "one encoding"),  # 7 spelled in two bytes
        (b"\xa2\x00\x0d\x01\xc2\x41\x07", "tag"),  # 7 as a big number
        (b"\xbf\x00\x0d\x01\x07\xff", "indefinite"),
        (b"\xa3\x00\x0d\x01\x07\x01\x08", "uplicate"),
        (cbor2.dumps({1: 7, 0: 13}), "ascending"),
        (cbor2.dumps({0: 13, "1": 7}), "ascending"),
        (cbor2.dumps({0: 13}), "Ping.request is missing"),
        (cbor2.dumps({0: 13, 1: -1}), "Ping.request: not an unsigned integer of 32 bits"),
        (cbor2.dumps({0: 13, 1: True}), "not an unsigned integer"),
        (cbor2.dumps({0: 13, 1: 2**32}), "not an unsigned integer"),
        (cbor2.dumps({1: 7}), "not an unsigned integer of 16 bits"),
        (b"\x81" * 2000, "depth"),
        (b"\x00" * (MAX_MESSAGE_BYTES + 1), "more than"),
    ],
)
def test_refusals_say_why(data: bytes, complaint: str) -> None:
    with pytest.raises(WireError, match=complaint):
        decode(data)


def test_a_type_from_a_later_version_is_not_an_error() -> None:
    assert decode(cbor2.dumps({0: 60_000, 1: 1})) is None


def test_a_key_from_a_later_version_is_ignored() -> None:
    assert decode(cbor2.dumps({0: 13, 1: 7, 200: "later"})) == Ping(7)


def test_a_field_with_its_default_is_left_out() -> None:
    assert encode(Lookup()) == cbor2.dumps({0: Lookup.TYPE})


def test_a_message_that_would_be_too_long_is_refused_where_it_is_made() -> None:
    with pytest.raises(WireError, match="longer than"):
        encode(Update(1, 1, 1, 1, contributors=tuple(range(2**60, 2**60 + 2 * MAX_CONTRIBUTORS))))


def test_the_largest_legitimate_update_fits() -> None:
    update = Update(1, 1, 1, 1, contributors=tuple(range(2**64 - MAX_CONTRIBUTORS, 2**64)))
    assert len(encode(update)) < MAX_MESSAGE_BYTES


@pytest.mark.parametrize("cls", sorted(message_types().values(), key=lambda cls: cls.TYPE))
def test_declared_bounds_hold(cls: type[Message]) -> None:
    """A list one longer, or a byte string one longer, than declared is refused."""
    for field in record_fields()[cls]:
        name = field.codec.name
        if name.startswith("["):
            oversized: Any = [0] * (int(name[1:-1].rpartition("≤")[2]) + 1)
        elif name.startswith("bytes[≤"):
            oversized = bytes(int(name[7:-1]) + 1)
        else:
            continue
        with pytest.raises(WireError):
            field.codec.decode(oversized)


def test_two_messages_cannot_share_a_number() -> None:
    with pytest.raises(TypeError, match="is taken by Ping"):

        @message(13)
        class Other(Message):
            pass


@pytest.mark.parametrize("keys", [(1, 1), (2, 1), (0, 1)])
def test_wire_keys_must_ascend_and_leave_zero_to_the_type(
    keys: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec_module, "_records", [])
    first, second = keys
    fields = {"a": Annotated[int, first, U8], "b": Annotated[int, second, U8]}
    record(type("Bad", (Record,), {"__annotations__": fields}))
    with pytest.raises(TypeError, match="ascend"):
        record_fields()


@pytest.mark.parametrize(
    ("decode_value", "bad"),
    [
        (F64.decode, 1),
        (F64.decode, float("nan")),
        (F64.decode, float("inf")),
        (BOOL.decode, 1),
        (text(4).decode, "ééé"),
        (text(4).decode, b"abc"),
        (raw(2).decode, "ab"),
        (raw(2, exactly=True).decode, b"a"),
        (many(U64, 2).decode, (1, 2)),
        (unpack_contact, b"\x00" * 20),
        (unpack_contact, b"\x00" * 21),  # port 0
        (unpack_contact, b"\x00" * 14 + b"\xff" + b"\x00\x01" + b"\x00" * 4),  # unknown kind
        (unpack_contact, 7),
    ],
)
def test_values_outside_their_declaration(decode_value: Callable[[Any], Any], bad: Any) -> None:
    with pytest.raises(WireError):
        decode_value(bad)


def test_nesting_has_room_for_the_deepest_message() -> None:
    assert MAX_DEPTH >= 5
    contact = Contact(1, "127.0.0.1", 1)
    assert decode(encode(Rows(1, True, (contact,)))) == Rows(1, True, (contact,))


@given(contacts)
def test_a_contact_is_small_and_round(contact: Contact) -> None:
    packed = pack_contact(contact)
    assert len(packed) in (21, 33)
    assert unpack_contact(packed) == contact


def test_records_travel_alone_too() -> None:
    contact = Contact(1, "10.0.0.1", 4000)
    manifest = Manifest("digits", bytes(32), bytes(16), (), "digits", 10, 3)
    advert = Advert(encode_record(manifest), 1, AppState.RUNNING, bytes(64), contact)
    assert unpack_advert(pack_advert(advert)) == advert
    assert advert.decode_manifest() == manifest
    assert manifest.topology is Topology.FOREST
    with pytest.raises(WireError):
        decode_record(Manifest, b"\xa0")


def test_the_application_id_depends_on_name_owner_and_salt_alone() -> None:
    base = Manifest("digits", bytes(32), bytes(16), (), "digits", 10, 3)
    same = dataclasses.replace(base, rounds=99, data="other")
    others = [
        dataclasses.replace(base, name="digit"),
        dataclasses.replace(base, owner=b"\x01" * 32),
        dataclasses.replace(base, salt=b"\x01" * 16),
    ]
    assert same.app_id == base.app_id
    assert len({base.app_id, *[other.app_id for other in others]}) == 4


def test_candidates_fit_in_one_message() -> None:
    contact = Contact(2**64 - 1, "ffff::ffff", 65535, 65535, 2**32 - 1)
    assert len(encode(Candidates(2**64 - 1, (contact,) * 24, 1000))) < 1000


def test_a_decoder_without_bounds_is_refused_at_once() -> None:
    """Debian 12's cbor2 (5.4) knows none of the options, and would make every message a bad one."""

    def loads(data: bytes, tag_hook: object = None, object_hook: object = None) -> object:
        return {}

    with pytest.raises(MissingPackageError, match="cbor2 is too old"):
        require_bounds(loads)
    require_bounds()
