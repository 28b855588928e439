"""ZeroMQ socket options: the one place that sets them. CURVE is always on; there is no plaintext mode.

Options that are missing or odd on purpose (libzmq 4.3.5, all measured):

    CONNECT_ROUTING_ID   never: a clash with an inbound peer aborts the process (router.cpp)
    ipc://               never for many peers: it aborts at the descriptor limit
    RCVHWM               always 0. A full receive queue stops the engine's input; if the connection then breaks and a
                         heartbeat falls due before we have read, libzmq aborts ("!_io_error", stream_engine_base.cpp),
                         and a peer's PING behind its last message does the same. What peers can make us hold is
                         bounded elsewhere: by credit (pull.py, credit.py), by what a parent may have under way
                         (broadcast.py), and by cutting connections that deliver less than they take in (inbound.py)
    RECONNECT_IVL        an hour, which means never: a peer that was restarted has other ports, which only its door
                         knows, so each outbound socket lives for one connection and dial.py makes the next one. Not -1:
                         then libzmq throws away what has been received but not yet read when the connection ends
"""

from __future__ import annotations

import zmq

from edgefl.identity.keys import DeviceKeys
from edgefl.transport.timing import Timing
from edgefl.wire.blob import CHUNK_BYTES
from edgefl.wire.codec import MAX_MESSAGE_BYTES

ZAP_DOMAIN = b"edgefl"

MAX_FRAME_BYTES = max(CHUNK_BYTES, MAX_MESSAGE_BYTES) + 128
"""The largest frame that a peer may announce: a chunk, and CURVE's 33 bytes around it."""

LINK_HIGH_WATER = 64
"""Messages to one peer inside ZeroMQ: at most 4 MB of control messages; beyond it our own queue, which is bounded in
bytes, takes over (outbox.py)."""

RECONNECT_NEVER_MS = 3_600_000


def open_link_server(context: zmq.Context[zmq.Socket[bytes]], keys: DeviceKeys, timing: Timing) -> zmq.Socket[bytes]:
    """A ROUTER for inbound links."""
    socket = _server(context, zmq.ROUTER, keys, timing)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.SNDHWM, LINK_HIGH_WATER)
    return socket


def open_broadcast_server(
    context: zmq.Context[zmq.Socket[bytes]], keys: DeviceKeys, timing: Timing
) -> zmq.Socket[bytes]:
    """An XPUB that leaves it to us which subscriptions count, drops nothing silently, and never copies."""
    socket = _server(context, zmq.XPUB, keys, timing)
    socket.setsockopt(zmq.XPUB_MANUAL, 1)
    socket.setsockopt(zmq.SNDHWM, 0)
    return socket


def open_link(
    context: zmq.Context[zmq.Socket[bytes]], keys: DeviceKeys, timing: Timing, server_key: bytes
) -> zmq.Socket[bytes]:
    """A DEALER to one peer."""
    socket = _client(context, zmq.DEALER, keys, timing, server_key)
    socket.setsockopt(zmq.SNDHWM, LINK_HIGH_WATER)
    return socket


def open_subscriber(
    context: zmq.Context[zmq.Socket[bytes]], keys: DeviceKeys, timing: Timing, server_key: bytes
) -> zmq.Socket[bytes]:
    """A SUB to one parent. Its own queue of subscriptions is unbounded: a bound drops them silently, for good."""
    socket = _client(context, zmq.SUB, keys, timing, server_key)
    socket.setsockopt(zmq.SNDHWM, 0)
    return socket


def endpoint(host: str, port: int | str) -> str:
    """A ZeroMQ endpoint; IPv6 addresses in brackets."""
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def _server(context: zmq.Context[zmq.Socket[bytes]], kind: int, keys: DeviceKeys, timing: Timing) -> zmq.Socket[bytes]:
    socket = _any(context, kind, timing)
    public, secret = keys.curve_z85()
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
    socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
    return socket


def _client(
    context: zmq.Context[zmq.Socket[bytes]], kind: int, keys: DeviceKeys, timing: Timing, server_key: bytes
) -> zmq.Socket[bytes]:
    from zmq.utils import z85

    socket = _any(context, kind, timing)
    public, secret = keys.curve_z85()
    socket.setsockopt(zmq.CURVE_SERVERKEY, z85.encode(server_key))
    socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
    socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_NEVER_MS)
    return socket


def _any(context: zmq.Context[zmq.Socket[bytes]], kind: int, timing: Timing) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.IPV6, 1)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.HANDSHAKE_IVL, _ms(timing.handshake))
    socket.setsockopt(zmq.HEARTBEAT_IVL, _ms(timing.heartbeat))
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _ms(timing.heartbeat_timeout))
    socket.setsockopt(zmq.HEARTBEAT_TTL, _ms(timing.heartbeat_timeout))
    socket.setsockopt(zmq.TCP_MAXRT, _ms(timing.stall))
    return socket


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
