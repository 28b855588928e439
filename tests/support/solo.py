"""One device alone with the test: every peer is played by hand, every message sent can be looked at."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from edgefl.overlay import Overlay
from edgefl.sim.event_log import EventLog
from edgefl.wire import Contact, Message
from edgefl.wire.overlay import Announce, Ping, Pong, Route, RouteAck
from support.overlay_contacts import contact, is_valid

if TYPE_CHECKING:
    from edgefl.effects import TimerKey
    from edgefl.sim.network import Handler

M = TypeVar("M", bound=Message)


class Solo:
    """Implements `Effects` for one device; time passes when the test says so."""

    def __init__(self, seed: int = 1) -> None:
        self.now = 0.0
        self.sent: list[tuple[Contact, Message]] = []
        self.handlers: list[Handler] = []
        self.late_s = 0.0
        """How late timers fire: this device is busy."""
        self._random = Random(seed)
        self._timers: dict[TimerKey, float] = {}
        self._inbox: list[tuple[Contact, Message]] = []

    @property
    def random(self) -> Random:
        return self._random

    def send(self, to: Contact, message: Message) -> None:
        self.sent.append((to, message))

    def set_timer(self, key: TimerKey, at: float) -> None:
        self._timers[key] = at

    def cancel_timer(self, key: TimerKey) -> None:
        self._timers.pop(key, None)

    def timers(self) -> dict[TimerKey, float]:
        return dict(self._timers)

    def receive(self, sender: Contact, message: Message) -> bool:
        """Hand a peer's message to the device. False if nobody wants it."""
        return any(handler.on_message(sender, message, self.now) for handler in self.handlers)

    def advance(self, seconds: float) -> None:
        """Let time pass, firing timers in order."""
        until = self.now + seconds
        while True:
            while self._inbox:
                self.receive(*self._inbox.pop(0))
            due = [(at, index, key) for index, (key, at) in enumerate(self._timers.items()) if at <= until]
            if not due:
                break
            at, _, key = min(due, key=lambda item: item[:2])
            del self._timers[key]
            self.now = max(self.now, at) + self.late_s
            for handler in self.handlers:
                handler.on_timer(key, self.now)
        self.now = max(self.now, until)

    def take(self, kind: type[M], to: Contact | None = None) -> list[M]:
        """Remove and return what was sent of this type (to this device)."""
        found, left = [], []
        for receiver, message in self.sent:
            if isinstance(message, kind) and (to is None or receiver.node_id == to.node_id):
                found.append(message)
            else:
                left.append((receiver, message))
        self.sent = left
        return found


class SoloOverlay(Solo):
    """An overlay whose peers answer pings and acknowledge requests by themselves while they are in `reachable`."""

    def __init__(self, node_id: int = 1 << 63, *, seed: int = 1, **changes: Any) -> None:
        super().__init__(seed)
        self.log = EventLog()
        self.reachable: dict[int, Contact] = {}
        self.overlay = Overlay(contact(node_id, **changes), self, self.log, verify=is_valid)
        self.handlers = [self.overlay]

    def send(self, to: Contact, message: Message) -> None:
        super().send(to, message)
        peer = self.reachable.get(to.node_id)
        if peer is None:
            return
        if isinstance(message, Ping):
            self._inbox.append((peer, Pong(message.request, True)))
        elif isinstance(message, Route):
            self._inbox.append((peer, RouteAck(message.origin.node_id, message.request)))

    def start(self, *peers: Contact) -> SoloOverlay:
        """Begin as the first device, then meet these peers, all of them reachable."""
        self.overlay.start(self.now, first=True)
        for peer in peers:
            self.meet(peer)
        self.sent.clear()
        return self

    def meet(self, peer: Contact) -> None:
        self.reachable[peer.node_id] = peer
        self.receive(peer, Announce())

    def cut(self, *peers: Contact) -> None:
        """These no longer answer."""
        for peer in peers:
            self.reachable.pop(peer.node_id, None)
