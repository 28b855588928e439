"""Whether this device has stood still: suspended, stopped, or starved by other work or a slow card.

Timers tell: one that fires seconds after its time says that nothing was answered either, for as long. Others that
watch us have then given us up, rightly as far as they can know. One stall makes many timers late; it is news once.
"""

from __future__ import annotations

from edgefl.overlay.profile import Profile


class Stall:
    """Of one device."""

    __slots__ = ("_least_s", "_noticed_at")

    def __init__(self, profile: Profile) -> None:
        self._least_s = profile.watch_s + profile.watch_timeout_s  # then those that watch us begin to suspect us
        self._noticed_at = float("-inf")

    def is_news(self, due: float, now: float) -> bool:
        """A timer fires now that was due then: has the device stood still since it was last noticed?"""
        if now - due < self._least_s or due < self._noticed_at:
            return False
        self._noticed_at = now
        return True
