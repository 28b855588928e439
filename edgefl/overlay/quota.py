"""What one peer may spend in a window of time: whoever floods this device uses up its own share and nobody else's."""

from __future__ import annotations

MAX_SPENDERS = 4096
"""Peers counted in one window, 100 kB; when more than that are spending, new ones wait for the next window."""


class Quota:
    """Each peer may spend `share` per `window_s`. Everything is forgotten at the end of a window, so this stays
    small."""

    __slots__ = ("_ends_at", "_share", "_spent", "_window_s")

    def __init__(self, share: float, window_s: float) -> None:
        self._share = share
        self._window_s = window_s
        self._ends_at = float("-inf")
        self._spent: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._spent)

    def spend(self, peer: int, cost: float, now: float) -> bool:
        """Take `cost` from the peer's share; False, and nothing taken, when less is left."""
        spent = self._spent
        if now >= self._ends_at:
            self._ends_at = now + self._window_s
            spent.clear()
        after = cost + spent[peer] if peer in spent else cost
        if after > self._share or (len(spent) >= MAX_SPENDERS and peer not in spent):
            return False
        spent[peer] = after
        return True
