"""Membership: who we know, kept true at a constant cost.

Theory of operation, once joined:

* *Rings.* Heartbeats to the neighbours in both rings (rings.py).
* *Probes.* Every 8 s a contact is pinged: one whose RTT is not known yet, else the one not heard for longest. A death
  found makes the next probes follow quickly, for as long as deaths keep being found: a lone failure costs nothing, the
  loss of half of the fleet is known in seconds.
* *Rows.* Every 45 s one routing table row is exchanged with a device of that row, the deepest rows first: that is how
  siblings hear of a newcomer that is the first in a slot (otherwise 3-5 % of lookups are wrong for minutes). Of two
  partners the nearer one is asked, and names those nearest to it: who is near to a neighbour is near to us, and so
  slots come by near contacts sooner than by chance.
* *Oneself.* After 5, 15, 60 .. 1800 s the device looks itself up and re-registers with its zone's tracker. A lost leaf
  starts that series again.
* *Reunion.* Every minute one lost contact is pinged. Partitions, and islands of any other origin, merge through it.

What others say about a device only ever causes a ping (see liveness.py); a contact that we adopt that way is told about
us with an Announce. A device that has lost everybody goes back to joining.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from edgefl.overlay.device import Device
from edgefl.overlay.ids import shared_digits
from edgefl.overlay.joining import CANDIDATES_PER_SLOT, KNOCK, Joiner
from edgefl.overlay.liveness import Liveness, Peer
from edgefl.overlay.probe_queue import ProbeQueue
from edgefl.overlay.requests import Requests
from edgefl.overlay.rings import GLOBAL_BEAT, ZONE_BEAT, Rings
from edgefl.overlay.routing_table import CONTACTS_PER_SLOT, RoutingTable, assumed_rtt_s
from edgefl.overlay.search import RowQueries
from edgefl.wire.contact import Contact
from edgefl.wire.overlay import (
    MAX_ROW_CONTACTS,
    MAX_ROWS_CONTACTS,
    Announce,
    Beat,
    FindRows,
    Leaving,
    RowGossip,
    Rows,
)

if TYPE_CHECKING:
    from edgefl.effects import TimerKey

MAX_BOOTSTRAP = 16
"""Addresses from a token or the state directory."""

MAX_LOST = 32
"""Devices that were dropped and are worth looking for again: one partition's worth of neighbours."""

MAX_QUICK_PROBES = 128
QUICK_PROBES_PER_DEATH = 4
"""With more than a quarter of the contacts dead, quick probing goes on until the table is clean."""

NEAREST_IN_ANSWER = 8
"""Contacts of the asker's zone, nearest to its target, in an answer to FindRows: both sides of a zone's leaf set."""

PARTNERS = 2
"""Devices of which the nearer one is gossiped with: always the very nearest would have nothing new to tell."""

PROBE: TimerKey = ("membership", "probe")
GOSSIP: TimerKey = ("membership", "gossip")
SELF_JOIN: TimerKey = ("membership", "self")
REUNION: TimerKey = ("membership", "reunion")


class Membership:
    """Tables and leaf sets of one device, and everything that keeps them."""

    def __init__(self, device: Device, requests: Requests, liveness: Liveness, queries: RowQueries) -> None:
        self._device = device
        self._liveness = liveness
        self._queries = queries
        self._bootstrap: dict[int, Contact] = {}
        self._lost: dict[int, Contact] = {}
        self._quick_probes = 0
        self._thin_rows: set[int] = set()
        self._next_row = 0
        self._self_joins = 0
        self._members: list[Peer] | None = None
        self._probes = ProbeQueue(liveness)
        self.table = RoutingTable(device.node_id, device.contact.zone)
        self.rings = Rings(device, requests, liveness)
        self.joiner = Joiner(device, liveness, queries, self.remembered, self._on_placed)
        self.on_joined: Callable[[float], None] = lambda now: None
        self.on_isolated: Callable[[float], None] = lambda now: None
        self.on_self_join: Callable[[float], None] = lambda now: None
        self.on_adopted: Callable[[Peer, float], None] = lambda peer, now: None
        self.zone_distance_s: Callable[[int], float] = lambda zone: 0.0
        self.pack_zones: Callable[[float, bool], bytes] = lambda now, newcomer: b""
        self.unpack_zones: Callable[[bytes, float], None] = lambda data, now: None
        self.zone_members: Callable[[int, int], Iterable[Contact]] = lambda key, asker: ()
        self._timers: dict[TimerKey, Callable[[float], None]] = {
            KNOCK: self.joiner.on_knock_timer,
            ZONE_BEAT: self.rings.beat_zone,
            GLOBAL_BEAT: self.rings.beat_fleet,
            PROBE: self._probe,
            GOSSIP: self._gossip,
            SELF_JOIN: self._self_join,
            REUNION: self._reunion,
        }

    # What is known

    def members(self) -> list[Peer]:
        """Everybody in the table or a leaf set, once; not to be changed by the caller."""
        if self._members is None:
            known = {peer.node_id: peer for peer in self.table}
            known.update((peer.node_id, peer) for peer in self.rings.peers())
            self._members = list(known.values())
            self._probes.clear()
        return self._members

    def holds(self, node_id: int) -> bool:
        """Is this device in the table or a leaf set?"""
        return node_id in self.rings.zone or node_id in self.rings.fleet or node_id in self.table

    def remembered(self) -> list[Contact]:
        """Where to knock: bootstrap contacts, then devices that we knew once."""
        contacts = {**self._lost, **self._bootstrap}
        contacts.pop(self._device.node_id, None)
        return list(contacts.values())

    def sizes(self) -> dict[str, int]:
        return {"bootstrap": len(self._bootstrap), "lost": len(self._lost), **self.rings.sizes()}

    # Life cycle

    def bootstrap(self, contacts: Iterable[Contact], now: float) -> None:
        """Remember where to find the fleet."""
        for contact in contacts:
            self._bootstrap[contact.node_id] = contact
            if len(self._bootstrap) > MAX_BOOTSTRAP:
                del self._bootstrap[next(iter(self._bootstrap))]
        self.joiner.hurry(now)

    def start(self, now: float, *, first: bool) -> None:
        if first:
            self._on_placed(now)
        else:
            self.joiner.begin(now)

    def stop(self, now: float) -> None:
        """Say good-bye to everybody and fall silent."""
        for peer in self._liveness.peers.values():
            self._device.send(peer.contact, Leaving())
        self.joiner.stop()
        for key in self._timers:
            self._device.effects.cancel_timer(key)

    def _on_placed(self, now: float) -> None:
        device, profile = self._device, self._device.profile
        device.joined = True
        self.announce()
        self.rings.start(now)
        device.set_timer(PROBE, now + device.jittered(profile.probe_s))
        device.set_timer(GOSSIP, now + device.random.random() * profile.gossip_s)
        device.set_timer(REUNION, now + device.jittered(profile.reunion_s))
        self._self_joins = 0
        self._set_self_join(now)
        self.on_joined(now)

    def announce(self) -> None:
        """Tell everybody in our tables about us, after joining."""
        if self._device.contact.dialable:
            for peer in self.members():
                self._device.send(peer.contact, Announce())

    def on_own_contact_changed(self, before: Contact, now: float) -> None:
        zone = self._device.contact.zone
        if zone != before.zone:
            self.table.rebuild(zone, self._liveness.peers.values())
            self.rings.rebuild_zone(self._liveness.peers.values())
            self._members = None
        if self._device.joined:
            if self._device.contact.dialable or before.dialable:
                # Whoever holds us has announced itself, so it is known here: it need not find out by missing us.
                for peer in self._liveness.peers.values():
                    self._device.send(peer.contact, Announce())
            self._look_after_myself(now)

    # News of peers

    def offer(self, peer: Peer, now: float, *, knows_us: bool) -> None:
        """A joined device is known first-hand: give it the places that it deserves."""
        contact = peer.contact
        if not contact.dialable or self.holds(contact.node_id):
            return
        in_table, in_ring = self.table.offer(peer), self.rings.offer(peer, now)
        if in_table or in_ring:
            self._members = None
            self._lost.pop(contact.node_id, None)
            if not knows_us and self._device.joined and self._device.contact.dialable:
                self._device.send(contact, Announce())
            self.on_adopted(peer, now)

    def consider(self, contact: Contact, informant: int, now: float) -> None:
        """Hearsay: look into it if the device would get a place."""
        if contact.node_id == self._device.node_id:
            return
        peer = self._liveness.peers.get(contact.node_id)
        if peer is not None:
            if contact.incarnation > peer.contact.incarnation:
                self._liveness.check(contact, informant, now)
        elif self.table.wants(contact) or self.rings.wants(contact):
            self._liveness.check(contact, informant, now)

    def on_peer_changed(self, peer: Peer, before: Contact, now: float) -> None:
        if peer.contact.zone != before.zone or peer.contact.dialable != before.dialable:
            self._take_out(peer, now)
            self.offer(peer, now, knows_us=True)

    def on_peer_gone(self, peer: Peer, on_purpose: bool, now: float) -> None:
        if not on_purpose:
            self._lost[peer.node_id] = peer.contact
            if len(self._lost) > MAX_LOST:
                del self._lost[next(iter(self._lost))]
        if not self._take_out(peer, now):
            return
        if not on_purpose and self._device.joined:
            if self._quick_probes == 0:
                self._device.set_timer(PROBE, now + self._device.profile.quick_probe_s)
            self._quick_probes = min(self._quick_probes + QUICK_PROBES_PER_DEATH, MAX_QUICK_PROBES)
        if self._device.joined and not self.members():
            self._device.joined = False
            for key in self._timers:
                self._device.effects.cancel_timer(key)
            self._quick_probes = 0
            self.on_isolated(now)
            self.joiner.begin(now)

    def _take_out(self, peer: Peer, now: float) -> bool:
        """Remove from all tables; True when it was in one."""
        node_id = peer.node_id
        if not self.holds(node_id):
            return False
        if self.table.remove(node_id, self._liveness.peers.values()):
            if not self._thin_rows and self._device.joined:
                self._device.set_timer(GOSSIP, now + self._device.profile.quick_gossip_s)
            self._thin_rows.add(shared_digits(self._device.node_id, node_id))
        if self.rings.remove(node_id, self._liveness.peers.values(), now):
            self._look_after_myself(now)
        self._members = None
        return True

    # Timers

    def on_timer(self, key: TimerKey, now: float) -> bool:
        handler = self._timers.get(key)
        if handler is None:
            return False
        handler(now)
        return True

    def _probe(self, now: float) -> None:
        device, profile = self._device, self._device.profile
        self._quick_probes = max(0, self._quick_probes - 1)
        fresh_s = profile.zone_beat_s if self._quick_probes else profile.probe_fresh_s
        chosen = self._probes.next(self.members())
        if chosen is not None and (chosen.rtt_s is None or now - chosen.heard_at > fresh_s):
            self._liveness.probe(chosen, now)
        else:
            self._quick_probes = 0
        device.set_timer(PROBE, now + (profile.quick_probe_s if self._quick_probes else profile.probe_s))

    def _gossip(self, now: float) -> None:
        device, profile = self._device, self._device.profile
        rows = self.table.rows()
        if rows:
            if self._thin_rows:
                row = max(self._thin_rows)
                self._thin_rows.discard(row)
            else:
                row = rows[self._next_row % len(rows)]
                self._next_row += 1
            # Any device that shares at least `row` digits with us has a row of the same meaning.
            partners = [peer for r in rows if r >= row for peer in self.table.row(r) if not peer.suspect]
            if partners:
                partner = min(device.random.sample(partners, min(PARTNERS, len(partners))), key=assumed_rtt_s)
                device.send(
                    partner.contact,
                    RowGossip(row, False, self._row_for(row, partner.node_id), self.pack_zones(now, False)),
                )
        wait_s = profile.quick_gossip_s if self._thin_rows else profile.gossip_s
        device.set_timer(GOSSIP, now + device.jittered(wait_s))

    def _row_for(self, row: int, receiver: int) -> tuple[Contact, ...]:
        """A row for somebody else. The nearest contact stands for a full slot: its owner's siblings will hardly need
        more."""
        chosen: list[Peer] = []
        for slot in self.table.slots(row):
            others = [peer for peer in slot if peer.node_id != receiver]
            chosen += [min(others, key=assumed_rtt_s)] if len(others) == CONTACTS_PER_SLOT else others
        return _contacts(chosen, MAX_ROW_CONTACTS)

    def _look_after_myself(self, now: float) -> None:
        """Something near us changed: start the series of self-joins again."""
        if self._device.joined and self._self_joins > 0:
            self._self_joins = 0
            self._set_self_join(now)

    def _set_self_join(self, now: float) -> None:
        series = self._device.profile.self_join_s
        wait_s = series[min(self._self_joins, len(series) - 1)]
        self._device.set_timer(SELF_JOIN, now + self._device.jittered(wait_s))

    def _self_join(self, now: float) -> None:
        self._self_joins += 1
        self._set_self_join(now)
        near, anywhere = self.rings.peers(), self.members()
        if near:
            asked = (self._device.random.choice(near), self._device.random.choice(anywhere))
            for peer in {peer.node_id: peer for peer in asked}.values():
                self._ask_about_myself(peer.contact, now)
        self.on_self_join(now)

    def _ask_about_myself(self, contact: Contact, now: float) -> None:
        def answered(rows: Rows | None, now: float) -> None:
            if rows is not None:
                for other in rows.contacts:
                    self.consider(other, contact.node_id, now)

        self._queries.ask(contact, self._device.node_id, now, answered, brief=True)

    def _reunion(self, now: float) -> None:
        device = self._device
        device.set_timer(REUNION, now + device.jittered(device.profile.reunion_s))
        known = self._liveness.peers
        strangers = [contact for contact in self.remembered() if contact.node_id not in known]
        if strangers:
            lost = device.random.choice(strangers)

            def found(peer: Peer | None, now: float) -> None:
                if peer is not None:
                    device.counters["reunions"] += 1
                    self._ask_about_myself(peer.contact, now)
                    self._look_after_myself(now)

            self._liveness.ping(lost, now, found)

    # Messages

    def on_find_rows(self, sender: Contact, message: FindRows, now: float) -> None:
        if not self._device.joined:
            self._device.send(sender, Rows(message.request, False))
            self.joiner.on_knock_from(sender, now)
            return
        contacts = self._rows_for(message, sender.node_id)
        self._device.send(sender, Rows(message.request, True, contacts, self.pack_zones(now, not message.brief)))

    def _rows_for(self, question: FindRows, asker: int) -> tuple[Contact, ...]:
        """Tracked members of the asker's zone, the nearest of its zone, our leaf sets, and the rows that lead there."""
        target = question.target
        near = sorted((p for p in self.members() if p.contact.zone == question.zone), key=lambda p: p.node_id ^ target)
        chosen: dict[int, Contact] = {contact.node_id: contact for contact in self.zone_members(target, asker)}
        groups = [near[:NEAREST_IN_ANSWER], self.rings.peers()]
        deepest = shared_digits(self._device.node_id, target)
        groups += [self.table.row(row) for row in range(deepest, deepest - 1 if question.brief else -1, -1)]
        for group in groups:
            chosen.update((peer.node_id, peer.contact) for peer in group)
        chosen.pop(asker, None)
        return tuple(chosen.values())[:MAX_ROWS_CONTACTS]

    def on_beat(self, sender: Contact, message: Beat, now: float) -> None:
        self.rings.on_beat(sender, message, lambda contact: self.consider(contact, sender.node_id, now), now)

    def on_row_gossip(self, sender: Contact, message: RowGossip, now: float) -> None:
        own_id = self._device.node_id
        if shared_digits(own_id, sender.node_id) < message.row:
            return  # its row is about other prefixes than ours
        if not message.reply:
            row = self._row_for(message.row, sender.node_id)
            self._device.send(sender, RowGossip(message.row, True, row, self.pack_zones(now, False)))
        self.unpack_zones(message.zones, now)
        for contact in message.contacts:
            self.consider(contact, sender.node_id, now)
        self._measure_one(message.contacts, sender.node_id, now)

    def _measure_one(self, contacts: tuple[Contact, ...], informant: int, now: float) -> None:
        """Slots get nearer contacts over time: one stranger of each gossip is measured, of four that of the zone which
        seems nearest."""
        strangers = [c for c in contacts if c.node_id not in self._liveness.peers and c.node_id != self._device.node_id]
        if strangers:
            some = self._device.random.sample(strangers, min(CANDIDATES_PER_SLOT, len(strangers)))
            stranger = min(some, key=lambda contact: self.zone_distance_s(contact.zone))
            self._liveness.check(stranger, informant, now)


def _contacts(peers: Iterable[Peer], limit: int) -> tuple[Contact, ...]:
    return tuple(peer.contact for peer in peers if not peer.suspect)[:limit]
