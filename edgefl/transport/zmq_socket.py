"""ZeroMQ sockets on an asyncio loop, without losing a readiness signal.

ZMQ_FD is edge-triggered in spirit: it becomes readable when the socket's state may have changed, and any call on the
socket (a send, an option) can consume that signal. An unrelated send swallowed it in 197 of 201 trials. Hence the two
rules of this file, and its invariant:

  1. a turn receives until ZeroMQ says EAGAIN (having then processed every pending command), or schedules another turn;
  2. every operation on a socket schedules a turn.

Invariant: whenever the loop is idle, the last thing that was done on the socket was a receive that said EAGAIN.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import struct
from collections.abc import Callable, Sequence
from typing import TypeAlias

import zmq

from edgefl.transport.tcp_info import FRAME_OVERHEAD_BYTES

log = logging.getLogger(__name__)

TURN_MESSAGES = 64
"""Messages handled before other sockets get their turn: about 1 ms of small messages."""

TURN_S = 0.005
"""Time after which other sockets get their turn, with one message more at most: the loop must not be held up for 20 ms,
and checking a chunk takes 0.4 ms here, 3 ms on a small device."""

MAX_PARTS = 4
"""Parts of a message that are looked at; ours have at most three. The rest of a longer one is thrown away."""

Parts: TypeAlias = "list[zmq.Frame]"

MONITORED = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_CONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
"""Not ACCEPT_FAILED: at the descriptor limit it comes 66,000 times."""

_EVENT = struct.Struct("=Hi")
_names = itertools.count()


class LoopSocket:
    """One ZeroMQ socket on the running asyncio loop.

    `on_message` receives each message as its frames (at most `max_parts`), `on_writable` is called after a send was
    refused and the socket can take more. Whatever they raise is logged and does not stop the socket. `delivered` counts
    the bytes that have come through, with an allowance for framing (tcp_info.py).
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        on_message: Callable[[Parts], None],
        *,
        on_writable: Callable[[], None] | None = None,
        max_parts: int = MAX_PARTS,
    ) -> None:
        self.socket = socket
        self.closed = False
        self.delivered = 0
        self._loop = asyncio.get_running_loop()
        self._on_message = on_message
        self._on_writable = on_writable
        self._max_parts = max_parts
        self._when_empty: Callable[[], None] | None = None
        self._refused = False
        self._scheduled = False
        self._descriptor: int = socket.getsockopt(zmq.FD)  # type: ignore[assignment]
        self._loop.add_reader(self._descriptor, self._turn)
        self.touched()

    def bind(self, endpoint: str) -> int:
        """Listen at a TCP endpoint; the port in use. Raises zmq.ZMQError."""
        self.socket.bind(endpoint)
        self.touched()
        return int(bytes(self.socket.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").rpartition(b":")[2])

    def send(self, parts: Sequence[bytes | zmq.Frame]) -> bool:
        """Send one message without waiting. Frames are sent without copying.

        False when there is no room now (`on_writable` follows). Raises zmq.ZMQError for anything else, EHOSTUNREACH
        from a ROUTER among them. A message is sent whole or not at all.
        """
        last = len(parts) - 1
        try:
            for at, part in enumerate(parts):
                flags = zmq.NOBLOCK if at == last else zmq.NOBLOCK | zmq.SNDMORE
                self.socket.send(part, flags, copy=not isinstance(part, zmq.Frame))
        except zmq.Again:
            self._refused = True
            return False
        finally:
            self.touched()
        return True

    def touched(self) -> None:
        """Say that the socket was used: its next turn is on the loop."""
        if not self._scheduled and not self.closed:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def receive(self) -> Parts | None:
        """The next message, or None when there is none. Callers outside a turn must not rely on None being final."""
        try:
            frame = self.socket.recv(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        parts = [frame]
        self.delivered += len(frame) + FRAME_OVERHEAD_BYTES
        while frame.more:
            frame = self.socket.recv(zmq.NOBLOCK, copy=False)
            self.delivered += len(frame) + FRAME_OVERHEAD_BYTES
            if len(parts) < self._max_parts:
                parts.append(frame)
        return parts

    def when_empty(self, call: Callable[[], None]) -> None:
        """Call this once, after everything that is here now has been handled: before closing a socket whose connection
        has ended."""
        self._when_empty = call
        self.touched()

    def close(self, linger_s: float = 0.0) -> None:
        """Close at once; what is under way is sent for at most `linger_s` seconds, in the background."""
        if not self.closed:
            self.closed = True
            self._loop.remove_reader(self._descriptor)
            self.socket.close(linger=int(linger_s * 1000))

    def _turn(self) -> None:
        self._scheduled = False
        until = self._loop.time() + TURN_S
        for _ in range(TURN_MESSAGES):
            if self.closed:
                return
            try:
                parts = self.receive()
            except zmq.ZMQError:
                log.exception("a socket cannot be read")
                return
            if parts is None:
                self._on_empty()
                break
            self._guard(self._on_message, parts)
            if self._loop.time() >= until:
                self.touched()
                break
        else:
            self.touched()
        if self._refused and not self.closed and int(self.socket.getsockopt(zmq.EVENTS)) & zmq.POLLOUT:
            self._refused = False
            if self._on_writable is not None:
                self._guard(self._on_writable)
            self.touched()

    def _on_empty(self) -> None:
        call, self._when_empty = self._when_empty, None
        if call is not None:
            self._guard(call)

    def _guard(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            call(*arguments)
        except Exception:  # a bug in a handler must not leave messages unread behind it
            log.exception("unexpected error while handling a message")


class Monitor:
    """Connection events of a socket: `on_event(event, value)`, where the value is a descriptor or a status.

    Create it before the socket binds or connects. The queue to us is unbounded on purpose: with a bound, a loop that
    stands still would block the I/O thread. An event has 60 bytes, and each costs its cause a TCP connection.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], socket: zmq.Socket[bytes], on_event: Callable[[int, int], None]
    ) -> None:
        self._monitored = socket
        self._on_event = on_event
        address = f"inproc://edgefl-monitor-{next(_names)}"
        pair: zmq.Socket[bytes] = context.socket(zmq.PAIR)
        pair.setsockopt(zmq.RCVHWM, 0)
        socket.monitor(address, MONITORED)
        pair.connect(address)
        self._pair = LoopSocket(pair, self._parse)

    def drain(self) -> None:
        """Handle every event that is already here: before judging a connection by its descriptor."""
        while not self._pair.closed and (parts := self._pair.receive()) is not None:
            self._parse(parts)
        self._pair.touched()

    def close(self) -> None:
        """Stop monitoring. Call before closing the monitored socket."""
        if not self._pair.closed:
            self._monitored.disable_monitor()
            self._pair.close()

    def _parse(self, parts: Parts) -> None:
        event, value = _EVENT.unpack(parts[0].bytes)
        self._on_event(event, value)
