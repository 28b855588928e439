"""What we hold for one peer: how to reach it, what waits for it, and who it says it is."""

from __future__ import annotations

import asyncio

from edgefl.transport.bulk_line import BulkLine
from edgefl.transport.dial import Dial
from edgefl.transport.inbound import Connection
from edgefl.transport.outbox import Outbox
from edgefl.wire.contact import Contact


class Peer:
    """One peer.

    contact    its newest, proved by a Hello, or None
    credit     whether it says what it has taken of what is pushed to it
    dial       our connection to it, if we ever wanted one
    routes     its connections to us that have said Hello and not Bye, the newest last
    line       the second connection, for what is large
    outbox     messages that wait
    used       when we last sent to it or heard from it
    told_lost  whether it was reported as out of reach, and nothing was heard from it since
    """

    __slots__ = ("contact", "credit", "dial", "line", "outbox", "retry", "routes", "told_lost", "used")

    def __init__(self, outbox: Outbox) -> None:
        self.contact: Contact | None = None
        self.credit = False
        self.dial: Dial | None = None
        self.line = BulkLine()
        self.outbox = outbox
        self.routes: list[Connection] = []
        self.retry: asyncio.TimerHandle | None = None
        self.used = 0.0
        self.told_lost = False

    @property
    def up(self) -> bool:
        """Whether a message could go out right now."""
        return bool(self.routes) or (self.dial is not None and self.dial.up)

    @property
    def carrier(self) -> int:
        """The descriptor of the connection that something large would go through; -1 without one."""
        line = self.line.carrier
        if line is not None:
            return line
        if self.dial is not None and self.dial.up:
            return self.dial.descriptor
        return self.routes[-1].descriptor if self.routes else -1
