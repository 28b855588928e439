"""One budget of bytes for all applications of a device: what it has sent and received in this day or month.

Counted across restarts, with few writes (SD cards wear): on disk is always a count that has not been reached yet, a
hundredth of the budget ahead. A crash costs at most that hundredth; it never gives anything away.

The period is the device's own calendar. A clock that was not set yet (before FIRST_YEAR) begins no new period, and one
that goes back takes the count along.
"""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import date

from edgefl.limits import Quota

FIRST_YEAR = 2025
"""A clock that shows less was not set: devices without a battery for it begin in 1970, or when their image was made."""

PARTS = 100


class Allowance:
    """`used_bytes` of the quota in the period that is named by `period` ("2026-11" or "2026-11-26")."""

    def __init__(self, quota: Quota, kept: bytes | None) -> None:
        """`kept`: what `record` gave when it was last written. What cannot be read counts as nothing."""
        self.quota = quota
        self.period = ""
        self.used_bytes = 0
        self._counted = 0
        self._reserved = 0
        with suppress(ValueError, TypeError, KeyError, OverflowError):
            document = json.loads(kept or b"")
            self.period, self.used_bytes = str(document["period"]), max(0, int(document["used"]))
        self._reserved = self.used_bytes

    @property
    def spent(self) -> bool:
        return self.used_bytes >= self.quota.size_bytes

    def count(self, total_bytes: int, today: date) -> bool:
        """All that was sent and received since the process began. True when `record` has to be written now."""
        current = _name(today, self.quota.period)
        changed = current != self.period and today.year >= FIRST_YEAR
        if changed:
            if current > self.period and len(current) == len(self.period):
                self.used_bytes = 0
            self.period = current
        self.used_bytes += max(0, total_bytes - self._counted)
        self._counted = total_bytes
        if not changed and self.used_bytes < self._reserved:
            return False
        self._reserved = self.used_bytes + max(1, self.quota.size_bytes // PARTS)
        return True

    def record(self, *, exact: bool = False) -> bytes:
        """What to write: ahead of the count, or `exact` when the process ends in good order."""
        return json.dumps({"period": self.period, "used": self.used_bytes if exact else self._reserved}).encode()


def _name(day: date, period: str) -> str:
    return day.isoformat()[: 7 if period == "month" else 10]
