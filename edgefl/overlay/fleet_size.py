"""How many devices the fleet has: the median of what the devices that were asked last think, and our own guess.

A device can only guess, from how densely the six devices next to it stand on the circle of ids (leaf_set.py): one guess
in twelve is off by more than a factor of 2, and one in a thousand by a factor of 9. Those next to other devices are
independent of ours, so each Pong carries its sender's guess, in one byte, and the median of 17 is off by a seventh. Who
lies moves it only as one voice among them. Guesses are as old as two minutes of probes: a fleet that grows faster is
known that much later.
"""

from __future__ import annotations

import math
from functools import lru_cache

from edgefl.median import median

HEARD = 16
"""Guesses remembered, a byte each: the median of 17 is off by a factor of 2 once in a million."""

STEPS = 4.0
"""Per octave: a byte reaches from 1 to 2^63 in steps of 19 %, finer than any guess."""


@lru_cache(maxsize=256)
def pack_size(size: int) -> int:
    """A number of devices as one byte; 0 is kept for no guess."""
    return max(1, min(255, 1 + round(STEPS * math.log2(max(1, size)))))


def unpack_size(code: int) -> float:
    """The number of devices in a byte from 1 to 255."""
    return float(2.0 ** ((code - 1) / STEPS))


class FleetSize:
    """What one device has heard of the size of its fleet."""

    __slots__ = ("_heard",)

    def __init__(self) -> None:
        self._heard = b""

    def hear(self, code: int) -> None:
        """Somebody else's guess, as it came; 0 says nothing."""
        if code:
            self._heard = (self._heard + bytes((code,)))[-HEARD:]

    def estimate(self, own_guess: int) -> int:
        """The median of ours (0: we have none) and those heard last; 1 if there is none."""
        guesses = [*([float(own_guess)] if own_guess else []), *map(unpack_size, self._heard)]
        return round(median(guesses)) if guesses else 1
