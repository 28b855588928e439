"""Token buckets: so many at once, so many in the long run, for each asker and for all."""

from __future__ import annotations

from edgefl.transport.rate import MAX_BUCKETS, RateLimit


def test_a_burst_then_the_rate() -> None:
    limit = RateLimit(rate_s=2.0, burst=3.0, overall=10.0)
    assert [limit.allow("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert limit.allow("b", 0.0), "others have their own"
    assert not limit.allow("a", 0.4)
    assert limit.allow("a", 0.5)
    assert [limit.allow("a", 100.0) for _ in range(4)] == [True, True, True, False], "never more than the burst"


def test_all_together_have_a_limit_too() -> None:
    limit = RateLimit(rate_s=1.0, burst=2.0, overall=2.0)
    assert [limit.allow(str(asker), 0.0) for asker in range(6)] == [True] * 4 + [False] * 2
    assert limit.allow("late", 0.5)


def test_the_memory_of_askers_is_bounded() -> None:
    limit = RateLimit(rate_s=1.0, burst=1.0, overall=1e9)
    for asker in range(3 * MAX_BUCKETS):
        limit.allow(str(asker), 0.0)
    assert len(limit._buckets) == MAX_BUCKETS
