"""A second connection with a peer, for what is large: a chunk takes 100 ms at 20 Mbit/s, and no heartbeat waits for it.

The first chunk that goes or comes through a link makes the side that had dialled the link dial once more, with a Hello
that says what the connection is for. Until it is up, and where there is none, chunks go through the link itself. A line
that carries nothing for a while is closed. Losing it is no loss of the peer.
"""

from __future__ import annotations

from collections.abc import Callable

import zmq

from edgefl.transport.dial import Dial, State
from edgefl.transport.inbound import Connection, send_through
from edgefl.transport.tcp_info import local_address
from edgefl.transport.zmq_socket import LoopSocket
from edgefl.wire.contact import Contact


class BulkLine:
    """What we hold of one peer's second connection: the one that we dialled, or those that it did, the newest last."""

    __slots__ = ("dial", "routes", "used")

    def __init__(self) -> None:
        self.dial: Dial | None = None
        self.routes: list[Connection] = []
        self.used = 0.0

    def send(self, router: LoopSocket, parts: list[bytes | zmq.Frame], now: float) -> bool | None:
        """Whether the message was sent: False when the line is full, None when there is none."""
        self.used = now
        if self.dial is not None and self.dial.up and self.dial.socket is not None:
            return self.dial.socket.send(parts)
        return send_through(router, self.routes, parts, now)

    @property
    def carrier(self) -> int | None:
        """The descriptor of the connection that is sent through; None when there is none."""
        if self.dial is not None and self.dial.up:
            return self.dial.descriptor
        return self.routes[-1].descriptor if self.routes else None

    def want(self, link: Dial | None, contact: Contact, make: Callable[[], Dial], now: float) -> None:
        """Something large goes through the link: dial once more, if it was us who dialled that (`link`)."""
        self.used = now
        if link is not None and link.up and not self.routes:
            if self.dial is None:
                self.dial = make()
            if self.dial.state is State.IDLE:
                self.dial.want(contact)

    def leave_lost_addresses(self, left: frozenset[str]) -> list[Connection]:
        """We have the addresses `left`: give up what begins at others. The connections that are to be cut."""
        if self.dial is not None and not self.dial.leaves_from(left):
            self.dial.close()
        lost = [route for route in self.routes if local_address(route.descriptor) not in {None, *left}]
        self.routes = [route for route in self.routes if route not in lost]
        return lost

    def sweep(self, now: float, idle_s: float) -> None:
        """Close a line that carries nothing. Call about once a second."""
        if self.dial is not None:
            self.dial.sweep()
            if now - self.used > idle_s:
                self.dial.close()

    def close(self) -> None:
        if self.dial is not None:
            self.dial.close()
        self.routes.clear()
