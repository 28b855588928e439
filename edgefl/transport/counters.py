"""What the transport has done and refused, as plain counts. Names come from our own constants only, never from a peer.

messages_sent, messages_received, bytes_sent, bytes_received     payload on links and broadcast, without framing
knocks, knocked, links_opened, links_lost, connections_cut
refused.<reason>     knocks and connections that were turned away (identity/reason.py, and `garbage`, `zap`, ...)
dropped.<reason>     messages and chunks that went no further
blobs.<what>         chunks pushed, pulled, served, duplicate, lying, resumed; blobs not-written, evicted, rotten
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TypeAlias

Counters: TypeAlias = Counter[str]


class Notices:
    """Log lines about what strangers do, at most one a minute for each kind: a flood of knocks must not fill a disk."""

    PERIOD_S = 60.0
    MAX_KINDS = 64
    """Kinds come from our own code; the bound only guards against a mistake there."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._silent_until: dict[str, float] = {}

    def say(self, kind: str, now: float, text: str, *arguments: object) -> None:
        """Log `text` as a warning unless this kind was logged within the last minute."""
        if now < self._silent_until.get(kind, 0.0):
            return
        if len(self._silent_until) >= self.MAX_KINDS:
            self._silent_until.clear()
        self._silent_until[kind] = now + self.PERIOD_S
        self._log.warning(text, *arguments)
