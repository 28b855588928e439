"""ZeroMQ asks who may connect (RFC 27, ZAP); the allow list answers, inside our own loop.

The handler is a ROUTER on ZeroMQ's well-known inproc address. It admits CURVE keys on the allow list alone, on every
bound socket of the context, and gives each connection the peer's node id as its User-Id, which then stands on every
frame. A refused peer hears 400 and never tries again by itself: its dial.py knocks at our door instead.
"""

from __future__ import annotations

from collections.abc import Callable

import zmq

from edgefl.transport.counters import Counters
from edgefl.transport.curve import ZAP_DOMAIN
from edgefl.transport.zmq_socket import LoopSocket, Parts
from edgefl.wire.contact import node_name

_ADDRESS = "inproc://zeromq.zap.01"
_REQUEST_PARTS = 9  # routing id, empty, version, request id, domain, address, identity, mechanism, key


class Zap:
    """Answers every handshake: `allowed(curve_key)` gives the peer's node id, or None to refuse."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        allowed: Callable[[bytes], int | None],
        counters: Counters,
    ) -> None:
        self._allowed = allowed
        self._counters = counters
        socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.bind(_ADDRESS)
        self._socket = LoopSocket(socket, self._on_request, max_parts=_REQUEST_PARTS)

    def close(self) -> None:
        self._socket.close()

    def _on_request(self, parts: Parts) -> None:
        if len(parts) < 4:
            return
        route, empty, version, request, *rest = (part.bytes for part in parts)
        node_id = None
        if len(parts) == _REQUEST_PARTS and version == b"1.0" and rest[0] == ZAP_DOMAIN and rest[3] == b"CURVE":
            node_id = self._allowed(rest[4])
        if node_id is None:
            self._counters["refused.zap"] += 1
            answer = [b"400", b"not admitted", b"", b""]
        else:
            answer = [b"200", b"OK", node_name(node_id).encode(), b""]
        self._socket.send([route, empty, version, request, *answer])
