"""Is the new system healthy? The service is active and has a peer, and stays so; or, where a device may be alone, it
just runs. Whatever is not called healthy in time is ill: there is no third verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

HEALTH_S = 1800.0
"""A system on trial has so long: a slow card, a network that comes up late, a fleet that is itself being updated. Most
that are ill are found out sooner: they die."""

SETTLE_S = 30.0
"""It must hold for so long; a service that dies is started again after 5 s."""

MAX_STARTS = 10
"""A service that systemd has had to start so often will not stay up: no need to wait for the end."""

ALONE_SETTLE_S = 120.0
"""With no peer to prove it, running must prove itself for longer."""


class Verdict(Enum):
    WAIT = "wait"
    HEALTHY = "healthy"
    ILL = "ill"


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at the service. `running`: its process lives. `active`: it has said READY, it is in its fleet. `starts`:
    how often systemd has had to start it again."""

    running: bool
    active: bool
    starts: int
    peers: int


class Gate:
    """Looked through at `began` for the first time. `alone`: a device without any peer is healthy too."""

    def __init__(self, began: float, *, alone: bool = False) -> None:
        self._deadline = began + HEALTH_S
        self._alone = alone
        self._since: float | None = None
        self._settle_s = SETTLE_S
        self._starts = 0
        self.why = "the service did not start"

    def on_look(self, seen: Seen, now: float) -> Verdict:
        """What to think of it by now; `why` says what is missing."""
        good, settle_s = self._good(seen)
        if not good:
            self._since = None
        elif self._since is None or seen.starts != self._starts or settle_s != self._settle_s:
            self._since, self._starts, self._settle_s = now, seen.starts, settle_s
        elif now - self._since >= settle_s:
            return Verdict.HEALTHY
        if seen.starts >= MAX_STARTS:
            self.why = f"the service ended {seen.starts} times"
            return Verdict.ILL
        return Verdict.ILL if now >= self._deadline else Verdict.WAIT

    def _good(self, seen: Seen) -> tuple[bool, float]:
        if seen.active and seen.peers >= 1:
            self.why = f"the service did not stay up for {SETTLE_S:g} s"
            return True, SETTLE_S
        if seen.running and self._alone:
            self.why = f"the service did not stay up for {ALONE_SETTLE_S:g} s"
            return True, ALONE_SETTLE_S
        if seen.active:
            self.why = "the device found no peer"
        elif seen.running:
            self.why = "the service did not find its fleet"
        return False, 0.0
