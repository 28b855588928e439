"""Node ids, keys and the two metrics on them: XOR for routing, the circle for leaf sets.

Ids and keys are 64 unsigned bits. A routing step fixes one digit of b = 3 bits, so there are 22 rows of eight slots;
the last row holds the one bit that is left. Other profiles (profile.py) have digits of 2 or 4 bits; devices of all
kinds meet in one ring, because on the wire a row is named by the length of its prefix in bits. Keys of things that are
not devices are BLAKE2b hashes, told apart by their personalisation, so that no key of one kind can be chosen to hit one
of another kind.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

ID_BITS = 64
ID_SPACE = 1 << ID_BITS
DIGIT_BITS = 3
"""b: 3.3 hops at 10^3 nodes and 6.2 at 10^6 with 69 contacts; b = 2 saves 15 contacts for 1.2 hops (overlay.md 1.1)."""

DIGITS = 1 << DIGIT_BITS
KEYS = 256
"""Keys of zones that are remembered: they are asked for all the time, and a device meets a few dozen zones."""

ROWS = -(-ID_BITS // DIGIT_BITS)


def rows_of(digit_bits: int) -> int:
    """Rows of a table with digits of so many bits."""
    return -(-ID_BITS // digit_bits)


def digit(node_id: int, row: int, digit_bits: int = DIGIT_BITS) -> int:
    """The digit of an id that routing row `row` is about, the most significant first; the last one may be padded."""
    below = ID_BITS - (row + 1) * digit_bits
    shifted = node_id >> below if below >= 0 else node_id << -below
    return shifted & ((1 << digit_bits) - 1)


def shared_bits(a: int, b: int) -> int:
    """Leading bits that two ids have in common: 64 if they are equal."""
    return ID_BITS - (a ^ b).bit_length()


def shared_digits(a: int, b: int, digit_bits: int = DIGIT_BITS) -> int:
    """Leading digits that two ids have in common: the row that one occupies in the other's table. All if equal."""
    return rows_of(digit_bits) if a == b else shared_bits(a, b) // digit_bits


def clockwise(start: int, end: int) -> int:
    """Steps from `start` to `end` in the direction of growing ids."""
    return (end - start) % ID_SPACE


def _hash64(person: bytes, data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, person=person).digest(), "big")


def zone_of_site(site: str) -> int:
    """The 16-bit zone of an operator's site name; 0, the zone of those without a site, for the empty name."""
    if not site:
        return 0
    return _hash64(b"edgefl site", site.encode()) % 0xFFFF + 1


@lru_cache(maxsize=KEYS)
def zone_key(zone: int) -> int:
    """Where the devices of a zone find each other: the pseudo-application that every joined member is tracked under."""
    return _hash64(b"edgefl zone", zone.to_bytes(2, "big"))


@lru_cache(maxsize=KEYS)
def volunteers_key(zone: int) -> int:
    """Where a zone's volunteers (volunteers.py) are registered."""
    return _hash64(b"edgefl helpers", zone.to_bytes(2, "big"))


@lru_cache(maxsize=KEYS)
def site_key(zone: int) -> int:
    """Where the devices of a site add up what they carry over its uplink (game/site.py)."""
    return _hash64(b"edgefl uplink", zone.to_bytes(2, "big"))


@lru_cache(maxsize=KEYS)
def directory_key(zone: int | None = None) -> int:
    """Where applications are advertised: the fleet's key, or that of one zone."""
    return _hash64(b"edgefl directory", b"" if zone is None else zone.to_bytes(2, "big"))
