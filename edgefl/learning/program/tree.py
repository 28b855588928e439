"""One tree of a program on one device: where it stands in the tree, and what the two parts need of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from edgefl.effects import Effects
from edgefl.learning.program.broadcasts import Broadcast, Broadcasts
from edgefl.learning.program.root_sum import Sum
from edgefl.learning.program.sums import Sums
from edgefl.wire import Contact, Message
from edgefl.wire.program import ProgramBroadcast, ProgramPublish, ProgramStanding, ProgramSum, ProgramSumAck

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Place(Protocol):
    """A device's place in a tree: `height` of its subtree with `members` in it, `depth` below the root."""

    @property
    def is_root(self) -> bool: ...
    @property
    def parent(self) -> Contact | None: ...
    @property
    def children(self) -> Sequence[Child]: ...
    @property
    def height(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def members(self) -> int: ...


class Child(Protocol):
    @property
    def contact(self) -> Contact: ...


class Trees(Protocol):
    """The overlay, as programs need to see it."""

    @property
    def contact(self) -> Contact: ...
    def tree(self, app: int) -> Place | None: ...
    def join_tree(self, app: int, now: float) -> None: ...
    def leave_tree(self, app: int, now: float) -> None: ...
    def watch_tree(self, app: int, until: float, now: float) -> None: ...


class Listener(Protocol):
    """The program. Must not block."""

    def on_broadcast(self, tree: int, broadcast: Broadcast) -> None:
        """The next broadcast, in the order that all members see."""

    def on_published(self, tree: int, serial: int, *, delivered: bool) -> None:
        """The own broadcast is out, or nobody can tell whether it is."""

    def on_sum(self, tree: int, result: Sum) -> None:
        """This device is the root, and a round is over."""


def tree_id(name: str) -> int:
    """64 bits of BLAKE2b over the name: the tree's key in the overlay, the same on all devices of the fleet."""
    digest = hashlib.blake2b(name.encode(), digest_size=8, person=b"edgefl program")
    return int.from_bytes(digest.digest(), "big")


class ProgramTree:
    """Broadcasts and sums in the tree `name`. `values`: how many float32 a sum has; `deadline_s`: how long a root waits
    for the vectors of a round."""

    def __init__(
        self, name: str, *, values: int, deadline_s: float, trees: Trees, effects: Effects, listener: Listener
    ) -> None:
        self.id = tree_id(name)
        self.name = name
        self.values = values
        self.deadline_s = deadline_s
        self.listener = listener
        self.counters: dict[str, int] = {}
        self._trees = trees
        self._effects = effects
        self.broadcasts = Broadcasts(self, trees.contact.incarnation)
        self.sums = Sums(self)

    # Where this device stands

    @property
    def me(self) -> Contact:
        return self._trees.contact

    @property
    def place(self) -> Place | None:
        return self._trees.tree(self.id)

    @property
    def is_root(self) -> bool:
        place = self.place
        return place is not None and place.is_root

    @property
    def parent(self) -> Contact | None:
        place = self.place
        return place.parent if place is not None else None

    @property
    def members(self) -> int:
        """In this device's subtree; at the root, of the whole tree."""
        place = self.place
        return max(1, place.members) if place is not None else 1

    @property
    def height(self) -> int:
        place = self.place
        return place.height if place is not None else 0

    @property
    def depth(self) -> int:
        place = self.place
        return place.depth if place is not None else 0

    def children(self) -> tuple[Contact, ...]:
        place = self.place
        return tuple(child.contact for child in place.children) if place is not None else ()

    def neighbours(self) -> tuple[Contact, ...]:
        parent = self.parent
        return self.children() if parent is None else (parent, *self.children())

    def has_child(self, node_id: int) -> bool:
        return any(child.node_id == node_id for child in self.children())

    def is_neighbour(self, node_id: int) -> bool:
        return any(contact.node_id == node_id for contact in self.neighbours())

    # What the parts ask for

    def count(self, name: str) -> None:
        self.counters[name] = self.counters.get(name, 0) + 1

    def send(self, to: Contact, message: Message) -> None:
        self._effects.send(to, message)

    def send_standing(self, to: Contact, *, ask: bool = False) -> None:
        """How far this device is, and which rounds are over."""
        epoch, sequence = self.broadcasts.newest
        self.send(to, ProgramStanding(self.id, epoch, sequence, self.sums.closed(), ask))

    def set_timer(self, name: str, at: float) -> None:
        self._effects.set_timer(("program", self.id, name), at)

    def cancel_timer(self, name: str) -> None:
        self._effects.cancel_timer(("program", self.id, name))

    def watch(self, until: float, now: float) -> None:
        """A round is open: neighbours are watched closely, as in an application's round."""
        self._trees.watch_tree(self.id, until, now)

    # Life cycle

    def join(self, now: float) -> None:
        self._trees.join_tree(self.id, now)

    def leave(self, now: float) -> None:
        for name in (*Broadcasts.TIMERS, *Sums.TIMERS):
            self.cancel_timer(name)
        self._trees.leave_tree(self.id, now)

    # What the program wants

    def publish(self, payload: bytes, now: float, patience_s: float) -> int | None:
        return self.broadcasts.publish(payload, now, patience_s)

    def give(self, round_: int, vector: NDArray[np.float32], weight: int, now: float) -> bool:
        return self.sums.give(round_, vector, weight, now)

    # Events

    def on_root(self, now: float) -> None:
        self.broadcasts.on_root(now)
        self.sums.on_root(now)

    def on_parent(self, parent: Contact, now: float) -> None:
        self.broadcasts.on_parent(parent, now)
        self.sums.on_parent(now)

    def on_child(self, child: Contact, now: float) -> None:
        self.broadcasts.on_child(child, now)
        self.sums.on_members(now)

    def on_child_gone(self, child: int, now: float) -> None:
        self.broadcasts.on_gone(child)
        self.sums.on_members(now)

    def on_message(self, sender: Contact, message: Message, now: float) -> None:
        if isinstance(message, ProgramBroadcast):
            self.broadcasts.on_broadcast(sender, message, now)
        elif isinstance(message, ProgramPublish):
            self.broadcasts.on_publish(sender, message, now)
        elif isinstance(message, ProgramSum):
            self.sums.on_sum(sender, message, now)
        elif isinstance(message, ProgramSumAck):
            self.sums.on_ack(sender, message, now)
        elif isinstance(message, ProgramStanding):
            self._on_standing(sender, message, now)

    def _on_standing(self, sender: Contact, message: ProgramStanding, now: float) -> None:
        if not self.is_neighbour(sender.node_id):
            self.count("standing_not_from_neighbour")
            return
        parent = self.parent
        # A child is believed only by a root that does not know yet what the one before it has done.
        if (self.is_root and not self.broadcasts.in_office) or (parent and parent.node_id == sender.node_id):
            self.sums.on_closed(message.closed, now)
        self.broadcasts.on_standing(sender, (message.epoch, message.sequence), now)
        if message.ask:
            self.send_standing(sender)

    def on_timer(self, name: str, now: float) -> None:
        if name in Broadcasts.TIMERS:
            self.broadcasts.on_timer(name, now)
        elif name in Sums.TIMERS:
            self.sums.on_timer(now)
