"""When a device asks the tracker of one of its trees again.

Theory of operation. An answer renews the lease and brings candidates, so the wait depends on what is missing:

    SEEKING   2, 2, 4 .. 30 s: a place; half a step when an attempt to find one has failed. The series begins anew
              with every parent that is found or lost
    ROOT      30 s: how long two trees of one application can live side by side; 1 s when a higher one did not answer
    ATTACHED  120 s: the lease; 30 minutes for whom a full tracker does not keep; 1 s when there are dead to report

Each wait takes the place of the one before it, and is jittered. Who is not content with its place asks out of turn, but
for spare parents not more often than the slowest of the series. A helper that has had no children for 180 s does not
renew at all: it leaves.
"""

from __future__ import annotations

from collections.abc import Callable

from edgefl.overlay.device import Device
from edgefl.overlay.tree_view import Position


class Renewals:
    """Of one tree. `renew_at(at)` sets its timer; `kept`: the tracker has a place for us."""

    __slots__ = ("_childless_since", "_device", "_discontent_at", "_renew_at", "_seeks", "kept")

    def __init__(self, device: Device, renew_at: Callable[[float], None]) -> None:
        self._device = device
        self._renew_at = renew_at
        self._discontent_at = float("-inf")
        self._childless_since: float | None = None
        self._seeks = 0
        self.kept = True

    def asked(self, position: Position, content: bool, now: float) -> None:
        """The tracker has just been asked."""
        profile = self._device.profile
        if not content:
            self._discontent_at = now
        if position is Position.SEEKING:
            self._in(self._seek_s(), now)
            self._seeks += 1
        elif position is Position.ROOT:
            self._in(profile.root_renewal_s, now)
        else:
            self._in(profile.renewal_s if self.kept else profile.unkept_renewal_s, now)

    def may_ask_for_spares(self, now: float) -> bool:
        return now - self._discontent_at > self._device.profile.seek_s[-1]

    def is_idle(self, children: int, now: float) -> bool:
        """A helper has had nobody to help for long."""
        if children:
            self._childless_since = None
        elif self._childless_since is None:
            self._childless_since = now
        return self._childless_since is not None and now - self._childless_since >= self._device.profile.help_idle_s

    def on_root(self, now: float) -> None:
        self._seeks = 0
        self._in(self._device.profile.root_renewal_s, now)

    def on_attached(self, failed: bool, now: float) -> None:
        """`failed`: candidates have not answered. They are reported soon, so that others need not try them."""
        self._seeks = 0
        if failed:
            self.soon(now)
        else:
            self._in(self._device.profile.renewal_s, now)

    def on_attempt_failed(self, position: Position, now: float) -> None:
        if position is Position.SEEKING:
            self._in(self._seek_s() / 2, now)
        elif position is Position.ROOT:
            self._in(self._device.profile.seek_s[0] / 2, now)

    def on_parent_lost(self) -> None:
        self._seeks = 0

    def soon(self, now: float) -> None:
        """There is news for the tracker."""
        self._in(self._device.profile.tree_flush_s, now)

    def _seek_s(self) -> float:
        series = self._device.profile.seek_s
        return series[min(self._seeks, len(series) - 1)]

    def _in(self, wait_s: float, now: float) -> None:
        self._renew_at(now + self._device.jittered(wait_s))
