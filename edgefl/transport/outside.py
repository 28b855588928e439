"""Our own address as others see it, and how far our clock is from theirs.

A device cannot know the address that others reach it at: there may be a router in between that gives it another one.
Each door that lets us in tells where we came from (`Answer.seen`). One word moves nobody: an address holds when at
least two of the last few witnesses agree on it, and it gives way only to one that more of them name. So one liar can
neither make us believe in an address nor take one away.
"""

from __future__ import annotations

import ipaddress
from collections import Counter

MAX_WITNESSES = 5
"""The newest word of so many peers counts. Few: after a change of address three new witnesses outvote all old ones."""

AGREEING = 2
"""Witnesses that it takes."""


class OutsideAddress:
    """Whom our knocks have met, and where they saw us. `agreed` is the address that holds, or None."""

    def __init__(self) -> None:
        self.agreed: str | None = None
        self._seen: dict[int, str] = {}
        self._ahead_s: dict[int, float] = {}

    def note(self, witness: int, seen: str) -> None:
        """The device with node id `witness` saw us at `seen`, an IP literal."""
        address = ipaddress.ip_address(seen)
        if address.is_loopback or address.is_unspecified or address.is_multicast:
            return  # a peer on this very machine, or one that knows nothing
        self._seen.pop(witness, None)
        self._seen[witness] = seen
        if len(self._seen) > MAX_WITNESSES:
            del self._seen[next(iter(self._seen))]
        votes = Counter(self._seen.values())
        best, count = votes.most_common(1)[0]
        if count >= AGREEING and count > votes[self.agreed or ""]:
            self.agreed = best

    def note_clock(self, witness: int, ahead_s: float) -> None:
        """This peer's wall clock is so many seconds ahead of ours."""
        self._ahead_s.pop(witness, None)
        self._ahead_s[witness] = ahead_s
        if len(self._ahead_s) > MAX_WITNESSES:
            del self._ahead_s[next(iter(self._ahead_s))]

    @property
    def clocks_ahead_s(self) -> tuple[float, ...]:
        """What the last few peers' clocks said: for people, nothing depends on it."""
        return tuple(self._ahead_s.values())

    def clear(self) -> None:
        """We have moved: what was seen before is no evidence any more."""
        self.agreed = None
        self._seen.clear()

    def __len__(self) -> int:
        return len(self._seen)
