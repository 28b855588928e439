"""Who is connected to a bound ZeroMQ socket, one entry per TCP connection, and how to cut one off.

ZeroMQ's monitor reports a lost connection by its descriptor alone; every frame that is received carries the descriptor
that it came through (ZMQ_SRCFD) and the authenticated User-Id. Putting the two together names the peer that was lost,
at once, whether its link or its subscription broke. It also lets us end a connection (tcp_info.py), which ZeroMQ cannot
do for bound sockets.

That is how a revoked peer goes, and how each of these stays bounded:

    connections in all, and per peer                     the least recently used goes
    connections that never say who they are              cut after a time (strangers in a handshake, mostly)
    bytes taken in but not delivered to us               a message of endlessly many parts, which ZeroMQ would buffer
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import zmq

from edgefl.declared import dataclass
from edgefl.transport import tcp_info
from edgefl.transport.counters import Counters
from edgefl.transport.tcp_info import FRAME_OVERHEAD_BYTES, shut_down
from edgefl.transport.timing import Timing
from edgefl.transport.zmq_socket import LoopSocket, Monitor, Parts

MAX_CONNECTIONS = 256
"""Connections to one bound socket: about 40 kB and a descriptor each."""

MAX_PER_PEER = 4
"""A peer needs one; a second and third exist for a moment around a restart."""

MAX_ANONYMOUS = 128
"""Connections that have not said who they are: all that strangers on the open port can have at a time."""


@dataclass(slots=True, eq=False)
class Connection:
    """One TCP connection to a bound socket. `node_id` is the authenticated peer, None until its first frame."""

    descriptor: int
    since: float
    used: float
    node_id: int | None = None
    route: bytes = b""
    delivered: int = 0
    cut: bool = False
    gone: bool = False
    said_bye: bool = False

    def deliver(self, parts: Parts, now: float) -> None:
        """A message has come through."""
        self.used = now
        self.delivered += sum(len(part) + FRAME_OVERHEAD_BYTES for part in parts)


def send_through(
    router: LoopSocket, routes: list[Connection], parts: list[bytes | zmq.Frame], now: float
) -> bool | None:
    """Send through the newest of a peer's connections; those that are no more are taken out of `routes`. False when
    its queue is full, None when there is none."""
    while routes:
        connection = routes[-1]
        try:
            sent = router.send([connection.route, *parts])
        except zmq.ZMQError:  # EHOSTUNREACH: it has gone, and its event is on the way
            routes.pop()
            continue
        if sent:
            connection.used = now
        return sent
    return None


def peer_address(frame: zmq.Frame) -> str | None:
    """The address that a frame came from; None if ZeroMQ does not tell."""
    try:
        address = ipaddress.ip_address(str(frame.get("Peer-Address")))
    except (zmq.ZMQError, ValueError):
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


class Inbound:
    """The connections of one bound socket.

    `on_lost(connection)` is called when a connection that had said who it is has ended.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        bound: zmq.Socket[bytes],
        timing: Timing,
        counters: Counters,
        clock: Callable[[], float],
        on_lost: Callable[[Connection], None],
    ) -> None:
        self._timing = timing
        self._counters = counters
        self._clock = clock
        self._on_lost = on_lost
        self._connections: dict[int, Connection] = {}
        self._anonymous: dict[int, Connection] = {}
        self._monitor = Monitor(context, bound, self._on_event)

    def __len__(self) -> int:
        return len(self._connections)

    def attribute(self, frame: zmq.Frame) -> Connection | None:
        """The connection that this frame came through, with its authenticated peer; None if it has none.

        What a connection brought in before it ended is still read afterwards: then it is a `gone` one.
        """
        try:
            node_id = int(str(frame.get("User-Id")), 16)
            descriptor = int(frame.get("__fd"))  # what frame.get(zmq.SRCFD) reads, without the integer option detour
        except (zmq.ZMQError, ValueError):
            return None
        connection = self._connections.get(descriptor)
        if connection is not None and connection.node_id == node_id:
            return connection
        # Events first: of two connections with the same descriptor, the older one is then out of the way.
        self._monitor.drain()
        connection, now = self._connections.get(descriptor), self._clock()
        if connection is None:
            return Connection(descriptor, now, now, node_id, gone=True)
        if connection.node_id not in (None, node_id):
            connection = self._connections[descriptor] = Connection(descriptor, now, now)
        connection.node_id = node_id
        self._anonymous.pop(descriptor, None)
        self._bound_peer(node_id)
        return connection

    def of(self, node_id: int) -> list[Connection]:
        """The connections of a peer, oldest first."""
        return [item for item in self._connections.values() if item.node_id == node_id]

    def connections(self) -> list[Connection]:
        return list(self._connections.values())

    def cut(self, connection: Connection) -> None:
        """End a connection; `on_lost` follows when ZeroMQ has noticed."""
        self._monitor.drain()
        if connection.cut or self._connections.get(connection.descriptor) is not connection:
            return
        self._shut(connection)

    def sweep(self, when_empty: Callable[[Callable[[], None]], None]) -> None:
        """Cut what has outstayed its welcome. Call about once a second, with the bound socket's `when_empty`."""
        now = self._clock()
        for connection in list(self._anonymous.values()):
            if now - connection.since > self._timing.hello:
                self._counters["refused.silent"] += 1
                self.cut(connection)
        suspects: list[Connection] = []
        known = sorted((item for item in self._connections.values() if item.node_id is not None), key=lambda c: c.used)
        for at, connection in enumerate(known):
            if at < len(known) - MAX_CONNECTIONS:
                self.cut(connection)
            elif (unread := self._undelivered(connection)) > tcp_info.MAX_UNREAD_BYTES:
                self._cut_endless(connection)
            elif unread > tcp_info.MAX_UNDELIVERED_BYTES:
                suspects.append(connection)
        if suspects:
            when_empty(lambda: self._judge(suspects))

    def close(self) -> None:
        self._monitor.close()

    def _judge(self, suspects: list[Connection]) -> None:
        """All that ZeroMQ had to give has been read."""
        for connection in suspects:
            if self._undelivered(connection) > tcp_info.MAX_UNDELIVERED_BYTES:
                self._cut_endless(connection)

    def _undelivered(self, connection: Connection) -> int:
        age_s = self._clock() - connection.since
        return tcp_info.undelivered(connection.descriptor, connection.delivered, age_s)

    def _cut_endless(self, connection: Connection) -> None:
        if not connection.cut and self._connections.get(connection.descriptor) is connection:
            self._counters["dropped.endless-message"] += 1
            self.cut(connection)

    def _bound_peer(self, node_id: int) -> None:
        for connection in self.of(node_id)[:-MAX_PER_PEER]:
            self.cut(connection)

    def _on_event(self, event: int, value: int) -> None:
        now = self._clock()
        if event == zmq.EVENT_ACCEPTED:
            self._forget(value)
            self._connections[value] = self._anonymous[value] = Connection(value, now, now)
            if len(self._anonymous) > MAX_ANONYMOUS:
                # At once: a flood would use up the descriptors before the next sweep.
                self._counters["refused.crowd"] += 1
                self._shut(self._anonymous.pop(next(iter(self._anonymous))))
        elif event in (zmq.EVENT_DISCONNECTED, zmq.EVENT_CLOSED):
            self._forget(value)
        elif event in (zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL):
            self._counters["refused.handshake"] += 1

    def _shut(self, connection: Connection) -> None:
        connection.cut = True
        self._counters["connections_cut"] += 1
        shut_down(connection.descriptor)

    def _forget(self, descriptor: int) -> None:
        self._anonymous.pop(descriptor, None)
        connection = self._connections.pop(descriptor, None)
        if connection is not None and connection.node_id is not None:
            self._on_lost(connection)
