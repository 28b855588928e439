"""Tombstones: whom we have found dead or who has left, so that hearsay does not bring it back.

A tombstone makes us deaf to hearsay about a device for a minute, unless it speaks of a higher incarnation: as long as
word of the dead keeps circulating in gossip.
"""

from __future__ import annotations

from collections import OrderedDict

from edgefl.declared import dataclass
from edgefl.wire.contact import Contact

MAX_TOMBSTONES = 256
"""Half of the contacts of a large table; a forgotten tombstone costs one ping."""


@dataclass(frozen=True, slots=True)
class _Tombstone:
    """Dead, or gone on purpose, at this incarnation."""

    incarnation: int
    until: float
    left: bool


class Tombstones:
    """By node id, the newest last."""

    __slots__ = ("_lifetime_s", "_stones")

    def __init__(self, lifetime_s: float) -> None:
        self._lifetime_s = lifetime_s
        self._stones: OrderedDict[int, _Tombstone] = OrderedDict()

    def __len__(self) -> int:
        return len(self._stones)

    def __contains__(self, node_id: int) -> bool:
        """Found dead, and not heard of since."""
        return node_id in self._stones

    def bury(self, contact: Contact, now: float, *, left: bool = False) -> None:
        """It is dead; or, if it said so itself, it has `left`."""
        self._stones[contact.node_id] = _Tombstone(contact.incarnation, now + self._lifetime_s, left)
        self._stones.move_to_end(contact.node_id)
        if len(self._stones) > MAX_TOMBSTONES:
            self._stones.popitem(last=False)

    def lift(self, node_id: int) -> None:
        """It has spoken to us."""
        self._stones.pop(node_id, None)

    def covers(self, contact: Contact, now: float) -> bool:
        """Known to be dead at this incarnation or a later one."""
        stone = self._stones.get(contact.node_id)
        return stone is not None and now < stone.until and contact.incarnation <= stone.incarnation

    def has_left(self, contact: Contact, now: float) -> bool:
        """It has said good-bye at this incarnation or a later one."""
        return self.covers(contact, now) and self._stones[contact.node_id].left
