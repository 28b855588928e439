"""What `edgefl status` says about what the device may give, for people."""

from __future__ import annotations

from typing import Any

import pytest

from edgefl.cli.status import role_line, training_line, transfer_line

FREE: dict[str, Any] = {"paused": None, "training": None, "waiting": [], "cpu": 1.0, "transfer": None}


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({}, None),
        ({"training": "digits"}, "digits"),
        ({"training": "digits", "waiting": ["speech", "birds"]}, "digits; waiting: speech, birds"),
        ({"paused": {"why": "it is hot", "for_s": 61.2}}, "paused for 61 s: it is hot"),
        ({"paused": {"why": "it is hot", "for_s": 0.0}, "waiting": ["a"]}, "paused for 0 s: it is hot; waiting: a"),
    ],
)
def test_training(limits: dict[str, Any], says: str | None) -> None:
    assert training_line({**FREE, **limits}) == says


def test_transfer() -> None:
    transfer = {"used_bytes": 1_234_567_890, "limit_bytes": 10 * 2**30, "period": "month", "spent": False}
    assert transfer_line(transfer) == "1,234.6 of 10,737.4 MB this month"


def test_a_leaf_says_why() -> None:
    assert role_line({"role": "node", "limits": FREE}) == "node"
    assert "nobody reaches it" in role_line({"role": "leaf", "limits": FREE})
    assert (
        role_line({"role": "leaf", "limits": {**FREE, "transfer": {"spent": True}}}) == "leaf (its transfer is used up)"
    )
