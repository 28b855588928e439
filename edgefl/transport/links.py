"""Messages between devices: one ROUTER for links that come in, one DEALER per peer for links that go out.

A message goes out through the outbound link if that is up, else through the peer's own link to us, else it waits
(outbox.py) while we knock at the peer's door and dial (dial.py). Devices that cannot be dialled (LEAF) are only ever
answered through their own link. So one TCP connection serves both directions, whoever opened it.

The first message on every link is Hello: the sender's contact, proved by the connection it comes through. Whatever
comes before it, or claims to come from somebody else, is dropped. `on_link_lost` is called when the last connection
with a peer has broken without a Bye, and whenever a door does not let us in.

Everything a peer can make us hold is bounded: its connections (inbound.py), its waiting messages (outbox.py), what
ZeroMQ queues for it (curve.py), and the nonsense it may send (penalties.py).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from dataclasses import replace
from typing import Protocol

import zmq

from edgefl.errors import EdgeflError, WireError
from edgefl.transport.curve import open_link, open_link_server
from edgefl.transport.dial import Dial, Line, State, Station
from edgefl.transport.inbound import Connection, Inbound, peer_address, send_through
from edgefl.transport.outbox import Budget, Outbox
from edgefl.transport.peer import Peer
from edgefl.transport.penalties import Penalties
from edgefl.transport.tcp_info import local_address
from edgefl.transport.zmq_socket import LoopSocket, Parts
from edgefl.wire.codec import Message, decode, encode
from edgefl.wire.contact import Contact, Role
from edgefl.wire.link import (
    PROTOCOL_OLDEST,
    PROTOCOL_VERSION,
    BlobChunk,
    BlobGet,
    BlobHeader,
    BlobMissing,
    Bye,
    Hello,
    Revoked,
    Taken,
)

log = logging.getLogger(__name__)

MAX_PEERS = 1024
"""Peers with a record: those with a connection, a waiting message or a back-off. About 1 kB each."""

MAX_OUTBOUND = 96
"""Links that we keep open: the whole routing table of a large fleet, 40 kB and four descriptors each (of the usual
1,024). The least recently used is closed for a new one."""

BYE_LINGER_S = 1.0
"""How long a Bye may take to leave after its link was closed."""

ROUTE_RETRY_S = 0.02
"""A ROUTER does not say when one peer's queue has room again: look again after this."""


class LinkListener(Protocol):
    """Who hears of what happens on links. `bulk` is the second frame of the messages that are declared with one."""

    def on_message(self, sender: Contact, message: Message) -> None: ...

    def on_bulk(self, sender: Contact, message: Message, data: memoryview) -> None: ...

    def on_blob_message(self, node_id: int, message: Message, bulk: zmq.Frame | None) -> None: ...

    def on_revocations(self, node_id: int, data: bytes) -> None: ...

    def on_link_lost(self, node_id: int) -> None: ...

    def revocations(self) -> tuple[int, bytes]:
        """Version and packed list of our revocations; (0, b"") if there are none."""
        ...


class Links:
    """All links of one device."""

    def __init__(self, station: Station, penalties: Penalties, own: Contact, listener: LinkListener) -> None:
        self._station = station
        self._counters = station.counters
        self._penalties = penalties
        self._own = own
        self._listener = listener
        self._peers: dict[int, Peer] = {}
        self._budget = Budget()
        self._closed = False
        bound = open_link_server(station.context, station.keys, station.timing)
        self._inbound = Inbound(
            station.context, bound, station.timing, station.counters, station.clock, self._on_connection_lost
        )
        self._router = LoopSocket(bound, self._on_router)

    def bind(self, endpoint: str) -> int:
        """Listen; the port in use. Raises zmq.ZMQError."""
        return self._router.bind(endpoint)

    @property
    def waiting_bytes(self) -> int:
        """Bytes of all messages that wait for a connection."""
        return self._budget.used

    def connected(self, node_id: int) -> bool:
        """Whether a message to this peer could go out right now."""
        peer = self._peers.get(node_id)
        return peer is not None and peer.up

    def contact_of(self, node_id: int) -> Contact | None:
        """What this peer's newest Hello said about itself."""
        peer = self._peers.get(node_id)
        return None if peer is None else peer.contact

    def gives_credit(self, node_id: int) -> bool:
        """Whether this peer says what it has taken of what is pushed to it (credit.py)."""
        peer = self._peers.get(node_id)
        return peer is not None and peer.credit

    def carrier(self, node_id: int) -> int:
        """The descriptor of the connection through which bulk goes to this peer; -1 without one."""
        peer = self._peers.get(node_id)
        return -1 if peer is None else peer.carrier

    def count_connected(self) -> int:
        return sum(peer.up for peer in self._peers.values())

    def set_contact(self, own: Contact) -> None:
        """Our own contact has changed: tell everybody who is connected."""
        self._own = own
        self.broadcast(self._hello(reply=True))

    def leave_lost_addresses(self, left: frozenset[str]) -> None:
        """We have the addresses `left`: drop the connections whose own end has another one. They do not count as lost:
        the next message opens a new one."""
        for peer in list(self._peers.values()):
            for connection in list(peer.routes):
                if local_address(connection.descriptor) not in {None, *left}:
                    peer.routes.remove(connection)
                    connection.said_bye = True
                    self._inbound.cut(connection)
            if peer.dial is not None and not peer.dial.leaves_from(left):
                peer.dial.close()
            for connection in peer.line.leave_lost_addresses(left):
                self._inbound.cut(connection)
            if peer.outbox and not peer.up and peer.contact is not None:
                self._pursue(peer, peer.contact)

    # Sending

    def send(self, to: Contact, message: Message) -> None:
        """Send, best effort; never waits, never raises. The message arrives at most once, in order per connection."""
        if self._closed or to.node_id == self._own.node_id:
            self._counters["dropped.own-or-closed"] += 1
            return
        try:
            data = encode(message)
        except WireError as error:
            self._counters["dropped.too-long"] += 1
            log.error("a message that is too long was not sent: %s", error.cause)
            return
        peer = self._peer(to.node_id)
        peer.used = self._station.clock()
        if not peer.outbox and self._try(to.node_id, peer, [data]):
            return
        if peer.outbox.put(data, peer.used):
            self._pursue(peer, to)

    def send_now(self, node_id: int, message: Message, bulk: zmq.Frame | None = None) -> bool:
        """Send through a connection that is up, without queueing; False if there is none or it is full."""
        peer = self._peers.get(node_id)
        if peer is None or self._closed:
            return False
        peer.used = self._station.clock()
        data = encode(message)
        return self._try(node_id, peer, [data] if bulk is None else [data, bulk])

    def broadcast(self, message: Message, *, but: int | None = None) -> None:
        """Send to every peer that is connected, `but` one."""
        for node_id in list(self._peers):
            if node_id != but:
                self.send_now(node_id, message)

    def reach(self, to: Contact) -> None:
        """Open a link even though there is nothing to say yet."""
        if not self.connected(to.node_id) and to.node_id != self._own.node_id:
            self._pursue(self._peer(to.node_id), to)

    def _try(self, node_id: int, peer: Peer, parts: list[bytes | zmq.Frame]) -> bool:
        dial = peer.dial
        sent = peer.line.send(self._router, parts, peer.used) if len(parts) > 1 else None
        on_its_line = sent is not None
        if sent is None and dial is not None and dial.up and dial.socket is not None:
            sent = dial.socket.send(parts)
        elif sent is None:
            sent = send_through(self._router, peer.routes, parts, peer.used)
            if sent is False and peer.retry is None:
                loop = asyncio.get_running_loop()
                peer.retry = loop.call_later(ROUTE_RETRY_S, self._retry, node_id, peer)
        if not sent:
            return False
        if len(parts) > 1 and not on_its_line:
            self._want_line(node_id, peer)
        self._counters["messages_sent"] += 1
        self._counters["bytes_sent"] += sum(map(len, parts))
        return True

    def _want_line(self, node_id: int, peer: Peer) -> None:
        if peer.contact is not None:
            to = peer.contact
            peer.line.want(peer.dial, to, lambda: self._new_line(node_id, peer, to), peer.used)

    def _retry(self, node_id: int, peer: Peer) -> None:
        peer.retry = None
        self._flush(node_id, peer)

    def _flush(self, node_id: int, peer: Peer) -> None:
        if peer.outbox.flush(lambda data: self._try(node_id, peer, [data])):
            asyncio.get_running_loop().call_soon(self._flush, node_id, peer)

    def _pursue(self, peer: Peer, to: Contact) -> None:
        """Something waits: see to it that a connection comes about."""
        if peer.up:
            return  # its queue is full; it is flushed when there is room
        if to.role is Role.LEAF:
            # Once until it comes back: the listener may answer with another message to the same device.
            if not peer.told_lost:
                peer.told_lost = True
                self._report_lost(to.node_id)
            return
        if peer.dial is None:
            peer.dial = self._new_dial(peer, to)
        peer.dial.want(to)

    # Outbound links

    def _new_dial(self, peer: Peer, to: Contact) -> Dial:
        node_id, station = to.node_id, self._station
        return Dial(
            station,
            to,
            Line(
                open_socket=lambda card: open_link(station.context, station.keys, station.timing, card.curve),
                port=lambda card: card.link_port,
                on_parts=lambda parts: self._on_parts(node_id, peer, None, parts),
                on_up=lambda: self._on_up(node_id, peer),
                on_lost=lambda error: self._on_dial_lost(node_id, peer, error),
                on_writable=lambda: self._flush(node_id, peer),
                wanted=lambda: bool(peer.outbox) and not peer.routes,
            ),
        )

    def _new_line(self, node_id: int, peer: Peer, to: Contact) -> Dial:
        station = self._station

        def on_up() -> None:
            if peer.line.dial is not None and peer.line.dial.socket is not None:
                peer.line.dial.socket.send([encode(replace(self._hello(reply=True), bulk=True))])

        return Dial(
            station,
            to,
            Line(
                open_socket=lambda card: open_link(station.context, station.keys, station.timing, card.curve),
                port=lambda card: card.link_port,
                on_parts=lambda parts: self._on_parts(node_id, peer, None, parts, on_its_line=True),
                on_up=on_up,
                on_lost=lambda error: None,
                on_writable=lambda: None,
                wanted=lambda: False,  # the next chunk asks for it again
            ),
        )

    def _on_up(self, node_id: int, peer: Peer) -> None:
        self._counters["links_opened"] += 1
        peer.used = self._station.clock()
        self._try(node_id, peer, [encode(self._hello(reply=False))])
        self._flush(node_id, peer)
        self._bound_outbound()

    def _on_dial_lost(self, node_id: int, peer: Peer, error: EdgeflError | None) -> None:
        if error is not None:
            log.info("%016x cannot be reached: %s", node_id, error.cause)
        if peer.routes:
            self._flush(node_id, peer)
        else:
            self._report_lost(node_id)

    def _bound_outbound(self) -> None:
        up = [
            (peer.used, node_id) for node_id, peer in self._peers.items() if peer.dial and peer.dial.state is State.UP
        ]
        if len(up) > MAX_OUTBOUND:
            self._say_goodbye(min(up)[1])

    def _say_goodbye(self, node_id: int) -> None:
        """Close an outbound link that is not needed now; the peer must not take it for a loss."""
        dial = self._peers[node_id].dial
        if dial is not None and dial.socket is not None:
            dial.socket.send([encode(Bye())])
            dial.close(BYE_LINGER_S)

    # Inbound

    def _on_router(self, parts: Parts) -> None:
        connection = self._inbound.attribute(parts[-1])
        if connection is None or connection.node_id is None or connection.cut:
            self._counters["dropped.unattributed"] += 1
            return
        node_id = connection.node_id
        if self._penalties.excluded(node_id):
            return
        connection.route = parts[0].bytes
        connection.deliver(parts, self._station.clock())
        self._on_parts(node_id, self._peer(node_id), connection, parts[1:])

    def _on_parts(
        self, node_id: int, peer: Peer, connection: Connection | None, parts: Parts, *, on_its_line: bool = False
    ) -> None:
        """A message from an authenticated peer, through its own link (`connection`) or ours."""
        self._counters["messages_received"] += 1
        self._counters["bytes_received"] += sum(map(len, parts))
        try:
            if not 1 <= len(parts) <= 2:
                raise WireError(f"{len(parts)} frames")
            message = decode(parts[0].bytes)
        except WireError as error:
            log.debug("nonsense from %016x: %s", node_id, error.cause)
            self._garbage(node_id, "garbage")
            return
        if message is None:
            self._counters["dropped.unknown-type"] += 1
            return
        bulk = parts[1] if len(parts) == 2 else None
        if (bulk is not None) != message.BULK:
            self._garbage(node_id, "garbage")
            return
        peer.used = self._station.clock()
        if on_its_line:
            peer.line.used = peer.used  # only who has dialled it closes it, and that may be who never sends
        elif bulk is not None:
            self._want_line(node_id, peer)
        if isinstance(message, Hello):
            self._on_hello(node_id, peer, connection, message, parts[0])
        elif peer.contact is None:
            self._garbage(node_id, "before-hello")
        elif isinstance(message, BlobGet | BlobHeader | BlobChunk | BlobMissing | Taken):
            self._listener.on_blob_message(node_id, message, bulk)
        elif isinstance(message, Revoked):
            self._listener.on_revocations(node_id, message.revocations)
        elif isinstance(message, Bye):
            self._on_bye(peer, connection)
        elif bulk is not None:
            self._listener.on_bulk(peer.contact, message, bulk.buffer)
        else:
            self._listener.on_message(peer.contact, message)

    def _on_hello(
        self, node_id: int, peer: Peer, connection: Connection | None, hello: Hello, frame: zmq.Frame
    ) -> None:
        contact = hello.contact
        if contact.node_id != node_id:
            self._garbage(node_id, "impostor")
            return
        if hello.oldest > PROTOCOL_VERSION or hello.newest < PROTOCOL_OLDEST:
            self._counters["dropped.protocol-version"] += 1
            return
        if ipaddress.ip_address(contact.host).is_unspecified:
            contact = replace(contact, host=peer_address(frame) or contact.host)
        if peer.contact is None or contact.incarnation >= peer.contact.incarnation:
            moved = peer.contact is not None and (peer.contact.host, peer.contact.port) != (contact.host, contact.port)
            peer.contact = contact
            if moved and connection is not None and peer.dial is not None:
                # It has come from its new place; what we send to the old one would wait for a time-out.
                peer.dial.close()
        peer.told_lost = False
        peer.credit = hello.credit
        if hello.bulk:
            if connection is not None and not connection.gone and connection not in peer.line.routes:
                connection.said_bye = True  # it may go without a word
                peer.line.routes.append(connection)
            return
        if connection is not None and not connection.gone and connection not in peer.routes:
            connection.said_bye = False
            peer.routes.append(connection)
        version, packed = self._listener.revocations()
        if not hello.reply:
            self.send_now(node_id, self._hello(reply=True))
        if version > hello.revocations:
            self.send_now(node_id, Revoked(packed))
        self._flush(node_id, peer)

    def _on_bye(self, peer: Peer, connection: Connection | None) -> None:
        if connection is None:
            if peer.dial is not None:
                peer.dial.close()
        elif connection in peer.routes:
            peer.routes.remove(connection)
            connection.said_bye = True

    def _on_connection_lost(self, connection: Connection) -> None:
        node_id = connection.node_id
        peer = None if node_id is None else self._peers.get(node_id)
        if node_id is None or peer is None:
            return
        if connection in peer.line.routes:
            peer.line.routes.remove(connection)
        if connection in peer.routes:
            peer.routes.remove(connection)
        if not connection.said_bye and not peer.up:
            self._report_lost(node_id)
            if peer.outbox and peer.contact is not None:
                self._pursue(peer, peer.contact)

    def _report_lost(self, node_id: int) -> None:
        self._counters["links_lost"] += 1
        # Later, not now: the listener may send, and this may be the middle of a send.
        asyncio.get_running_loop().call_soon(self._tell_lost, node_id)

    def _tell_lost(self, node_id: int) -> None:
        if not self._closed:
            self._listener.on_link_lost(node_id)

    # Keeping order

    def cut(self, node_id: int) -> None:
        """End every connection with a peer, now: it was revoked, or has sent too much nonsense."""
        for connection in self._inbound.of(node_id):
            self._inbound.cut(connection)
        peer = self._peers.pop(node_id, None)
        if peer is not None:
            self._discard(peer)
            self._report_lost(node_id)

    def sweep(self) -> None:
        """Old messages, idle links, connections that are one too many. Call about once a second."""
        now = self._station.clock()
        self._inbound.sweep(self._router.when_empty)
        idle_s = self._station.timing.idle
        for node_id, peer in list(self._peers.items()):
            peer.outbox.expire(now)
            peer.line.sweep(now, idle_s)
            dial = peer.dial
            if dial is not None:
                dial.sweep()
            if peer.outbox and peer.up:
                self._flush(node_id, peer)
            idle = now - peer.used > idle_s
            # A device that nobody can dial is only reachable through the links that it keeps open itself.
            if idle and dial is not None and dial.up and self._own.role is not Role.LEAF:
                self._say_goodbye(node_id)
            if idle and not peer.outbox and not peer.routes and (dial is None or dial.state is State.IDLE):
                del self._peers[node_id]
                self._discard(peer)

    def close(self, linger_s: float) -> None:
        """Close all links; what is under way is sent for at most `linger_s` seconds."""
        self._closed = True
        for peer in self._peers.values():
            self._discard(peer, linger_s)
        self._peers.clear()
        self._inbound.close()
        self._router.close(linger_s)

    def _garbage(self, node_id: int, kind: str) -> None:
        self._counters[f"dropped.{kind}"] += 1
        self._penalties.garbage(node_id)

    def _peer(self, node_id: int) -> Peer:
        peer = self._peers.get(node_id)
        if peer is None:
            if len(self._peers) >= MAX_PEERS:
                # Whoever was used longest ago has neither been heard from nor spoken to for a while.
                self.cut(min(self._peers, key=lambda key: self._peers[key].used))
            timing = self._station.timing
            peer = self._peers[node_id] = Peer(Outbox(self._budget, self._counters, timing.queue_age))
            peer.used = self._station.clock()
        return peer

    def _discard(self, peer: Peer, linger_s: float = 0.0) -> None:
        if peer.retry is not None:
            peer.retry.cancel()
        if peer.dial is not None:
            peer.dial.close(linger_s)
        peer.line.close()
        peer.outbox.clear()
        peer.routes.clear()

    def _hello(self, *, reply: bool) -> Hello:
        return Hello(self._own, reply=reply, revocations=self._listener.revocations()[0], credit=True)
