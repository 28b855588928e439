"""Who is subscribed to what we push, how far each of them has come, and who is too slow to be pushed to.

The XPUB is a manual one: a subscription counts once we have accepted it, so nobody is sent a single chunk before it was
checked. A child subscribes to an application; we accept it on one of two lanes, which are topics that begin with the
application's:

    FAST_LANE   the chunks are pushed
    SLOW_LANE   headers alone; the child asks for the chunks, at its own pace (pull.py)

A child that stays far behind while others have room is cut off, which drops everything that was queued for it, and is
accepted on the slow lane when it comes back. It may have been busy, or its line, and not slow: after a time it gets
another chance, by a new connection between two blobs, the later the more often it has failed.

Each child's progress is what its TCP connection has acknowledged against what was pushed into it: bytes, not messages,
and including what the kernel holds. What it has not taken from its connection yet is in its memory, and has a bound of
its own (credit.py): a child whose loop stands still is waited for, half a second while others have room, and cut off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from dataclasses import field

import zmq

from edgefl.declared import dataclass
from edgefl.transport.credit import SPARE_CREDIT_BYTES, Credit, Hold, limit_bytes
from edgefl.transport.curve import open_broadcast_server
from edgefl.transport.dial import Station
from edgefl.transport.inbound import Connection, Inbound
from edgefl.transport.penalties import Penalties
from edgefl.transport.slow_lane import SlowLane
from edgefl.transport.tcp_info import counts
from edgefl.transport.zmq_socket import LoopSocket, Parts

MAX_APPS = 256
"""Applications that one device takes part in, or that one child subscribes to."""

APP_BYTES = 8
TOPIC_BYTES = APP_BYTES + 1

FAST_LANE, SLOW_LANE = b"\0", b"\1"

MIN_WINDOW_BYTES = 512 * 1024
"""On its way to one child at the least: two chunks, one that is being sent and one behind it."""

WINDOW_S = 0.1
"""On its way to a faster child: what it takes in this time. It is how long a newcomer waits for its first turn."""

ROUND_TRIPS, SPARE_S, MAX_RTT_S = 2.0, 0.05, 1.0
"""On its way to a distant child: what it takes in so many round trips and a little. With one round trip the window
would only ever confirm the rate that it allows; with two, as in TCP's slow start, the rate doubles until the line is
full. (With WINDOW_S alone, 200 Mbit/s at 100 ms took 4.4 times the line time.)"""

LAGGING_BYTES = 16 * 1024 * 1024
"""On its way to a child that others wait no longer for. Sixteen times what a slow link needs; less than a model, or
a slow child would keep one in memory that has been discarded."""

SLOWER = 4
"""How many times slower than the fastest it is then. Children that share our uplink differ by less than that."""

LAG_S = 0.5
"""For how long it is that slow before it is cut off: a device that computes is not seen for a tenth of a second."""

RATE_HALF_S, RATE_FIRST_S = 0.1, 0.02
"""The rate is a mean that forgets half in this time, and begins with a little time of nothing: the first
acknowledgements come in a burst."""

_CURVE_BYTES, _SHORT_HEADER_BYTES, _LONG_HEADER_BYTES, _SHORT_BYTES = 33, 2, 9, 255


@dataclass(slots=True, eq=False)
class Child:
    """One subscriber. `pushed` and `acked` count bytes on its connection, `rate_bytes_s` is how fast it takes them,
    `rtt_s` the shortest round trip; `since` and `behind_since` are times. `credit` is None for one of a release that
    does not say what it has taken."""

    connection: Connection
    node_id: int
    slow: bool
    apps: set[int] = field(default_factory=set)
    pushed: int = 0
    acked: int = 0
    rate_bytes_s: float = 0.0
    rtt_s: float = 0.0
    since: float = 0.0
    behind_since: float = math.inf
    credit: Credit | None = None
    hold: Hold = field(default_factory=Hold)
    _looked: float = 0.0
    _bytes: float = 0.0
    _seconds: float = RATE_FIRST_S

    def __post_init__(self) -> None:
        self._looked = self.since

    @property
    def backlog(self) -> int:
        """Bytes that it has not acknowledged yet."""
        return self.pushed - self.acked

    @property
    def window(self) -> int:
        seconds = max(WINDOW_S, ROUND_TRIPS * min(self.rtt_s, MAX_RTT_S) + SPARE_S)
        return max(MIN_WINDOW_BYTES, int(self.rate_bytes_s * seconds))

    @property
    def line_full(self) -> bool:
        """Whether there is no room for another chunk on its line."""
        backlog = self.pushed - self.acked
        return backlog >= MIN_WINDOW_BYTES and backlog >= self.window

    @property
    def credit_bytes(self) -> int:
        """What it may have untaken."""
        return limit_bytes(self.rate_bytes_s * ROUND_TRIPS * min(self.rtt_s, MAX_RTT_S))

    @property
    def spent(self) -> bool:
        """Whether it has used up its credit."""
        return self.credit is not None and self.credit.untaken >= self.credit_bytes

    @property
    def full(self) -> bool:
        """Whether there is no room for another chunk, on its line or in its memory."""
        return self.line_full or self.spent

    @property
    def unread(self) -> int:
        """Bytes that have reached it and that it has not taken, as far as it is known: words come after others."""
        return 0 if self.credit is None else max(0, self.credit.untaken - self.backlog)

    @property
    def standing(self) -> bool:
        """Whether it has used up its credit, and that is in its memory: not on its way, where a full line keeps it."""
        return self.spent and self.unread >= self.credit_bytes - SPARE_CREDIT_BYTES

    def push(self, size: int, now: float) -> None:
        """So many bytes are on their way to it."""
        if not self.backlog:
            self._looked = now  # nothing was waiting until now: that time says nothing about its speed
        self.pushed += size

    def look(self, now: float) -> int:
        """See how far it has come; the bytes that it has acknowledged since the last look."""
        known = counts(self.connection.descriptor)
        # Where the kernel does not tell, only what ZeroMQ holds is bounded (broadcast.py).
        acked = self.pushed
        if known is not None:
            acked, self.rtt_s = known.acknowledged, known.rtt_s
        progress, elapsed = acked - self.acked, now - self._looked
        self.acked = acked
        # Heartbeats are acknowledged as well, and were never counted as pushed.
        self.pushed = max(self.pushed, acked)
        if elapsed > 0.0 and (progress or self.backlog):
            keep = 0.5 ** (elapsed / RATE_HALF_S)
            self._bytes, self._seconds = keep * self._bytes + progress, keep * self._seconds + elapsed
            self.rate_bytes_s = self._bytes / self._seconds
        self._looked = now
        return progress


class Subscribers:
    """The XPUB and its children. `on_accepted(child, app)`: a subscription counts from now on;
    `on_child_lost(node_id)`: a subscriber's connection has broken."""

    def __init__(
        self,
        station: Station,
        penalties: Penalties,
        may_subscribe: Callable[[int, int], bool],
        gives_credit: Callable[[int], bool],
        on_accepted: Callable[[Child, int], None],
        on_child_lost: Callable[[int], None],
    ) -> None:
        self._station = station
        self._penalties = penalties
        self._may_subscribe = may_subscribe
        self._gives_credit = gives_credit
        self._on_accepted = on_accepted
        self._on_child_lost = on_child_lost
        self._children: dict[Connection, Child] = {}
        self._by_app: dict[int, dict[Child, None]] = {}
        self._slow = SlowLane()
        self._delivered = 0
        bound = open_broadcast_server(station.context, station.keys, station.timing)
        self.inbound = Inbound(
            station.context, bound, station.timing, station.counters, station.clock, self._on_connection_lost
        )
        self.socket = LoopSocket(bound, self._on_subscription)

    def of(self, app: int) -> list[Child]:
        """The children of an application, on either lane."""
        return list(self._by_app.get(app, ()))

    def any(self, app: int) -> bool:
        """Whether the application has children."""
        return app in self._by_app

    def send(self, app: int, lane: bytes, parts: list[bytes | zmq.Frame], sequence: int = 0) -> int:
        """Push a message to the children on a lane; how many they are. `sequence`: its number, if it has one."""
        children = [child for child in self._by_app.get(app, ()) if child.slow is (lane == SLOW_LANE)]
        if not children:
            return 0
        message = [topic_of(app, lane), *parts]
        on_the_wire, size = sum(map(frame_bytes, map(len, message))), sum(map(len, message))
        now = self._station.clock()
        for child in children:
            child.push(on_the_wire, now)
            if child.credit is not None and sequence:
                child.credit.push(app, sequence, size, now)
        self.socket.send(message)
        self._station.counters["messages_sent"] += len(children)
        self._station.counters["bytes_sent"] += size * len(children)
        return len(children)

    def look(self, now: float) -> tuple[int, int]:
        """Bytes that children have acknowledged in all, and how many children have not acknowledged all of theirs."""
        behind = 0
        for child in self._children.values():
            if child.backlog:
                self._delivered += child.look(now)
                behind += child.backlog > 0
        return self._delivered, behind

    def have_room(self, app: int, *, pressed: bool) -> bool:
        """Whether a chunk may be pushed: some child has room for it, and none has to be waited for. Those that lag
        behind are then cut off, the sooner if memory is `pressed`."""
        children = [child for child in self._by_app.get(app, ()) if not child.slow]
        if all(child.full for child in children):
            return False
        now = self._station.clock()
        fastest = max((child.rate_bytes_s for child in children), default=0.0)
        held = False
        for child in children:
            standing = child.standing
            too_long = child.hold.note(now, holding=standing)
            # It may be that its line was full before its loop stood still: what waited for that comes on top.
            too_much = child.unread >= child.credit_bytes + 2 * SPARE_CREDIT_BYTES
            behind = child.backlog >= LAGGING_BYTES and SLOWER * child.rate_bytes_s < fastest
            child.behind_since = min(child.behind_since, now) if behind else math.inf
            if (
                too_long
                or too_much
                or now - child.behind_since >= LAG_S
                or (pressed and child.backlog >= 2 * child.window)
            ):
                self._station.counters["dropped.lagging-child"] += 1
                self._slow.cut_off(child.node_id)
                self._drop(child)
            else:
                held |= standing
        return not held

    def wait_for_word(self, app: int) -> bool:
        """Whether nothing but a child's word can make room for a chunk."""
        children = [child for child in self._by_app.get(app, ()) if not child.slow]
        return bool(children) and (all(child.spent for child in children) or any(child.standing for child in children))

    def on_taken(self, node_id: int, app: int, sequence: int) -> bool:
        """A child has taken this message; whether it has room now that it had not."""
        now, room = self._station.clock(), False
        for child in self._children.values():
            if child.node_id == node_id:
                if child.credit is None:  # its Hello came after its subscription
                    child.credit = Credit(now)
                had_none = child.spent
                child.credit.take(app, sequence, now)
                room |= had_none and not child.spent
        return room

    def give_chances(self, busy: Container[int]) -> None:
        """Let children leave the slow lane whose time there is over, but for those of applications that are `busy`.
        Call about once a second."""
        now = self._station.clock()
        for child in list(self._children.values()):
            over = now - child.since >= self._slow.seconds(child.node_id)
            if child.slow and over and not any(app in busy for app in child.apps):
                self._drop(child)

    def check(self, app: int) -> None:
        """Cut off whoever may not have what is pushed for the application any more: its zone may have changed."""
        for child in self.of(app):
            if not self._may_subscribe(child.node_id, app):
                self._station.counters["refused.subscription"] += 1
                self._drop(child)

    def sweep(self) -> None:
        """Look after connections. Call about once a second."""
        self.inbound.sweep(self.socket.when_empty)
        now = self._station.clock()
        for child in list(self._children.values()):
            # Its loop has stopped, or its words are lost: a new connection begins without debts.
            if child.credit is not None and child.spent and now - child.credit.moved_at >= self._station.timing.stall:
                self._station.counters["dropped.standing-child"] += 1
                self._drop(child)

    def cut(self, node_id: int) -> None:
        """End every subscription of a peer, now."""
        for connection in self.inbound.of(node_id):
            self.inbound.cut(connection)

    def close(self, linger_s: float) -> None:
        self.inbound.close()
        self.socket.close(linger_s)

    def _drop(self, child: Child) -> None:
        """Nothing more to this child through this connection."""
        self._forget(child)
        self.inbound.cut(child.connection)

    def _on_subscription(self, parts: Parts) -> None:
        """A child subscribes or unsubscribes. What a broken connection leaves behind comes without a name: ignored."""
        connection = self.inbound.attribute(parts[0])
        if connection is None or connection.node_id is None or connection.cut or connection.gone:
            return
        data = parts[0].bytes
        connection.deliver(parts, self._station.clock())
        kind, app = data[:1], int.from_bytes(data[1:], "big")
        if len(parts) != 1 or len(data) != 1 + APP_BYTES or kind not in (b"\0", b"\1"):
            self._garbage(connection.node_id)
        elif kind == b"\0":
            self._on_unsubscribed(connection, app)
        else:
            self._on_subscribed(connection, connection.node_id, app)

    def _on_subscribed(self, connection: Connection, node_id: int, app: int) -> None:
        child = self._children.get(connection)
        if child is None:
            now = self._station.clock()
            child = self._children[connection] = Child(connection, node_id, self._slow.takes(node_id), since=now)
            if self._gives_credit(node_id):
                child.credit = Credit(now)
            child.look(now)
        if app in child.apps:
            return
        if len(child.apps) >= MAX_APPS:
            self._garbage(node_id)
        elif not self._may_subscribe(node_id, app):
            self._station.counters["refused.subscription"] += 1
            self._drop(child)
        else:
            # A manual XPUB applies this to whoever sent what was received last.
            self.socket.socket.setsockopt(zmq.SUBSCRIBE, topic_of(app, SLOW_LANE if child.slow else FAST_LANE))
            self.socket.touched()
            child.apps.add(app)
            self._by_app.setdefault(app, {})[child] = None
            self._on_accepted(child, app)

    def _on_unsubscribed(self, connection: Connection, app: int) -> None:
        child = self._children.get(connection)
        if child is not None and app in child.apps:
            self.socket.socket.setsockopt(zmq.UNSUBSCRIBE, topic_of(app, SLOW_LANE if child.slow else FAST_LANE))
            self.socket.touched()
            child.apps.discard(app)
            self._unlist(child, app)
            if child.credit is not None:
                child.credit.forget(app)

    def _garbage(self, node_id: int) -> None:
        self._station.counters["dropped.garbage"] += 1
        self._penalties.garbage(node_id)

    def _forget(self, child: Child) -> None:
        self._children.pop(child.connection, None)
        for app in child.apps:
            self._unlist(child, app)

    def _unlist(self, child: Child, app: int) -> None:
        listed = self._by_app.get(app, {})
        listed.pop(child, None)
        if not listed:
            self._by_app.pop(app, None)

    def _on_connection_lost(self, connection: Connection) -> None:
        child = self._children.get(connection)
        if child is not None:
            self._forget(child)
        # A child that goes on purpose unsubscribes first; one that was cut off is lost if it does not come back.
        if connection.node_id is not None and (connection.cut or (child is not None and child.apps)):
            self._on_child_lost(connection.node_id)


def topic_of(app: int, lane: bytes) -> bytes:
    return app.to_bytes(APP_BYTES, "big") + lane


def frame_bytes(size: int) -> int:
    """Bytes on the connection of a frame with `size` bytes: ZMTP's header and CURVE's box around it."""
    boxed = size + _CURVE_BYTES
    return boxed + (_SHORT_HEADER_BYTES if boxed <= _SHORT_BYTES else _LONG_HEADER_BYTES)
