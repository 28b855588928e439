"""Shares: each peer spends its own, window by window."""

from __future__ import annotations

from edgefl.overlay.quota import MAX_SPENDERS, Quota


def test_a_share_per_window() -> None:
    quota = Quota(share=10, window_s=5)
    assert sum(quota.spend(1, 1, 0.0) for _ in range(20)) == 10
    assert not quota.spend(1, 1, 4.9)
    assert sum(quota.spend(1, 1, 5.0) for _ in range(20)) == 10


def test_nobody_spends_for_others() -> None:
    quota = Quota(share=5, window_s=1)
    while quota.spend(1, 1, 0.0):
        pass
    assert quota.spend(2, 5, 0.0)


def test_what_is_refused_costs_nothing() -> None:
    quota = Quota(share=5, window_s=1)
    assert not quota.spend(1, 6, 0.0)
    assert quota.spend(1, 5, 0.0)


def test_what_is_remembered_is_bounded_and_those_counted_already_go_on() -> None:
    quota = Quota(share=5, window_s=1)
    assert [quota.spend(peer, 1, 0.0) for peer in range(MAX_SPENDERS + 1)].count(False) == 1
    assert quota.spend(7, 1, 0.5)
    assert len(quota) == MAX_SPENDERS
    assert quota.spend(MAX_SPENDERS, 1, 1.0)
    assert len(quota) == 1
