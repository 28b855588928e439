"""Ids, digits and keys."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgefl.overlay.ids import (
    DIGIT_BITS,
    DIGITS,
    ID_BITS,
    ROWS,
    clockwise,
    digit,
    directory_key,
    shared_digits,
    zone_key,
    zone_of_site,
)

ids = st.integers(0, 2**64 - 1)


def test_digits_are_read_from_the_top() -> None:
    assert ROWS == 22
    assert [digit(0b101_010 << 58, row) for row in (0, 1, 2)] == [5, 2, 0]
    assert digit(1, ROWS - 1) == 4  # the last bit, padded to a digit


@given(ids)
def test_an_id_is_its_digits(node_id: int) -> None:
    value = 0
    for row in range(ROWS):
        value = value << DIGIT_BITS | digit(node_id, row)
    assert value >> (ROWS * DIGIT_BITS - ID_BITS) == node_id
    assert all(0 <= digit(node_id, row) < DIGITS for row in range(ROWS))


@given(ids, ids)
def test_shared_digits_are_the_common_prefix(a: int, b: int) -> None:
    common = 0
    while common < ROWS and digit(a, common) == digit(b, common):
        common += 1
    assert shared_digits(a, b) == common


@given(ids, ids)
def test_the_circle_closes(a: int, b: int) -> None:
    assert (clockwise(a, b) + clockwise(b, a)) % 2**64 == 0
    assert (a + clockwise(a, b)) % 2**64 == b


def test_keys_of_different_kinds_and_zones_differ() -> None:
    keys = [directory_key(), *(directory_key(zone) for zone in range(50)), *(zone_key(zone) for zone in range(50))]
    assert len(set(keys)) == len(keys)


def test_no_site_is_zone_zero_and_no_site_name_is() -> None:
    assert zone_of_site("") == 0
    assert all(0 < zone_of_site(f"site {n}") < 2**16 for n in range(1000))
    assert zone_of_site("Zürich") == zone_of_site("Zürich")
