"""Memory shared out: never more than the defaults, never more than half of a small device."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgefl.transport import Limits, limits_for
from edgefl.transport.limits import MIN_SHARE_BYTES


@given(st.integers(64 << 20, 1 << 40))
def test_half_of_the_memory_at_the_most(memory_bytes: int) -> None:
    limits, most = limits_for(memory_bytes), Limits()
    assert limits.total_bytes <= memory_bytes // 2
    assert limits.cache_bytes <= most.cache_bytes
    assert limits.assembly_bytes <= most.assembly_bytes
    assert limits.push_bytes <= most.push_bytes


def test_a_large_device_and_one_that_does_not_tell_have_the_defaults() -> None:
    assert limits_for(None) == limits_for(4 << 30) == Limits()


def test_the_smallest_device_still_has_room_for_some_chunks() -> None:
    limits = limits_for(1)
    assert min(limits.cache_bytes, limits.assembly_bytes, limits.push_bytes) == MIN_SHARE_BYTES
