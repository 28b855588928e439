"""The routing table: for every prefix of our id and every next digit, a few contacts.

A slot prefers contacts of our own zone, and among equals the nearest by RTT (proximity neighbour selection); places
that the zone cannot fill are topped up from other zones. So routing inside a zone never needs to leave it (Canon), and
a slot is empty only if nobody with that prefix is known. The profile says how many bits a digit has, and how many
contacts a slot. Devices whose digits differ understand each other: a row is named by its prefix in bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from edgefl.overlay.ids import ID_BITS, digit, rows_of, shared_bits
from edgefl.overlay.liveness import Peer
from edgefl.overlay.profile import NODE, Profile
from edgefl.wire.contact import Contact

BETTER_BY = 0.8
"""A newcomer of the same kind takes a place only if its RTT is at most this share: measurements jitter by 10 %."""

ASSUMED_RTT_S = 0.5
"""An unmeasured contact counts as this far: it never displaces a measured one nearby."""


class RoutingTable:
    """Slots by (row, digit); filled with first-hand peers alone."""

    __slots__ = ("_own_id", "_slots", "_zone", "contacts_per_slot", "digit_bits")

    def __init__(self, own_id: int, zone: int, profile: Profile = NODE) -> None:
        self._own_id = own_id
        self._zone = zone
        self.digit_bits = profile.digit_bits
        self.contacts_per_slot = profile.slot_contacts
        self._slots: dict[int, tuple[Peer, ...]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def __iter__(self) -> Iterator[Peer]:
        for slot in self._slots.values():
            yield from slot

    def __contains__(self, node_id: int) -> bool:
        return node_id != self._own_id and _holds(self.slot(node_id), node_id)

    def slot(self, node_id: int) -> tuple[Peer, ...]:
        """The contacts in the slot where an id belongs."""
        return self._slots.get(self._index(node_id), ())

    def row(self, row: int) -> list[Peer]:
        """All contacts that share exactly `row` digits with us."""
        return [peer for slot in self.slots(row) for peer in slot]

    def slots(self, row: int) -> list[tuple[Peer, ...]]:
        """The slots of one row, by digit."""
        first, slot = row << self.digit_bits, self._slots.get
        return [slot(at, ()) for at in range(first, first + (1 << self.digit_bits))]

    def beyond(self, prefix: int) -> list[tuple[Peer, ...]]:
        """By slot, the contacts that share `prefix` bits with us, and fewer than one digit more: one row, for a device
        with digits of any size."""
        end = prefix + self.digit_bits
        rows = range(prefix // self.digit_bits, min(rows_of(self.digit_bits), -(-end // self.digit_bits)))
        slots = [slot for row in rows for slot in self.slots(row)]
        if prefix % self.digit_bits == 0:
            return slots
        return [tuple(p for p in slot if prefix <= shared_bits(self._own_id, p.node_id) < end) for slot in slots]

    def rows(self) -> list[int]:
        """The rows that hold anybody, deepest first."""
        return sorted({at >> self.digit_bits for at in self._slots}, reverse=True)

    def wants(self, contact: Contact) -> bool:
        """Would an unmeasured device with this contact get a place?"""
        slot = self.slot(contact.node_id)
        if _holds(slot, contact.node_id):
            return False
        return len(slot) < self.contacts_per_slot or (
            contact.zone == self._zone and any(peer.contact.zone != self._zone for peer in slot)
        )

    def offer(self, peer: Peer) -> bool:
        """Give the peer a place if it deserves one. True when it has one afterwards."""
        at = self._index(peer.node_id)
        slot = self._slots.get(at, ())
        if _holds(slot, peer.node_id):
            return True
        if len(slot) >= self.contacts_per_slot:
            worst = max(slot, key=self._distance)
            mine, its = self._distance(peer), self._distance(worst)
            if not (mine[0] < its[0] or (mine[0] == its[0] and mine[1] < its[1] * BETTER_BY)):
                return False
            slot = tuple(other for other in slot if other is not worst)
        self._slots[at] = (*slot, peer)
        return True

    def remove(self, node_id: int, pool: Iterable[Peer]) -> bool:
        """Take a device out and refill its slot from everybody else who is known. True when it was in."""
        at = self._index(node_id)
        slot = self._slots.get(at, ())
        left = tuple(peer for peer in slot if peer.node_id != node_id)
        if len(left) == len(slot):
            return False
        if left:
            self._slots[at] = left
        else:
            del self._slots[at]
        prefix = ((at >> self.digit_bits) + 1) * self.digit_bits  # what all of the slot have in common
        rest = max(0, ID_BITS - prefix)
        for peer in pool:
            if (peer.node_id ^ node_id) >> rest == 0 and peer.node_id != node_id and peer.contact.dialable:
                self.offer(peer)
        return True

    def rebuild(self, zone: int, pool: Iterable[Peer]) -> None:
        """Fill all slots again after our own zone has changed."""
        self._zone = zone
        self._slots.clear()
        for peer in pool:
            if peer.contact.dialable:
                self.offer(peer)

    def _index(self, node_id: int) -> int:
        if node_id == self._own_id:
            raise ValueError("a device has no slot in its own table")
        bits = self.digit_bits
        row = (ID_BITS - (self._own_id ^ node_id).bit_length()) // bits
        return (row << bits) + digit(node_id, row, bits)

    def _distance(self, peer: Peer) -> tuple[bool, float]:
        return (peer.contact.zone != self._zone, assumed_rtt_s(peer))


def _holds(slot: tuple[Peer, ...], node_id: int) -> bool:
    return node_id in [peer.node_id for peer in slot]


def assumed_rtt_s(peer: Peer) -> float:
    """The RTT of a peer, or what to assume before it has been measured."""
    return ASSUMED_RTT_S if peer.rtt_s is None else peer.rtt_s
