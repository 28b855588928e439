"""What is found on the local network: when it is looked for, and that no record can do harm."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.daemon.neighbourhood import (
    MAX_ADDRESSES,
    Neighbour,
    allowed,
    doors_of,
    is_private,
    read_record,
    short_fleet,
    texts,
)

OURS, THEIRS = bytes(32), bytes([1]) * 32
LAN = "192.168.1.7"


def record(node_id: int = 7, key: bytes = OURS, **changes: bytes | None) -> dict[bytes, bytes | None]:
    own: dict[bytes, bytes | None] = {name.encode(): value.encode() for name, value in texts(node_id, key).items()}
    return {**own, **{name.encode(): value for name, value in changes.items()}}


def neighbour(node_id: int, fleet: bytes = OURS) -> Neighbour:
    return Neighbour(LAN, 7321, node_id, short_fleet(fleet))


@pytest.mark.parametrize(
    ("host", "private"),
    [
        ("10.1.2.3", True),
        ("172.16.0.1", True),
        ("172.32.0.1", False),
        ("192.168.255.1", True),
        ("169.254.7.7", True),
        ("fd12::1", True),
        ("fe80::1", True),
        ("127.0.0.1", False),
        ("100.64.0.1", False),
        ("203.0.113.7", False),
        ("2001:db8::1", False),
        ("nonsense", False),
        (None, False),
    ],
)
def test_private_networks_are_those_of_the_three_standards(host: str | None, private: bool) -> None:
    assert is_private(host) is private
    assert (allowed("auto", host), allowed("on", host), allowed("off", host)) == (private, True, False)


def test_our_own_record_is_read_as_it_was_written_and_tells_no_more_than_needed() -> None:
    assert read_record(record(), [LAN], 7321, anywhere=False) == neighbour(7)
    assert set(texts(7, OURS)) == {"v", "id", "fleet"}
    assert len(short_fleet(OURS).replace(":", "")) == 8


@pytest.mark.parametrize(
    "wrong",
    [
        {"v": b"2"},
        {"v": None},
        {"id": b"7"},
        {"id": b"000000000000000G"},
        {"id": None},
        {"fleet": b""},
        {"fleet": b"0011:2233:4455"},
        {"fleet": "äöü".encode()},
    ],
)
def test_records_of_others_are_not_read(wrong: dict[str, bytes | None]) -> None:
    assert read_record(record(**wrong), [LAN], 7321, anywhere=False) is None


def test_nobody_makes_us_knock_elsewhere() -> None:
    for public in ("203.0.113.7", "127.0.0.1", "no address", ""):
        assert read_record(record(), [public], 7321, anywhere=False) is None
    assert read_record(record(), ["203.0.113.7", f"{LAN}%eth0"], 7321, anywhere=False) == neighbour(7)
    assert read_record(record(), ["203.0.113.7"] * MAX_ADDRESSES + [LAN], 7321, anywhere=False) is None
    assert read_record(record(), ["127.0.0.1"], 7321, anywhere=True) is not None
    for port in (None, 0, 65536, -1):
        assert read_record(record(), [LAN], port, anywhere=False) is None


def test_a_member_goes_to_its_fleet_and_a_stranger_to_the_only_one() -> None:
    found = [neighbour(1), neighbour(2), neighbour(3, THEIRS)]
    assert doors_of(found, 1, OURS) == ([neighbour(2)], {short_fleet(OURS), short_fleet(THEIRS)})
    assert doors_of(found, 9, None)[0] == [], "several fleets: it is not ours to choose"
    assert doors_of(found[:2], 9, None)[0] == found[:2]
    assert doors_of([], 9, None) == ([], frozenset())


KEYS = st.one_of(st.sampled_from([b"v", b"id", b"fleet"]), st.binary(max_size=8))
VALUES = st.one_of(
    st.none(), st.binary(max_size=300), st.sampled_from([b"1", b"0" * 16, b"0000:0000", b"f" * 16 + b"\n"])
)
ADDRESSES = st.one_of(st.text(max_size=60), st.ip_addresses().map(str), st.just(LAN))


@given(
    st.dictionaries(KEYS, VALUES, max_size=6), st.lists(ADDRESSES, max_size=8), st.none() | st.integers(), st.booleans()
)
def test_whatever_a_record_holds_it_is_one_of_ours_or_none(
    properties: dict[bytes, bytes | None], addresses: list[str], port: int | None, anywhere: bool
) -> None:
    found = read_record(properties, addresses, port, anywhere=anywhere)
    if found is not None:
        assert anywhere or is_private(found.host)
        ipaddress.ip_address(found.host)
        assert 1 <= found.port <= 65535
        assert 0 <= found.node_id < 1 << 64
        assert len(found.fleet) == 9


@given(st.integers(0, (1 << 64) - 1), st.binary(min_size=32, max_size=32), st.integers(1, 65535))
def test_every_device_can_be_found(node_id: int, fleet: bytes, port: int) -> None:
    assert read_record(record(node_id, fleet), [LAN], port, anywhere=False) == Neighbour(
        LAN, port, node_id, short_fleet(fleet)
    )
