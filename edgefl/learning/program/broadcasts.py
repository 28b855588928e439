"""Broadcasts of one tree: every member hands them on in one order, each once.

    a member   publish            -> to its parent, hop by hop to the root; again until it comes back down
    the root   ProgramPublish     -> numbered (epoch, sequence), into the log, to all children
    anybody    ProgramBroadcast   -> handed to the program, into the log, to all other neighbours, acknowledged

The epoch is the root's (edgefl/learning/forest/epoch.py): a new root listens for a second how far its children are,
takes in what they have and it has not, and goes on in an epoch above. The order of broadcasts is that of (epoch,
sequence).

Each device keeps the newest KEPT broadcasts. Neighbours tell each other how far they are (ProgramStanding), when an
edge is new and after each broadcast, and whoever is further sends what the other one lacks, in order. So a lost message
or a change of parent costs time and nothing else, as long as a device lacks no more than its neighbours keep. Who comes
late, or was away for longer, gets what is kept. What a part of the fleet that was cut off has broadcast meanwhile, in a
lower epoch, does not reach the others any more (counted as `broadcast_late`).

A device publishes one broadcast at a time, so its own never overtake each other, and a root can tell a repetition from
a new one by the origin's newest serial. Bounded: KEPT + MAX_PENDING payloads, MAX_ORIGINS serials.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from edgefl.declared import dataclass
from edgefl.learning.forest.epoch import NODE_BITS, next_epoch, plausible
from edgefl.wire import Contact, node_name
from edgefl.wire.program import ProgramBroadcast, ProgramPublish

if TYPE_CHECKING:
    from edgefl.learning.program.tree import ProgramTree

Position = tuple[int, int]
"""(epoch, sequence) of a broadcast; larger is newer."""

KEPT = 16
"""Broadcasts kept for neighbours that lack them: half a MiB."""

MAX_PENDING = 16
"""Own broadcasts that wait until the root has numbered them."""

MAX_ORIGINS = 4096
"""Devices whose newest serial is remembered, 100 kB; the one that was silent for longest goes first."""

MAX_NUMBERED_S = 50
"""Broadcasts that a root numbers in a second: the whole fleet pays for each. Others are counted and come again."""

RECOVER_S = 1.0
"""A new root listens this long for how far its children are."""

RESEND_S = 2.0
"""What a neighbour has not acknowledged is sent again after this long."""

WINDOW_BYTES = 256 * 1024
"""Sent to a neighbour that is behind, before it has acknowledged any: a quarter of what may wait for one peer."""

RETRY_MIN_S, RETRY_MAX_S = 1.0, 8.0
"""A publication that has not come back is sent again; the pause doubles."""

SERIAL_BITS = 32
"""Of a device's count since it started, below its incarnation: serials grow over a restart, too."""


@dataclass(frozen=True, slots=True)
class Broadcast:
    """What a program hears: `payload` of the device `origin`, at a place in the order that is the same everywhere."""

    epoch: int
    sequence: int
    origin: int
    serial: int
    payload: bytes

    @property
    def position(self) -> Position:
        return self.epoch, self.sequence

    @property
    def sender(self) -> str:
        """The origin as people read it."""
        return node_name(self.origin)


@dataclass(slots=True)
class _Pending:
    serial: int
    payload: bytes
    until: float


@dataclass(slots=True)
class _Neighbour:
    """How far a neighbour is, and what is on its way to it."""

    acked: Position
    sent: Position
    moved: bool = False


class Broadcasts:
    """The broadcasts of one tree at one device."""

    TIMERS = ("recover", "resend", "publish")

    def __init__(self, tree: ProgramTree, incarnation: int) -> None:
        self.tree = tree
        self.newest: Position = (0, 0)
        self._log: deque[Broadcast] = deque(maxlen=KEPT)
        self._serials: OrderedDict[int, int] = OrderedDict()
        self._neighbours: dict[int, _Neighbour] = {}
        self._pending: deque[_Pending] = deque()
        self._incarnation = incarnation
        self.next_serial = (incarnation << SERIAL_BITS) + 1
        self._epoch = 0  # of this device as the root; 0 otherwise
        self._heard = 0  # the highest epoch of all
        self._retry_s = RETRY_MIN_S
        self._resending = False
        self._second, self._numbered = 0, 0

    @property
    def in_office(self) -> bool:
        """Whether this device is the root, and has heard how far the others are."""
        return self._epoch != 0

    # Publishing

    def publish(self, payload: bytes, now: float, patience_s: float) -> int | None:
        """The serial under which the program hears whether it went out; None when too many are waiting."""
        if len(self._pending) >= MAX_PENDING:
            return None
        serial = self.next_serial
        self.next_serial += 1
        self._pending.append(_Pending(serial, payload, now + patience_s))
        if len(self._pending) == 1:
            self._retry_s = RETRY_MIN_S
            self._push(now)
        return serial

    def _push(self, now: float) -> None:
        """Bring the oldest own broadcast to the root, as often as it takes."""
        while self._pending and self._pending[0].until <= now:
            self.tree.listener.on_published(self.tree.id, self._pending.popleft().serial, delivered=False)
        if not self._pending:
            self.tree.cancel_timer("publish")
            return
        first = self._pending[0]
        self.tree.set_timer("publish", min(now + self._retry_s, first.until))
        self._retry_s = min(2 * self._retry_s, RETRY_MAX_S)
        parent, me = self.tree.parent, self.tree.me.node_id
        if self._epoch:
            self._number(me, first.serial, first.payload, now)
        elif parent is not None:
            self.tree.send(parent, ProgramPublish(self.tree.id, me, first.serial, first.payload))

    def on_publish(self, sender: Contact, message: ProgramPublish, now: float) -> None:
        """Of a child's subtree: on to the root, or numbered here."""
        parent = self.tree.parent
        if not self.tree.has_child(sender.node_id):
            self.tree.count("publish_not_from_child")
        elif self._epoch:
            self._number(message.origin, message.serial, message.payload, now)
        elif parent is not None:
            self.tree.send(parent, message)

    def _number(self, origin: int, serial: int, payload: bytes, now: float) -> None:
        if self._serials.get(origin, 0) >= serial:
            self.tree.count("publish_repeated")
            return
        if int(now) != self._second:
            self._second, self._numbered = int(now), 0
        if self._numbered >= MAX_NUMBERED_S:
            self.tree.count("publish_over_rate")
            return
        self._numbered += 1
        if self._epoch < self._heard:
            self._take_office()
        sequence = self.newest[1] + 1 if self.newest[0] == self._epoch else 1
        self._take(Broadcast(self._epoch, sequence, origin, serial, payload), None, now)

    # The log

    def on_broadcast(self, sender: Contact, message: ProgramBroadcast, now: float) -> None:
        if not self.tree.is_neighbour(sender.node_id) or not plausible(message.epoch, self._heard):
            self.tree.count("broadcast_refused")
            return
        position = (message.epoch, message.sequence)
        # As the root, this device is the only one that may make broadcasts of its epoch.
        if (message.after_epoch, message.after_sequence) <= self.newest < position and message.epoch != self._epoch:
            neighbour = self._neighbours.get(sender.node_id)
            if neighbour is not None:
                neighbour.acked, neighbour.sent = position, max(neighbour.sent, position)
            broadcast = Broadcast(message.epoch, message.sequence, message.origin, message.serial, message.payload)
            self._take(broadcast, sender.node_id, now)
        elif position not in {one.position for one in self._log}:
            self.tree.count("broadcast_gap" if position > self.newest else "broadcast_late")
        self.tree.send_standing(sender)

    def _take(self, broadcast: Broadcast, sender: int | None, now: float) -> None:
        """A new one at the end of the order: the program hears it, and the other neighbours do."""
        self._heard = max(self._heard, broadcast.epoch)
        self.newest = broadcast.position
        self._log.append(broadcast)
        self._serials[broadcast.origin] = max(broadcast.serial, self._serials.pop(broadcast.origin, 0))
        if len(self._serials) > MAX_ORIGINS:
            self._serials.popitem(last=False)
        self.tree.listener.on_broadcast(self.tree.id, broadcast)
        for contact in self.tree.neighbours():
            if contact.node_id != sender:
                self._catch_up(contact, now)
        if broadcast.origin == self.tree.me.node_id and self._pending and self._pending[0].serial == broadcast.serial:
            self._pending.popleft()
            self._retry_s = RETRY_MIN_S
            self.tree.listener.on_published(self.tree.id, broadcast.serial, delivered=True)
            self._push(now)

    def _catch_up(self, contact: Contact, now: float) -> None:
        """Send what this neighbour lacks and is not on its way to it; nothing to one that has not said how far it
        is."""
        neighbour = self._neighbours.get(contact.node_id)
        if neighbour is None or neighbour.acked >= self.newest:
            return
        before: Position = (0, 0)
        window = WINDOW_BYTES
        for one in self._log:
            if one.position > neighbour.acked:
                window -= len(one.payload)
                if window < 0:
                    break
                if one.position > neighbour.sent:
                    neighbour.sent = one.position
                    self.tree.send(contact, self._message(one, before))
            before = one.position
        self._resend_later(now)

    def _message(self, one: Broadcast, after: Position) -> ProgramBroadcast:
        return ProgramBroadcast(
            self.tree.id, one.epoch, one.sequence, after[0], after[1], one.origin, one.serial, one.payload
        )

    # Neighbours

    def on_standing(self, sender: Contact, position: Position, now: float) -> None:
        """A neighbour tells how far it is."""
        if not plausible(position[0], self._heard):
            self.tree.count("standing_refused")
            return
        self._heard = max(self._heard, position[0])
        known = self._neighbours.get(sender.node_id)
        if known is None:
            self._neighbours[sender.node_id] = _Neighbour(position, position)
        else:
            known.moved |= position > known.acked
            known.acked, known.sent = position, max(known.sent, position)
        if self._epoch and position > self.newest and position[0] == self._epoch:
            self._take_office()  # broadcasts of an earlier life of this device
        if position < self.newest:
            self._catch_up(sender, now)
        elif position > self.newest:
            self.tree.send_standing(sender)

    def on_child(self, child: Contact, now: float) -> None:
        """A child has attached; it will say how far it is, perhaps less far than before. If not, it is asked."""
        self._neighbours.pop(child.node_id, None)
        self._resend_later(now)

    def on_gone(self, node_id: int) -> None:
        self._neighbours.pop(node_id, None)

    def on_parent(self, parent: Contact, now: float) -> None:
        """Another parent, or the same one again: tell each other how far we are; what waits goes there."""
        self._epoch = 0
        self.tree.cancel_timer("recover")
        children = {child.node_id for child in self.tree.children()}
        self._neighbours = {node: known for node, known in self._neighbours.items() if node in children}
        self.tree.send_standing(parent, ask=True)
        self._resend_later(now)
        self._retry_s = RETRY_MIN_S
        self._push(now)

    def on_root(self, now: float) -> None:
        if not self._epoch:
            self.tree.set_timer("recover", now + RECOVER_S)

    def _take_office(self) -> None:
        """An epoch above all others, and above those that this device took before it was started again."""
        self._epoch = next_epoch([self._heard, self._incarnation << NODE_BITS], self.tree.me.node_id)
        self._heard = self._epoch

    def on_timer(self, name: str, now: float) -> None:
        if name == "publish":
            self._push(now)
        elif name == "recover" and self.tree.is_root:
            self._take_office()
            self._retry_s = RETRY_MIN_S
            self._push(now)
        elif name == "resend":
            self._resend(now)

    def _resend_later(self, now: float) -> None:
        if not self._resending:
            self._resending = True
            self.tree.set_timer("resend", now + RESEND_S)

    def _resend(self, now: float) -> None:
        """Ask those who have not said how far they are; send again what is not acknowledged."""
        self._resending = False
        for contact in self.tree.neighbours():
            neighbour = self._neighbours.get(contact.node_id)
            if neighbour is None:
                self.tree.send_standing(contact, ask=True)
                self._resend_later(now)
                continue
            if not neighbour.moved:
                neighbour.sent = neighbour.acked
            neighbour.moved = False
            self._catch_up(contact, now)
