"""Everything large that leaves this device takes its turn here: a fair queue, a rate, and a measure.

Flows (one application's pushes, one asker's chunks, one update on its way up) are served by deficit round robin
(Shreedhar and Varghese 1995): each in turn may send one chunk's worth per link, so an application gets its share
however large its model is and however many chunks it has waiting. Little is handed to ZeroMQ at a time (broadcast.py,
serve.py), so the order is still ours to choose, and control messages, which do not come by here, find short queues.

The device may have been told a rate for its uplink (`[limits] uplink`): a token bucket over all copies of all chunks.
What the uplink delivers while something is under way is measured: the serving rate.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Protocol

from edgefl.wire.blob import CHUNK_BYTES

TURN_CHUNKS = 8
"""Chunks sent before the loop gets its turn: 0.5 ms here, 5 ms to a dozen children on a small device."""

BURST_S = 0.02
"""How much of its rate an idle uplink may save up: a burst this long adds as much to the delay of others' packets."""

FIRST_LOOK_S = 0.002
"""Look whether there is room this soon on a fast line, and until it is known how fast the chunks go."""

SAMPLE_S = 0.5
"""Time with something under way that makes one sample of the serving rate: long against a round trip, and against the
jump of acknowledgements when what was lost has been sent again."""

HALF_LIFE_S = 5.0
"""Of the serving rate's smoothing, in seconds with something under way, where a sample shows less than was known, and
more was waiting for several peers: a few rounds of a small model."""

RISE_HALF_LIFE_S = 2.0
"""Where a sample shows more: a line can do what it has done. A device that was busy with other work has delivered
little meanwhile, and serves nobody afterwards: its own update, a second or two a round, has to tell."""

IDLE_HALF_LIFE_S = 40.0
"""Where a sample shows less and that may not be our line's doing: it went to one peer alone, whose line or processor it
may be, or nothing more was waiting: a relay sends what comes from above, chunk by chunk, and a parent asks for an
update in parts. With a fleet of twelve on shaped links (tools/game_fleet.py), what devices said of themselves was
wrong by factors of 0.5 to 4 when these samples counted as much as others."""


class Flow(Protocol):
    """Something that has chunks to send. It is added when it has one, and leaves by itself when it has none."""

    deficit: int

    @property
    def waiting(self) -> bool:
        """Whether it has something to send at all."""
        ...

    def send_next(self) -> tuple[int, int]:
        """Send one chunk: (bytes on each link, bytes in all). (0, 0) when there is no room for it now."""
        ...


class Bucket:
    """Tokens in bytes. One chunk may be taken while there are any; the debt is waited for."""

    def __init__(self, rate_bytes_s: float, now: float) -> None:
        self.rate_bytes_s = rate_bytes_s
        self._tokens = 0.0
        self._filled_at = now

    def wait_s(self, now: float) -> float:
        """How long until something may be sent; 0 if it may be now, and always without a rate."""
        if not self.rate_bytes_s:
            return 0.0
        grown = self._tokens + (now - self._filled_at) * self.rate_bytes_s
        self._tokens, self._filled_at = min(grown, self.rate_bytes_s * BURST_S), now
        return max(0.0, -self._tokens / self.rate_bytes_s)

    def take(self, size: int) -> None:
        self._tokens -= size


class ServingRate:
    """Bytes a second that the uplink delivers while something is under way, smoothed; None until it was measured."""

    def __init__(self) -> None:
        self.bytes_s: float | None = None
        self._then: tuple[int, float, bool] | None = None
        self._bytes, self._seconds, self._full_s = 0, 0.0, 0.0

    def note(self, delivered: int, now: float, *, receivers: int, waiting: bool) -> None:
        """`delivered` bytes in all until now; `receivers`: peers to which more is under way; `waiting`: even more is
        waiting for room."""
        if self._then is not None:
            before, since, full = self._then
            self._bytes += delivered - before
            self._seconds += now - since
            self._full_s += (now - since) * full
            if self._seconds >= SAMPLE_S:
                self._sample()
        self._then = (delivered, now, waiting and receivers > 1) if receivers else None

    def _sample(self) -> None:
        rate, known = self._bytes / self._seconds, self.bytes_s
        if known is None:
            self.bytes_s = rate
        else:
            full = 2 * self._full_s > self._seconds
            half_life_s = RISE_HALF_LIFE_S if rate > known else HALF_LIFE_S if full else IDLE_HALF_LIFE_S
            keep = 0.5 ** (self._seconds / half_life_s)
            self.bytes_s = keep * known + (1 - keep) * rate
        self._bytes, self._seconds, self._full_s = 0, 0.0, 0.0


class Uplink:
    """The turns of one device. `look(now)` is asked before each pump what has been delivered, and to how many peers
    something is still under way."""

    def __init__(self, clock: Callable[[], float], poll_s: float, rate_bytes_s: float = 0.0) -> None:
        self.rate = ServingRate()
        self._clock = clock
        self._poll_s = poll_s
        self._bucket = Bucket(rate_bytes_s, clock())
        self._turns: deque[Flow] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._looks: list[Callable[[float], tuple[int, int]]] = []
        self._pumping = False
        self._short = False  # of room: the last turns have left something waiting

    @property
    def limit_bytes_s(self) -> float:
        """The rate that was set; 0 for none."""
        return self._bucket.rate_bytes_s

    def measure(self, look: Callable[[float], tuple[int, int]]) -> None:
        """`look(now)` gives bytes delivered in all, and to how many peers some are still under way, of one kind of
        traffic."""
        self._looks.append(look)

    def add(self, flow: Flow) -> None:
        """The flow has something to send: it gets its turns, the first one at once if nobody else waits."""
        if flow not in self._turns:
            flow.deficit = 0
            self._turns.append(flow)
        self.pump()

    def pump(self) -> None:
        """Give turns, as far as room, rate and the loop's patience allow."""
        if self._pumping:
            return  # a chunk that was sent has made another flow ready; it is in the queue
        self._pumping = True
        try:
            self._look_again(self._give_turns())
        finally:
            self._pumping = False

    def close(self) -> None:
        self._turns.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _give_turns(self) -> float | None:
        """Send what may be sent; seconds until the next look, None when nothing is left to look after."""
        now = self._clock()
        receivers = self._measure(now)
        chunks, blocked = 0, 0
        while self._turns and blocked < len(self._turns):
            wait_s = self._bucket.wait_s(now)
            if wait_s > 0.0:
                return wait_s
            if chunks >= TURN_CHUNKS:
                return 0.0
            flow = self._turns[0]
            if flow.deficit <= 0:
                flow.deficit += CHUNK_BYTES
            size, total = flow.send_next() if flow.waiting else (0, 0)
            flow.deficit -= size
            if size:
                chunks, blocked = chunks + 1, 0
                self._bucket.take(total)
            else:
                flow.deficit = min(flow.deficit, 0)
                blocked += 1
            if flow.deficit <= 0 and self._turns and self._turns[0] is flow:
                self._turns.popleft()
                if flow.waiting:
                    self._turns.append(flow)
                else:
                    blocked -= not size
        self._short = bool(self._turns)
        if not self._turns and not receivers and not chunks:
            return None
        if self._turns:
            # Somebody waits for room: look again when a chunk's worth of it has been made.
            return min(self._poll_s, max(FIRST_LOOK_S, CHUNK_BYTES / (self.rate.bytes_s or math.inf)))
        return self._poll_s

    def _measure(self, now: float) -> int:
        delivered = receivers = 0
        for look in self._looks:
            done, waiting = look(now)
            delivered += done
            receivers += waiting
        self.rate.note(delivered, now, receivers=receivers, waiting=self._short)
        return receivers

    def _look_again(self, wait_s: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wait_s is not None:
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.pump()
