"""Program trees on a scripted tree under virtual time: who is below whom is given, messages may be lost."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from edgefl.learning.program.broadcasts import Broadcast
from edgefl.learning.program.programs import Programs
from edgefl.learning.program.root_sum import Sum
from edgefl.learning.program.tree import ProgramTree
from edgefl.wire import Contact, Message, decode, encode

LATENCY_S = 0.01


@dataclass
class Place:
    is_root: bool
    parent: Contact | None
    children: tuple[Child, ...]
    height: int
    depth: int
    members: int


@dataclass
class Child:
    contact: Contact


@dataclass
class Device:
    """One device with one tree; what its program has heard. Implements `Trees`, `Effects` and `Listener`."""

    world: ProgramWorld
    contact: Contact
    programs: Programs = field(init=False)
    tree_: ProgramTree = field(init=False)
    random: random.Random = field(init=False)
    timers: dict[Any, int] = field(default_factory=dict)
    heard: list[Broadcast] = field(default_factory=list)
    published: list[tuple[int, bool]] = field(default_factory=list)
    sums: list[Sum] = field(default_factory=list)
    alive: bool = True

    def __post_init__(self) -> None:
        self.random = random.Random(self.contact.node_id)
        self.programs = Programs(self, self, self)
        self.tree_ = self.programs.create("test", values=self.world.values, deadline_s=10.0)

    @property
    def payloads(self) -> list[bytes]:
        return [one.payload for one in self.heard]

    def publish(self, payload: bytes, patience_s: float = 30.0) -> int | None:
        return self.tree_.publish(payload, self.world.now, patience_s)

    def give(self, round_: int, vector: Any, weight: int = 1) -> bool:
        return self.tree_.give(round_, vector, weight, self.world.now)

    # Trees

    def tree(self, app: int) -> Place:
        return self.world.place(self.contact.node_id)

    def join_tree(self, app: int, now: float) -> None: ...

    def leave_tree(self, app: int, now: float) -> None: ...

    def watch_tree(self, app: int, until: float, now: float) -> None: ...

    # Effects

    def send(self, to: Contact, message: Message) -> None:
        assert decode(encode(message)) == message, "the message does not survive the wire"
        self.world.post(self, to.node_id, message)

    def set_timer(self, key: Any, at: float) -> None:
        serial = self.timers[key] = self.timers.get(key, 0) + 1
        self.world.at(at, lambda now: self._fire(key, serial, now))

    def cancel_timer(self, key: Any) -> None:
        self.timers[key] = self.timers.get(key, 0) + 1

    def _fire(self, key: Any, serial: int, now: float) -> None:
        if self.alive and self.timers.get(key) == serial:
            assert self.programs.on_timer(key, now)

    # Listener

    def on_broadcast(self, tree: int, broadcast: Broadcast) -> None:
        self.heard.append(broadcast)

    def on_published(self, tree: int, serial: int, *, delivered: bool) -> None:
        self.published.append((serial, delivered))

    def on_sum(self, tree: int, result: Sum) -> None:
        self.sums.append(result)


class ProgramWorld:
    """Devices 1 to n. `tap` decides on each message whether it passes."""

    def __init__(self, devices: int, *, values: int = 2, seed: int = 0, loss: float = 0.0) -> None:
        self.now = 0.0
        self.values = values
        self.loss = loss
        self.random = random.Random(seed)
        self.tap: Callable[[int, int, Message], bool] = lambda sender, to, message: True
        self.parent_of: dict[int, int] = {}
        self.root: int | None = None
        self._heap: list[tuple[float, int, Callable[[float], None]]] = []
        self._serial = 0
        self.devices = {n: Device(self, Contact(n, f"10.0.0.{n}", 4000)) for n in range(1, devices + 1)}

    # Time

    def at(self, when: float, call: Callable[[float], None]) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (when, self._serial, call))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            when, _, call = heapq.heappop(self._heap)
            self.now = max(self.now, when)
            call(self.now)
        self.now = end

    def post(self, sender: Device, to: int, message: Message) -> None:
        receiver = self.devices[to]
        if self.random.random() < self.loss or not self.tap(sender.contact.node_id, to, message):
            return

        def arrive(now: float) -> None:
            if receiver.alive:
                assert receiver.programs.on_message(sender.contact, message, now)

        self.at(self.now + LATENCY_S, arrive)

    # The tree

    def start(self, parents: dict[int, int]) -> None:
        """The tree forms as scripted (child -> parent; who is missing is the root), and its root takes office."""
        self.crown(next(number for number in self.devices if number not in parents))
        for child in sorted(parents, key=lambda number: self._depth(number, parents)):
            self.attach(child, parents[child])
        self.run(6.0)

    def _depth(self, number: int, parents: dict[int, int]) -> int:
        return 0 if number not in parents else 1 + self._depth(parents[number], parents)

    def attach(self, child: int, parent: int) -> None:
        self.detach(child)
        self.parent_of[child] = parent
        if self.root == child:
            self.root = None
        c, p = self.devices[child], self.devices[parent]
        p.programs.on_child(p.tree_.id, c.contact, self.now)
        c.programs.on_parent(c.tree_.id, p.contact, self.now)

    def detach(self, child: int) -> None:
        parent = self.parent_of.pop(child, None)
        if parent is not None and self.devices[parent].alive:
            self.devices[parent].programs.on_child_gone(self.devices[parent].tree_.id, child, self.now)

    def crown(self, number: int) -> None:
        self.detach(number)
        self.root = number
        device = self.devices[number]
        device.programs.on_root(device.tree_.id, self.now)

    def kill(self, number: int) -> None:
        """The device is gone, and its neighbours notice at once."""
        self.devices[number].alive = False
        self.detach(number)
        for child in [c for c, p in self.parent_of.items() if p == number]:
            del self.parent_of[child]
        if self.root == number:
            self.root = None

    def place(self, number: int) -> Place:
        children = tuple(Child(self.devices[c].contact) for c, p in self.parent_of.items() if p == number)
        parent = self.parent_of.get(number)
        return Place(
            is_root=self.root == number,
            parent=self.devices[parent].contact if parent is not None else None,
            children=children,
            height=self._height(number),
            depth=self._depth(number, self.parent_of),
            members=self._members(number),
        )

    def _height(self, number: int) -> int:
        return max((1 + self._height(c) for c, p in self.parent_of.items() if p == number), default=0)

    def _members(self, number: int) -> int:
        return 1 + sum(self._members(c) for c, p in self.parent_of.items() if p == number)
