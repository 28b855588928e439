"""What the kernel knows about ZeroMQ's TCP connections, and the one thing that ZeroMQ cannot do: end one of them.

ZeroMQ reports the descriptors of its connections (monitor events, ZMQ_SRCFD on frames). They are its own: here they are
never closed, only read (TCP_INFO) or shut down, after which ZeroMQ's I/O thread sees the end of the stream and releases
everything that was queued.

A descriptor can be reused between ZeroMQ's close and our hearing of it. Callers drain the events first, which leaves
microseconds, in which the worst that happens is that another connection is cut, and opened again.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from typing import NamedTuple

MAX_UNDELIVERED_BYTES = 24 * 1024 * 1024
"""Received by ZeroMQ, and not delivered to us though we have read all that it has to give: a message of endlessly many
parts, which ZeroMQ would buffer without limit (524 MB in the study)."""

MAX_UNREAD_BYTES = 32 * 1024 * 1024
"""The same before we have read: whole messages, too, that came while our loop stood still. A parent stops at the credit
that it gives (8 MiB, 24 for a distant child: credit.py). One of a release without it sends 100 MB in a second at a
gigabit, and has to begin anew, where it stopped."""

FRAME_OVERHEAD_BYTES = 256
"""Allowed per delivered frame for framing and encryption, so that many small messages do not look undelivered."""

KEEPALIVE_BYTES_S = 1024
"""Allowed per second of a connection's age for heartbeats in both directions."""

_COUNTS_OFFSET = 120
_COUNTS = struct.Struct("=QQ")  # tcpi_bytes_acked, tcpi_bytes_received (linux/tcp.h, since Linux 4.1)
_MIN_RTT_OFFSET = 148
_MIN_RTT = struct.Struct("=I")  # tcpi_min_rtt in microseconds, all ones before there is one (since Linux 4.6)


class Counts(NamedTuple):
    """What a connection has done: bytes that the peer has acknowledged, and that came from it; its shortest round trip
    in seconds, 0.0 where it is not known."""

    acknowledged: int
    received: int
    rtt_s: float


def shut_down(descriptor: int) -> None:
    """End the connection; nothing happens if it has ended already."""
    with contextlib.suppress(OSError), _borrow(descriptor) as tcp:
        tcp.shutdown(socket.SHUT_RDWR)


def local_address(descriptor: int) -> str | None:
    """The address of our end; None if the connection has ended."""
    try:
        # An IPv6 socket may carry an IPv4 connection, and its name does not fit where IPv4 is expected.
        family = socket.AF_INET6 if _is_ipv6(descriptor) else socket.AF_INET
        with socket.fromfd(descriptor, family, socket.SOCK_STREAM) as tcp:
            address = ipaddress.ip_address(tcp.getsockname()[0].partition("%")[0])
    except (OSError, ValueError):
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def counts(descriptor: int) -> Counts | None:
    """What the connection has done so far; None where the kernel does not tell."""
    try:
        # Not duplicated: this is called for every child with every few chunks.
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=descriptor)
        try:
            info = tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        finally:
            tcp.detach()
        acked, received = _COUNTS.unpack_from(info, _COUNTS_OFFSET)
    except (OSError, struct.error):
        return None
    rtt_us = _MIN_RTT.unpack_from(info, _MIN_RTT_OFFSET)[0] if len(info) >= _MIN_RTT_OFFSET + _MIN_RTT.size else 0
    return Counts(acked, received, rtt_us / 1e6 if rtt_us != 0xFFFFFFFF else 0.0)


def undelivered(descriptor: int, delivered: int, age_s: float) -> int:
    """How much more, at least, has come in through this connection than it has delivered in whole messages."""
    known = counts(descriptor)
    return 0 if known is None else max(0, known.received - delivered - int(KEEPALIVE_BYTES_S * (age_s + 1)))


def _is_ipv6(descriptor: int) -> bool:
    with _borrow(descriptor) as tcp:
        return tcp.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == socket.AF_INET6


def _borrow(descriptor: int) -> socket.socket:
    return socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM)
