"""The daemon's log: standard error, plain lines; to the journal with priorities instead of times (sd-daemon(3))."""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class _JournalFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        lines = super().format(record).splitlines()
        priority = _PRIORITIES.get(record.levelno, 6)
        return "\n".join(f"<{priority}>{line}" for line in lines)


def to_journal(stream: TextIO, journal_stream: str) -> bool:
    """Whether `stream` is the journal's: JOURNAL_STREAM names its device and inode, and a child that was given another
    standard error inherits the variable all the same (systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return journal_stream == f"{status.st_dev}:{status.st_ino}"


def set_up_logging(*, verbose: bool = False) -> None:
    """Send everything below `edgefl` to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    if to_journal(sys.stderr, os.environ.get("JOURNAL_STREAM", "")):
        handler.setFormatter(_JournalFormatter("%(name)s: %(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("edgefl")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False
