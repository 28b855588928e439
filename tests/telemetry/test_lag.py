"""The loop's lag: each place of the histogram, and a real loop that was held up."""

from __future__ import annotations

import asyncio
import time

from edgefl.telemetry.lag import BOUNDS_MS, LoopLag
from edgefl.telemetry.memory import memory_limit


def test_each_place_counts_up_to_its_bound() -> None:
    lag = LoopLag()
    for bound in BOUNDS_MS:
        lag.note(bound / 1000)
    lag.note(3.0)
    document = lag.document()
    assert document["counts"] == {**dict.fromkeys(map(str, BOUNDS_MS), 1), "more": 1}
    assert document["worst_ms"] == 3000.0


def test_a_handler_that_takes_long_is_seen() -> None:
    async def main() -> LoopLag:
        lag = LoopLag(period_s=0.001)
        lag.start()
        time.sleep(0.06)  # noqa: ASYNC251 - the handler that takes long
        await asyncio.sleep(0.002)
        lag.stop()
        return lag

    assert asyncio.run(main()).worst_ms > 50


def test_memory_is_known_here() -> None:
    limit = memory_limit()
    assert limit is not None
    assert limit > 0
