"""Token buckets: each peer spends its own."""

from __future__ import annotations

from edgefl.overlay.quota import MAX_BUCKETS, Quota


def test_a_burst_then_a_trickle() -> None:
    quota = Quota(rate=2, burst=10)
    assert sum(quota.spend(1, 1, 0.0) for _ in range(20)) == 10
    assert sum(quota.spend(1, 1, 1.0) for _ in range(20)) == 2
    assert sum(quota.spend(1, 1, 1000.0) for _ in range(20)) == 10


def test_nobody_spends_for_others() -> None:
    quota = Quota(rate=1, burst=5)
    while quota.spend(1, 1, 0.0):
        pass
    assert quota.spend(2, 5, 0.0)


def test_what_is_refused_costs_nothing() -> None:
    quota = Quota(rate=1, burst=5)
    assert not quota.spend(1, 6, 0.0)
    assert quota.spend(1, 5, 0.0)


def test_buckets_are_bounded() -> None:
    quota = Quota(rate=1, burst=5)
    for peer in range(2 * MAX_BUCKETS):
        quota.spend(peer, 5, 0.0)
    assert len(quota) == MAX_BUCKETS
    assert quota.spend(0, 5, 0.0)  # forgotten: a full bucket again
