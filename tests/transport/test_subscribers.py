"""How much is on its way to a child: enough to fill a line of any length, and not more, so that others have a turn."""

from __future__ import annotations

from collections import deque

import pytest

from edgefl.transport import subscribers
from edgefl.transport.inbound import Connection
from edgefl.transport.subscribers import MIN_WINDOW_BYTES, Child
from edgefl.transport.tcp_info import Counts
from edgefl.wire.blob import CHUNK_BYTES

POLL_S = 0.005
BEGIN = 5000.0


class Line:
    """A line with a rate and a round trip; whatever waits for it waits in front of it."""

    def __init__(self, rate_bytes_s: float, rtt_s: float) -> None:
        self.rate_bytes_s = rate_bytes_s
        self.rtt_s = rtt_s
        self.acked = 0
        self._free_at = 0.0
        self._under_way: deque[tuple[float, int]] = deque()

    def push(self, size: int, now: float) -> None:
        for _ in range(0, size, 1024):
            self._free_at = max(self._free_at, now) + 1024 / self.rate_bytes_s
            self._under_way.append((self._free_at + self.rtt_s, 1024))

    def counts(self, now: float) -> Counts:
        while self._under_way and self._under_way[0][0] <= now:
            self.acked += self._under_way.popleft()[1]
        return Counts(self.acked, 0, self.rtt_s)


def drive(monkeypatch: pytest.MonkeyPatch, line: Line, seconds: float) -> tuple[Child, float, int]:
    """Push whenever there is room: the child, the rate of the second half, the most that was on its way in it."""
    now, half, most = BEGIN, 0, 0
    child = Child(Connection(0, 0.0, 0.0), 1, False, since=now)
    line.acked = 500  # the handshake
    monkeypatch.setattr(subscribers, "counts", lambda descriptor: line.counts(now))
    while now < BEGIN + seconds:
        child.look(now)
        while not child.full:
            child.push(CHUNK_BYTES, now)
            line.push(CHUNK_BYTES, now)
        if now < BEGIN + seconds / 2:
            half = line.acked
        else:
            most = max(most, child.backlog)
        now += POLL_S
    return child, (line.acked - half) / (seconds / 2), most


@pytest.mark.parametrize("rtt_s", [0.001, 0.02, 0.1, 0.2, 0.6])
@pytest.mark.parametrize("mbit", [5, 100, 400])
def test_a_line_of_any_length_is_filled(rtt_s: float, mbit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rate = mbit * 125_000.0
    child, reached, most = drive(monkeypatch, Line(rate, rtt_s), 2 + 20 * rtt_s)
    assert reached >= 0.9 * rate
    assert child.rate_bytes_s == pytest.approx(rate, rel=0.15)
    waiting = most - rate * rtt_s
    assert waiting <= max(MIN_WINDOW_BYTES, 1.2 * rate * max(0.1, rtt_s + 0.05)) + CHUNK_BYTES


def test_the_first_burst_of_acknowledgements_is_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    child = Child(Connection(0, 0.0, 0.0), 1, False, since=0.9)
    child.push(CHUNK_BYTES, 1.0)
    monkeypatch.setattr(subscribers, "counts", lambda descriptor: Counts(CHUNK_BYTES, 0, 0.001))
    child.look(1.0001)
    assert child.rate_bytes_s < CHUNK_BYTES / 0.02


def test_where_the_kernel_tells_nothing_there_is_always_room(monkeypatch: pytest.MonkeyPatch) -> None:
    child = Child(Connection(0, 0.0, 0.0), 1, False)
    monkeypatch.setattr(subscribers, "counts", lambda descriptor: None)
    child.push(100 * CHUNK_BYTES, 1.0)
    child.look(1.1)
    assert not child.full
