"""Where wrong data came from: counted for each source, named in the log, shown to people."""

from __future__ import annotations

import logging

from edgefl.transport.counters import Counters, Notices
from edgefl.wire.contact import node_name

log = logging.getLogger(__name__)

DISK = "disk"

MAX_SOURCES = 64
"""Sources that are remembered; the least recently caught goes first."""


class Blame:
    """Chunks and headers that did not match their hash, by source: a node's name, or DISK."""

    def __init__(self, counters: Counters) -> None:
        self.sources: dict[str, int] = {}
        self._counters = counters
        self._notices = Notices(log)

    def peer(self, node_id: int, now: float) -> None:
        """This peer has sent something that does not match its hash."""
        self._counters["blobs.lying"] += 1
        self._note(node_name(node_id))
        self._notices.say("peer", now, "wrong data from %s: asked for again", node_name(node_id))

    def disk(self, now: float) -> None:
        """A file's content does not match its name any more."""
        self._counters["blobs.rotten"] += 1
        self._note(DISK)
        self._notices.say("disk", now, "a file has changed on disk: it counts as lost, and is fetched again")

    def _note(self, source: str) -> None:
        self.sources[source] = self.sources.pop(source, 0) + 1
        if len(self.sources) > MAX_SOURCES:
            del self.sources[next(iter(self.sources))]
