"""Tests with real processes: every wait in them has a deadline of its own, and says what it waited for."""

from __future__ import annotations

import pytest

HANG_S = 900
"""A wait lasts for 60 s of the machine's time for us (support/own_time.py), which is more by the clock where other work
takes the processors. This is only for what hangs without waiting; it must not come first, or nobody learns for what."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("e2e") is not None:
            item.add_marker(pytest.mark.timeout(HANG_S))
