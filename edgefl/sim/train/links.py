"""Links that come and go: every pair of devices has one, up or down, whichever way it is used.

Each link draws its state anew every `hold_s` seconds, with a phase of its own: it is down for the wanted share of the
time, in stretches of hold_s / (1 - down) seconds in the mean, and at any time that share of all links is down. The
state is a function of (seed, pair, time), so nothing is remembered and the order of asking does not matter.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

HOLD_S = 10.0
"""A few rounds of a fast device: shorter drops would be repaired by the transport's own retransmissions."""


@dataclass(frozen=True, slots=True)
class Links:
    """`down`: share of the links that is down at any time, 0 to 1. Devices go by their index."""

    down: float
    seed: int
    hold_s: float = HOLD_S

    def is_up(self, a: int, b: int, now: float) -> bool:
        """Whether the link between these two works at this time."""
        return self.stays_up(a, b, now, now)

    def stays_up(self, a: int, b: int, begin: float, end: float) -> bool:
        """Whether it works all the time from `begin` to `end`, in seconds."""
        if self.down <= 0:
            return True
        pair = (a, b) if a < b else (b, a)
        phase = self._draw(*pair, -1)
        first, last = int(begin / self.hold_s + phase), int(end / self.hold_s + phase)
        return all(self._draw(*pair, period) >= self.down for period in range(first, last + 1))

    def _draw(self, a: int, b: int, period: int) -> float:
        """Uniform in [0, 1)."""
        digest = hashlib.blake2b(f"{self.seed} {a} {b} {period}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64
