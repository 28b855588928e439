"""A network under virtual time that loses, repeats, reorders and cuts, and devices on it.

A `SimNode` is the world of one device: it implements the `Effects` of the core, and hands messages and timers to its
handlers in turn, the first that knows them takes them (the overlay, then whatever is built on top). Everything random
comes from seeded generators, one per device and one for the network, so the same seed gives the same run.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Protocol
from zlib import crc32

from edgefl.sim.clock import Clock
from edgefl.sim.rtt_model import Place, RttModel
from edgefl.wire import Contact, Message, Role, decode, encode

if TYPE_CHECKING:
    from edgefl.effects import TimerKey

PACKET_OVERHEAD_BYTES = 52
"""Per message on the wire: UDP/IPv4 28, session and counter 8, AEAD 16 (overlay study 1.6)."""


SPIKE_FACTOR = 5.0
"""How much longer than usual a spike takes, at most (as in the study of zones)."""

LINK_IDLE_S = 180.0
"""A link without messages for so long is closed by the transport, and dialled again for the next one."""

_SEND = struct.Struct("<dQQ")


class Handler(Protocol):
    """A part of a device that takes messages and timers. Both answer False for what is not theirs."""

    def on_message(self, sender: Contact, message: Message, now: float) -> bool: ...
    def on_timer(self, key: TimerKey, now: float) -> bool: ...


@dataclass(slots=True)
class Faults:
    """What goes wrong, as probabilities per message; may be changed while running."""

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    reorder_s: float = 0.2
    delay_s: float = 0.0  # every message takes so much longer
    jitter: float = 0.1  # of the one-way delay
    spike: float = 0.0  # a message that takes much longer than usual: up to five times
    dial_rtts: float = 0.0  # round trips before the first message on a link that is new or was idle (door and CURVE: 7)


class Network:
    """Carries messages between the devices that are registered by their address."""

    def __init__(self, clock: Clock, model: RttModel, random: Random, *, wire: bool = False) -> None:
        """With `wire`, every message is really encoded and decoded; without, it is only encoded to be counted."""
        self.clock = clock
        self.model = model
        self.faults = Faults()
        self.sides: Callable[[SimNode], Hashable] | None = None
        """While set, messages pass only between devices of the same side."""
        self.messages = 0
        self.bytes = 0
        self.digest = 0
        """A checksum of everything that was ever sent: when, by whom, to whom, what. Equal runs have equal digests."""
        self.by_type: Counter[str] = Counter()
        self._random = random
        self._wire = wire
        self._nodes: dict[int, SimNode] = {}
        self._links: dict[tuple[int, int], tuple[float, float]] = {}

    def attach(self, node: SimNode) -> None:
        self._nodes[node.contact.node_id] = node

    def detach(self, node: SimNode) -> None:
        if self._nodes.get(node.contact.node_id) is node:
            del self._nodes[node.contact.node_id]

    def send(self, origin: SimNode, to: Contact, message: Message) -> None:
        data = encode(message)
        size_bytes = len(data) + PACKET_OVERHEAD_BYTES
        self.messages += 1
        self.bytes += size_bytes
        self.by_type[type(message).__name__] += size_bytes
        clock, sender = self.clock, origin.contact
        now, sender_id, to_id = clock.now, sender.node_id, to.node_id
        self.digest = crc32(_SEND.pack(now, sender_id, to_id) + data, self.digest)
        origin.sent_bytes += size_bytes
        if sender.role is Role.LEAF:
            origin.dialled.add(to_id)
        node = self._nodes.get(to_id)
        if node is None:
            return
        at = node.contact
        if at is not to and (at.host != to.host or at.port != to.port):
            return  # it has moved
        if at.role is Role.LEAF and sender_id not in node.dialled:
            return  # behind a NAT: there is no link that it has dialled
        random, faults = self._random.random, self.faults
        if faults.loss and random() < faults.loss:
            return
        if self._wire:
            decoded = decode(data)
            if decoded is None:
                raise ValueError(f"{type(message).__name__} does not survive the wire")
            message = decoded
        rtt_s = self.model.rtt_s(origin.place, node.place)
        delay_s = rtt_s / 2 * (1 + faults.jitter * random()) + faults.delay_s
        if faults.spike and random() < faults.spike:
            delay_s *= 1 + (SPIKE_FACTOR - 1) * random()
        if faults.dial_rtts:
            delay_s += self._dial_s(origin, node, rtt_s * faults.dial_rtts)
        if faults.reorder and random() < faults.reorder:
            delay_s += faults.reorder_s * random()
        clock.at(now + delay_s + node.slow_s, self._arrive, origin, node, sender, message)
        if faults.duplicate and random() < faults.duplicate:
            again_s = delay_s + faults.reorder_s * random()
            clock.at(now + again_s + node.slow_s, self._arrive, origin, node, sender, message)

    def _dial_s(self, origin: SimNode, node: SimNode, dial_s: float) -> float:
        """How long the message waits for its link, which one of both dials if it is not up."""
        now, a, b = self.clock.now, origin.contact.node_id, node.contact.node_id
        link = (min(a, b), max(a, b))
        up_at, used_at = self._links.get(link, (0.0, float("-inf")))
        if now - used_at > LINK_IDLE_S:
            up_at = now + dial_s
        self._links[link] = (up_at, now)
        return max(0.0, up_at - now)

    def _arrive(self, origin: SimNode, node: SimNode, sender: Contact, message: Message) -> None:
        if self.clock.now < node.asleep_until:
            self.clock.at(node.asleep_until, self._arrive, origin, node, sender, message)
        elif self.sides is None or self.sides(origin) == self.sides(node):
            node.receive(sender, message)


class SimNode:
    """One device: where it stands, its clock, its timers, its handlers. Implements `Effects`."""

    __slots__ = (
        "_ahead_s",
        "_serial",
        "_timers",
        "alive",
        "asleep_until",
        "contact",
        "dialled",
        "handlers",
        "network",
        "place",
        "random",
        "sent_bytes",
        "slow_s",
    )

    def __init__(self, network: Network, contact: Contact, place: Place, seed: int) -> None:
        self.network = network
        self.contact = contact
        self.place = place
        self.alive = True
        self.slow_s = 0.0
        """How late this device gets round to messages and timers: a busy or weak device."""
        self.asleep_until = 0.0
        """Stopped until then: messages wait in its sockets, timers are late."""
        self.sent_bytes = 0
        self.dialled: set[int] = set()
        self.handlers: list[Handler] = []
        self._ahead_s = 0.0
        self.random = Random(seed)
        self._timers: dict[TimerKey, tuple[int, float]] = {}
        self._serial = 0
        network.attach(self)

    # Effects

    def send(self, to: Contact, message: Message) -> None:
        if self.alive:
            self.network.send(self, to, message)

    def set_timer(self, key: TimerKey, at: float) -> None:
        self._serial += 1
        self._timers[key] = (self._serial, at)
        clock = self.network.clock
        clock.at(max(at - self._ahead_s, clock.now) + self.slow_s, self._fire, key, self._serial)

    def cancel_timer(self, key: TimerKey) -> None:
        self._timers.pop(key, None)

    # Events

    @property
    def now(self) -> float:
        """The time on this device's own monotonic clock, in seconds."""
        return self.network.clock.now + self._ahead_s

    def jump(self, seconds: float) -> None:
        """The device's clock leaps ahead (a monotonic clock never goes back), and what is due by then fires."""
        self._ahead_s += seconds
        for key, (_, at) in list(self._timers.items()):
            self.set_timer(key, at)

    def receive(self, sender: Contact, message: Message) -> None:
        if self.alive:
            now = self.network.clock.now + self._ahead_s
            for handler in self.handlers:
                if handler.on_message(sender, message, now):
                    return

    def die(self) -> None:
        """Vanish without a word."""
        self.alive = False
        self._timers.clear()
        self.network.detach(self)

    def _fire(self, key: TimerKey, serial: int) -> None:
        if self.network.clock.now < self.asleep_until:
            self.network.clock.at(self.asleep_until, self._fire, key, serial)
        elif self.alive and (timer := self._timers.get(key)) is not None and timer[0] == serial:
            del self._timers[key]
            now = max(timer[1], self.network.clock.now + self._ahead_s)  # a sum may be rounded to before its time
            for handler in self.handlers:
                if handler.on_timer(key, now):
                    return
