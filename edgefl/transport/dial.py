"""One outbound ZeroMQ connection to a peer, kept up for as long as it is wanted: a state machine.

             want                    card                   handshake
    IDLE ───────────> KNOCKING ───────────────> CONNECTING ───────────> UP
      │                 │  ^                       │  │                  │
      │ want, with card │  └─ failed, card was old ┘  │                  │
      └─────────────────┼───────> CONNECTING          │                  │
                        │ door shut                   │ failed           │ disconnected
                        v                             v                  v
                       LOST <─────────────────────────┴──────────────────┘
                        │ after the back-off: wanted -> KNOCKING, else -> IDLE

    close() leads to IDLE from everywhere.

Each ZeroMQ socket lives for one connection: a peer that was restarted has other ports and perhaps another key, and a
peer that has forgotten us refuses the handshake with 400, after which ZeroMQ never tries again. Both are cured by its
door. `on_lost` is called on every way into LOST, with the error if the door gave one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import Enum
from random import Random

import zmq

from edgefl.declared import dataclass
from edgefl.errors import EdgeflError
from edgefl.identity.keys import DeviceKeys
from edgefl.transport import tcp_info
from edgefl.transport.cards import Cards
from edgefl.transport.counters import Counters
from edgefl.transport.curve import endpoint
from edgefl.transport.tcp_info import local_address
from edgefl.transport.timing import Timing
from edgefl.transport.visit import Card
from edgefl.transport.zmq_socket import LoopSocket, Monitor, Parts
from edgefl.wire.contact import Contact

log = logging.getLogger(__name__)

STEADY_S = 5.0
"""A connection that lasted this long was a good one: the next back-off starts from the beginning."""


class State(Enum):
    """Where a dial stands."""

    IDLE = "idle"
    KNOCKING = "knocking"
    CONNECTING = "connecting"
    UP = "up"
    LOST = "lost"


TRANSITIONS: dict[State, frozenset[State]] = {
    State.IDLE: frozenset({State.KNOCKING, State.CONNECTING}),
    State.KNOCKING: frozenset({State.CONNECTING, State.LOST, State.IDLE}),
    State.CONNECTING: frozenset({State.UP, State.KNOCKING, State.LOST, State.IDLE}),
    State.UP: frozenset({State.LOST, State.IDLE}),
    State.LOST: frozenset({State.KNOCKING, State.CONNECTING, State.IDLE}),
}


@dataclass(slots=True)
class Station:
    """What every part of one transport shares."""

    context: zmq.Context[zmq.Socket[bytes]]
    keys: DeviceKeys
    cards: Cards
    timing: Timing
    counters: Counters
    clock: Callable[[], float]
    random: Random


@dataclass(frozen=True, slots=True)
class Line:
    """What differs between a link and a subscription: the socket, the port, and who listens."""

    open_socket: Callable[[Card], zmq.Socket[bytes]]
    port: Callable[[Card], int]
    on_parts: Callable[[Parts], None]
    on_up: Callable[[], None]
    on_lost: Callable[[EdgeflError | None], None]
    on_writable: Callable[[], None]
    wanted: Callable[[], bool]


class Dial:
    """An outbound connection to `contact`."""

    def __init__(self, station: Station, contact: Contact, line: Line) -> None:
        self.contact = contact
        self.state = State.IDLE
        self.socket: LoopSocket | None = None
        self._station = station
        self._line = line
        self._monitor: Monitor | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failures = 0
        self._up_since = 0.0
        self.descriptor = -1
        """Of the connection, while it is up."""
        self._asked = 0
        self._card_is_fresh = False
        self._ending = False

    @property
    def up(self) -> bool:
        """Whether something can be sent: connected, and as far as we know not at its end."""
        return self.state is State.UP and not self._ending

    def want(self, contact: Contact | None = None) -> None:
        """The connection is needed, at this contact if it is news. An answer comes through `on_up` or `on_lost`."""
        news = False
        if contact is not None and contact.incarnation >= self.contact.incarnation:
            known, self.contact = self.contact, contact
            news = (contact.host, contact.port, contact.incarnation) != (known.host, known.port, known.incarnation)
            if news:
                self._failures = 0
        if self.state is State.IDLE or (self.state is State.LOST and news):
            card = self._station.cards.get(self.contact.node_id)
            if card is not None and card.contact.incarnation >= self.contact.incarnation:
                self._connect(card, fresh=False)
            else:
                self._knock()

    def redial(self) -> None:
        """This connection leads nowhere any more: open another one at once. Nobody is called for the lost one."""
        if self.state is not State.IDLE:
            self._failures = 0
            self.close()
            self.want()

    def leaves_from(self, addresses: frozenset[str]) -> bool:
        """Whether our end of the connection has one of these addresses (True when there is no telling)."""
        return self.state is not State.UP or local_address(self.descriptor) in {None, *addresses}

    def sweep(self) -> None:
        """Give a peer up that sends a message without end. Call about once a second."""
        if self.socket is not None and not self._ending:
            unread = self._undelivered()
            if unread > tcp_info.MAX_UNREAD_BYTES:
                self._judge()
            elif unread > tcp_info.MAX_UNDELIVERED_BYTES:
                self.socket.when_empty(self._judge)

    def _judge(self) -> None:
        if self._undelivered() > tcp_info.MAX_UNDELIVERED_BYTES:
            self._station.counters["dropped.endless-message"] += 1
            self._lose(None)

    def _undelivered(self) -> int:
        """Bytes that have come in and were not delivered in whole messages."""
        if self.state is not State.UP or self.socket is None:
            return 0
        age_s = self._station.clock() - self._up_since
        return tcp_info.undelivered(self.descriptor, self.socket.delivered, age_s)

    def close(self, linger_s: float = 0.0) -> None:
        """Give the connection up without calling anybody."""
        if self.state is not State.IDLE:
            self._enter(State.IDLE, linger_s=linger_s)

    def _enter(self, state: State, *, linger_s: float = 0.0) -> None:
        if state not in TRANSITIONS[self.state]:
            raise RuntimeError(f"no way from {self.state} to {state}")
        self.state = state
        self._ending = False
        self._asked += 1  # an answer from the door to an earlier question is no longer of interest
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if state is not State.UP:
            self._drop_socket(linger_s)

    def _knock(self) -> None:
        self._enter(State.KNOCKING)
        asked = self._asked
        self._station.cards.ask(self.contact, lambda outcome: self._on_card(asked, outcome))

    def _on_card(self, asked: int, outcome: Card | EdgeflError) -> None:
        if asked != self._asked:
            return
        if isinstance(outcome, Card):
            self._connect(outcome, fresh=True)
        else:
            self._lose(outcome)

    def _connect(self, card: Card, *, fresh: bool) -> None:
        station = self._station
        self._enter(State.CONNECTING)
        self._card_is_fresh = fresh
        self._timer = asyncio.get_running_loop().call_later(station.timing.connect, self._fail)
        try:
            socket = self._line.open_socket(card)
            self._monitor = Monitor(station.context, socket, self._on_event)
            self.socket = LoopSocket(socket, self._line.on_parts, on_writable=self._line.on_writable)
            socket.connect(endpoint(card.host, self._line.port(card)))
        except zmq.ZMQError as error:  # a port that cannot be, or no descriptors left on this device
            log.warning("no connection to %s: %s", self.contact, error)
            station.counters["errors"] += 1
            self._lose(None)

    def _on_event(self, event: int, value: int) -> None:
        if event == zmq.EVENT_CONNECTED:
            self.descriptor = value
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED and self.state is State.CONNECTING:
            self._enter(State.UP)
            self._up_since = self._station.clock()
            self._line.on_up()
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            pass  # of a connection that was given up meanwhile
        elif self.state is State.UP and self.socket is not None:
            # First the last words of a peer that left; they may even be a Bye.
            self._ending = True
            self.socket.when_empty(self._on_end)
        elif self.state is State.CONNECTING:
            self._fail()

    def _on_end(self) -> None:
        if self.state is State.UP:
            self._lose(None)

    def _fail(self) -> None:
        """No connection with this card."""
        self._station.cards.forget(self.contact.node_id)
        if self._card_is_fresh:
            self._lose(None)
        else:
            self._knock()

    def _lose(self, error: EdgeflError | None) -> None:
        station = self._station
        if self.state is State.UP and station.clock() - self._up_since > STEADY_S:
            self._failures = 0
        self._enter(State.LOST)
        delay = min(station.timing.backoff_max, station.timing.backoff_first * 2.0 ** min(self._failures, 16))
        self._failures += 1
        # Spread over half the delay: the neighbours of a device that returns must not all knock in the same instant.
        delay *= 0.5 + 0.5 * station.random.random()
        self._timer = asyncio.get_running_loop().call_later(delay, self._on_backoff_over)
        self._line.on_lost(error)

    def _on_backoff_over(self) -> None:
        self._timer = None
        if self._line.wanted():
            self._knock()
        else:
            self._enter(State.IDLE)

    def _drop_socket(self, linger_s: float) -> None:
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None
        if self.socket is not None:
            self.socket.close(linger_s)
            self.socket = None
