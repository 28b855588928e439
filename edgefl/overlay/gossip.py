"""Row gossip: the rows of the routing table, exchanged with others who have a row of the same meaning.

Every 45 s one row, the deepest rows first: that is how siblings hear of a newcomer that is the first in a slot
(otherwise 3-5 % of lookups are wrong for minutes). A row that has just lost somebody comes next, within seconds. Of two
partners the nearer one is asked, and names those nearest to it: who is near to a neighbour is near to us, and so slots
come by near contacts sooner than by chance. What it names causes pings alone (liveness.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgefl.overlay.device import Device
from edgefl.overlay.ids import shared_bits, shared_digits
from edgefl.overlay.liveness import Liveness, Peer
from edgefl.overlay.routing_table import RoutingTable, assumed_rtt_s
from edgefl.wire.contact import Contact
from edgefl.wire.overlay import MAX_ROW_CONTACTS, RowGossip

if TYPE_CHECKING:
    from edgefl.effects import TimerKey

PARTNERS = 2
"""Devices of which the nearer one is gossiped with: always the very nearest would have nothing new to tell."""

GOSSIP: TimerKey = ("membership", "gossip")


class RowGossiper:
    """Exchanges the rows of one device's table. `consider` looks into hearsay (device, informant, now)."""

    __slots__ = (
        "_consider",
        "_device",
        "_liveness",
        "_next_row",
        "_table",
        "_thin_rows",
        "pack_zones",
        "unpack_zones",
        "zone_distance_s",
    )

    def __init__(
        self,
        device: Device,
        liveness: Liveness,
        table: RoutingTable,
        consider: Callable[[Contact, int, float], None],
    ) -> None:
        self._device = device
        self._liveness = liveness
        self._table = table
        self._consider = consider
        self._thin_rows: list[int] = []
        self._next_row = 0
        self.zone_distance_s: Callable[[int], float] = lambda zone: 0.0
        self.pack_zones: Callable[[float, bool], bytes] = lambda now, newcomer: b""
        self.unpack_zones: Callable[[bytes, float], None] = lambda data, now: None

    def start(self, now: float) -> None:
        device = self._device
        device.set_timer(GOSSIP, now + device.random.random() * device.profile.gossip_s)

    def stop(self) -> None:
        self._device.effects.cancel_timer(GOSSIP)

    def forget_thin_rows(self) -> None:
        """The table has been made anew."""
        self._thin_rows.clear()

    def on_row_thinned(self, node_id: int, now: float) -> None:
        """This device has gone from the table: its row comes next."""
        if not self._thin_rows and self._device.joined:
            self._device.set_timer(GOSSIP, now + self._device.profile.quick_gossip_s)
        row = shared_digits(self._device.node_id, node_id, self._table.digit_bits)
        if row not in self._thin_rows:
            self._thin_rows.append(row)

    def on_timer(self, now: float) -> None:
        device, profile = self._device, self._device.profile
        rows = self._table.rows()
        if rows:
            if self._thin_rows:
                row = max(self._thin_rows)
                self._thin_rows.remove(row)
            else:
                row = rows[self._next_row % len(rows)]
                self._next_row += 1
            # Any device that shares at least `row` digits with us has a row of the same meaning.
            partners = [peer for r in rows if r >= row for peer in self._table.row(r) if not peer.suspect]
            if partners:
                partner = min(device.random.sample(partners, min(PARTNERS, len(partners))), key=assumed_rtt_s)
                prefix = row * self._table.digit_bits
                contacts, zones = self._row_for(prefix, partner.node_id), self.pack_zones(now, False)
                device.send(partner.contact, RowGossip(prefix, False, contacts, zones))
        wait_s = profile.quick_gossip_s if self._thin_rows else profile.gossip_s
        device.set_timer(GOSSIP, now + device.jittered(wait_s))

    def _row_for(self, prefix: int, receiver: int) -> tuple[Contact, ...]:
        """The row beyond a prefix for somebody else. The nearest contact stands for a full slot: its owner's siblings
        will hardly need more."""
        chosen: list[Peer] = []
        for slot in self._table.beyond(prefix):
            others = [peer for peer in slot if peer.node_id != receiver]
            chosen += [min(others, key=assumed_rtt_s)] if len(others) == self._table.contacts_per_slot else others
        return tuple([peer.contact for peer in chosen if not peer.suspect][:MAX_ROW_CONTACTS])

    def on_row_gossip(self, sender: Contact, message: RowGossip, now: float) -> None:
        own_id = self._device.node_id
        if shared_bits(own_id, sender.node_id) < message.prefix:
            return  # its row is about other prefixes than ours
        if not message.reply:
            row = self._row_for(message.prefix, sender.node_id)
            self._device.send(sender, RowGossip(message.prefix, True, row, self.pack_zones(now, False)))
        self.unpack_zones(message.zones, now)
        for contact in message.contacts:
            self._consider(contact, sender.node_id, now)
        self._measure_one(message.contacts, sender.node_id, now)

    def _measure_one(self, contacts: tuple[Contact, ...], informant: int, now: float) -> None:
        """Slots get nearer contacts over time: one stranger of each gossip is measured, of four that of the zone which
        seems nearest."""
        strangers = [c for c in contacts if c.node_id not in self._liveness.peers and c.node_id != self._device.node_id]
        if strangers:
            some = self._device.random.sample(strangers, min(self._device.profile.slot_candidates, len(strangers)))
            stranger = min(some, key=lambda contact: self.zone_distance_s(contact.zone))
            self._liveness.check(stranger, informant, now)
