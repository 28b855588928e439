"""Tests with real processes: every wait in them has a deadline of its own, and says what it waited for."""

from __future__ import annotations

import pytest

HANG_S = 300
"""Several waits of 60 s, one after the other. The limit of a whole test is only for what hangs without waiting: it must
not come first, or nobody learns what was waited for."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("e2e") is not None:
            item.add_marker(pytest.mark.timeout(HANG_S))
