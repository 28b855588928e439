"""Lost contacts: devices that have fallen silent, and may only be cut off.

A link that fails for an hour parts a fleet in two, and each part drops the other. They find each other again through
what they remember: every device pings three lost contacts a minute (reunion.py). Two things would let a whole part
forget the other, and both are prevented here:

* *Many deaths after the cut.* At most 32 are kept. When there are more, one of the zone that has most is forgotten,
  drawn at random: what is cut off is mostly a site with all its zone, and the latest deaths do not push out the old
  ones.
* *New devices in place of those who remember.* Whoever joins is told a few (Rows.lost), and they are kept on disk
  beside the contacts (`Overlay.lost`, `Overlay.remember`), so a restart does not forget them.

All of it is hearsay or old, so it causes pings alone, at a constant rate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from edgefl.wire.contact import Contact

if TYPE_CHECKING:
    from random import Random

MAX_LOST = 32
"""One partition's worth of neighbours; of four zones that are cut off, eight each."""

TOLD = 2
"""Lost contacts in one answer to a newcomer, which asks a handful of devices: 42 bytes each time."""


class Lost:
    """By node id, in the order of their loss."""

    __slots__ = ("_contacts",)

    def __init__(self) -> None:
        self._contacts: dict[int, Contact] = {}

    def __len__(self) -> int:
        return len(self._contacts)

    def __iter__(self) -> Iterator[Contact]:
        return iter(self._contacts.values())

    def add(self, contacts: Iterable[Contact], random: Random) -> None:
        """Remember these, too; of one device the newest contact."""
        for contact in contacts:
            known = self._contacts.get(contact.node_id)
            if known is None or known.incarnation < contact.incarnation:
                self._contacts[contact.node_id] = contact
            if len(self._contacts) > MAX_LOST:
                self._forget_one(contact, random)

    def _forget_one(self, newest: Contact, random: Random) -> None:
        sizes = Counter(contact.zone for contact in self)
        fullest = max(sizes.values())
        others = [c.node_id for c in self if sizes[c.zone] == fullest and c is not newest]
        del self._contacts[random.choice(others)]

    def discard(self, node_id: int) -> None:
        """It is found again, or has left."""
        self._contacts.pop(node_id, None)

    def some(self, count: int, random: Random) -> list[Contact]:
        """So many of them, drawn at random."""
        return random.sample([*self], min(count, len(self)))
