"""Membership: who we know, kept true at a constant cost.

Theory of operation, once joined:

* *Rings.* Heartbeats to the neighbours in both rings (rings.py).
* *Probes.* Every 8 s a contact is pinged: one whose RTT is not known yet, else the one not heard for longest. A death
  found makes the next probes follow quickly, for as long as deaths keep being found: a lone failure costs nothing, the
  loss of half of the fleet is known in seconds.
* *Rows.* Every 45 s one routing table row is exchanged with another device (gossip.py).
* *Oneself.* Less and less often the device looks itself up (self_lookup.py) and re-registers with its zone's tracker. A
  lost leaf starts that series again.
* *Leaves.* A device that nobody can dial has a few doors (doors.py) instead of all this, and pings one every 20 s.
* *Reunion.* Every minute some that are remembered are pinged, if there are any (reunion.py).

What others say about a device only ever causes a ping (see liveness.py); a contact that we adopt that way is told about
us with an Announce. A device that has lost everybody goes back to joining.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, ValuesView
from typing import TYPE_CHECKING

from edgefl.overlay.device import Device
from edgefl.overlay.doors import Doors
from edgefl.overlay.gossip import GOSSIP, RowGossiper
from edgefl.overlay.ids import shared_digits
from edgefl.overlay.joining import KNOCK, Joiner
from edgefl.overlay.liveness import Liveness, Peer
from edgefl.overlay.lost import TOLD
from edgefl.overlay.probe_queue import ProbeQueue
from edgefl.overlay.requests import Requests
from edgefl.overlay.reunion import REUNION, Reunion
from edgefl.overlay.rings import GLOBAL_BEAT, ZONE_BEAT, Rings
from edgefl.overlay.routing_table import RoutingTable
from edgefl.overlay.search import RowQueries
from edgefl.overlay.self_lookup import SELF_JOIN, SelfLookup
from edgefl.wire.contact import Contact
from edgefl.wire.overlay import (
    MAX_ROWS_CONTACTS,
    Announce,
    Beat,
    FindRows,
    Leaving,
    Rows,
)

if TYPE_CHECKING:
    from edgefl.effects import TimerKey

MAX_LEAVES_TOLD = 16
"""Leaves that are told news: each has four doors, so hardly one is left out while a door has not sixty."""

MAX_QUICK_PROBES = 128
QUICK_PROBES_PER_DEATH = 4
"""With more than a quarter of the contacts dead, quick probing goes on until the table is clean."""

NEAREST_IN_ANSWER = 8
"""Contacts of the asker's zone, nearest to its target, in an answer to FindRows: both sides of a zone's leaf set."""

PROBE: TimerKey = ("membership", "probe")


class Membership:
    """Tables and leaf sets of one device, and everything that keeps them."""

    __slots__ = (
        "_device",
        "_known",
        "_liveness",
        "_probes",
        "_quick_probes",
        "doors",
        "gossip",
        "joiner",
        "on_adopted",
        "on_isolated",
        "on_joined",
        "pack_zones",
        "reunion",
        "rings",
        "self_lookup",
        "table",
        "zone_members",
    )

    def __init__(self, device: Device, requests: Requests, liveness: Liveness, queries: RowQueries) -> None:
        self._device = device
        self._liveness = liveness
        self._quick_probes = 0
        self._known: dict[int, Peer] | None = None
        self._probes = ProbeQueue(liveness)
        self.table = RoutingTable(device.node_id, device.contact.zone, device.profile)
        self.rings = Rings(device, requests, liveness)
        consider = self.consider
        self.gossip = RowGossiper(device, liveness, self.table, consider)
        self.doors = Doors()
        self.self_lookup = SelfLookup(device, queries, self.rings, self.doors, self.members, consider)
        self.reunion = Reunion(device, liveness, self.doors, self.self_lookup)
        self.joiner = Joiner(device, liveness, queries, self.reunion.seeds, self._on_placed)
        self.on_joined: Callable[[float], None] = lambda now: None
        self.on_isolated: Callable[[float], None] = lambda now: None
        self.on_adopted: Callable[[Peer, float], None] = lambda peer, now: None
        self.pack_zones: Callable[[float, bool], bytes] = lambda now, newcomer: b""
        self.zone_members: Callable[[int, int], Iterable[Contact]] = lambda key, asker: ()

    # What is known

    def members(self) -> ValuesView[Peer]:
        """Everybody in the table or a leaf set (of a leaf: its doors), once."""
        return self.by_id().values()

    def by_id(self) -> dict[int, Peer]:
        """The same by node id; not to be changed. (A look at its keys spares a look at every peer.)"""
        known = self._known
        if known is None:
            self._known = known = {peer.node_id: peer for peer in self.table}
            for peer in self.rings.peers():
                known[peer.node_id] = peer
            for peer in self.doors:
                known[peer.node_id] = peer
            self._probes.clear()
        return known

    def pinned(self) -> set[int]:
        """Whom to remember: who has a place, and bootstrap contacts (which, forgotten, would seem lost)."""
        return {*self.by_id(), *self.reunion.bootstrap}

    def holds(self, node_id: int) -> bool:
        """Is this device in the table or a leaf set?"""
        if self._known is not None:
            return node_id in self._known
        rings = self.rings
        return node_id in rings.zone or node_id in rings.fleet or node_id in self.table or node_id in self.doors

    def leaves(self, now: float) -> list[Contact]:
        """Leaves that have spoken to us lately, on links that they have dialled."""
        heard_s = self._device.profile.cold_link_s
        peers = self._liveness.peers.values()
        leaves = [peer.contact for peer in peers if not peer.contact.dialable and now - peer.heard_at < heard_s]
        return self._device.random.sample(leaves, min(MAX_LEAVES_TOLD, len(leaves)))

    def fleet_guess(self) -> int:
        """How many devices the fleet has, by our own neighbours alone; 0 for a leaf, which has none."""
        return self.rings.fleet.ring_size() if self._device.contact.dialable else 0

    def fleet_size(self) -> int:
        """How many devices the fleet has, by what others think as well."""
        return self._liveness.fleet_size.estimate(self.fleet_guess())

    def sizes(self) -> dict[str, int]:
        return {"bootstrap": len(self.reunion.bootstrap), "lost": len(self.reunion.lost), **self.rings.sizes()}

    # Life cycle

    def bootstrap(self, contacts: Iterable[Contact], now: float) -> None:
        """Remember where to find the fleet."""
        self.reunion.give(contacts)
        self.joiner.hurry(now)

    def start(self, now: float, *, first: bool) -> None:
        if first:
            self._on_placed(now)
        else:
            self.joiner.begin(now)

    def stop(self, now: float) -> None:
        """Say good-bye to everybody and fall silent."""
        for contact in self._liveness.everybody():
            self._device.send(contact, Leaving())
        self.joiner.stop()
        for key in _TIMERS:
            self._device.effects.cancel_timer(key)

    def _on_placed(self, now: float) -> None:
        device = self._device
        was_leaf, device.joined = device.joined, True
        self.announce()
        self._set_timers(now)
        self.self_lookup.start(now)
        if not was_leaf:
            self.reunion.start(now)
            self.on_joined(now)

    def _set_timers(self, now: float) -> None:
        """A leaf has no beats and no rows."""
        device = self._device
        device.set_timer(PROBE, now + device.jittered(self._probe_s()))
        if device.contact.dialable:
            self.rings.start(now)
            self.gossip.start(now)
        else:
            self.rings.stop()
            self.gossip.stop()

    def _probe_s(self) -> float:
        profile = self._device.profile
        return profile.probe_s if self._device.contact.dialable else profile.door_probe_s

    def announce(self) -> None:
        """Tell everybody in our tables about us, after joining."""
        for peer in self.members():
            self._device.send(peer.contact, Announce())

    def on_woken(self) -> None:
        """We have stood still: those beside us in the rings may have closed the gap."""
        for contact in {peer.node_id: peer.contact for peer in self.rings.peers()}.values():
            self._device.send(contact, Announce())

    def on_own_contact_changed(self, before: Contact, now: float) -> None:
        own, peers = self._device.contact, self._liveness.peers.values()
        if own.dialable != before.dialable:
            self._change_role(now)
        elif own.zone != before.zone and own.dialable:
            self.table.rebuild(own.zone, peers)
            self.rings.rebuild_zone(peers)
        elif own.zone != before.zone:
            self.doors.rebuild(peers, own.zone)
        self._known = None
        if self._device.joined:
            if self._device.contact.dialable or before.dialable:
                # Whoever holds us has announced itself, so it is known here: it need not find out by missing us.
                for contact in self._liveness.everybody():
                    self._device.send(contact, Announce())
            self.self_lookup.start_again(now)

    def _change_role(self, now: float) -> None:
        """Nobody reaches us any more: a few doors instead of tables. Or somebody does again: find our place anew, as a
        newcomer does, while the doors serve on."""
        own, peers = self._device.contact, list(self._liveness.peers.values())
        tables, doors = (peers, ()) if own.dialable else ((), peers)
        self.table.rebuild(own.zone, tables)
        self.rings.rebuild(tables)
        self.doors.rebuild(doors, own.zone)
        self.gossip.forget_thin_rows()
        if self._device.joined:
            self._set_timers(now)
            if own.dialable:
                self.joiner.begin(now)
            else:
                self.joiner.stop()

    # News of peers

    def offer(self, peer: Peer, now: float, *, knows_us: bool) -> None:
        """A joined device is known first-hand: give it the places that it deserves."""
        contact = peer.contact
        if not contact.dialable or self.holds(contact.node_id):
            return
        own = self._device.contact
        if own.dialable:
            in_table, in_ring = self.table.offer(peer), self.rings.offer(peer, now)
            placed = in_table or in_ring
        else:
            placed = self.doors.offer(peer, own.zone)
        if placed:
            self._known = None
            self.reunion.lost.discard(contact.node_id)
            if not knows_us and self._device.joined:
                self._device.send(contact, Announce())
            self.on_adopted(peer, now)

    def consider(self, contact: Contact, informant: int, now: float) -> None:
        """Hearsay: look into it if the device would get a place."""
        if contact.node_id == self._device.node_id:
            return
        peer = self._liveness.peers.get(contact.node_id)
        if peer is not None:
            if peer.contact is not contact and contact.incarnation > peer.contact.incarnation:
                self._liveness.check(contact, informant, now)
        elif self._wants(contact):
            self._liveness.check(contact, informant, now)

    def _wants(self, contact: Contact) -> bool:
        own = self._device.contact
        if not own.dialable:
            return self.doors.wants(contact, own.zone)
        return self.table.wants(contact) or self.rings.wants(contact)

    def on_peer_changed(self, peer: Peer, before: Contact, now: float) -> None:
        if peer.contact.zone != before.zone or peer.contact.dialable != before.dialable:
            self._take_out(peer, now)
            self.offer(peer, now, knows_us=True)

    def on_peer_gone(self, peer: Peer, on_purpose: bool, now: float) -> None:
        if on_purpose:
            self.reunion.lost.discard(peer.node_id)
        else:
            self.reunion.remember([peer.contact])
        if not self._take_out(peer, now):
            return
        if not on_purpose and self._device.joined:
            if self._quick_probes == 0:
                self._device.set_timer(PROBE, now + self._device.profile.quick_probe_s)
            self._quick_probes = min(self._quick_probes + QUICK_PROBES_PER_DEATH, MAX_QUICK_PROBES)
        if self._device.joined and not self.members():
            self._device.joined = False
            for key in _TIMERS:
                self._device.effects.cancel_timer(key)
            self._quick_probes = 0
            self.on_isolated(now)
            self.joiner.begin(now)

    def _take_out(self, peer: Peer, now: float) -> bool:
        """Remove from all tables; True when it was in one."""
        node_id = peer.node_id
        if not self.holds(node_id):
            return False
        before = self.by_id()
        if self.doors.remove(node_id):
            self.self_lookup.start_again(now)
        if self.table.remove(node_id, self._liveness.peers.values()):
            self.gossip.on_row_thinned(node_id, now)
        if self.rings.remove(node_id, self._liveness.peers.values(), now):
            self.self_lookup.start_again(now)
        self._known = None
        for other in self.members() if self._device.joined else ():
            if other.node_id not in before:  # it may not know us, and was heard long ago: is it still what it was?
                self._device.send(other.contact, Announce())
                self._liveness.probe(other, now)
        return True

    # Timers

    def on_timer(self, key: TimerKey, now: float) -> bool:
        handler = _TIMERS.get(key)
        if handler is None:
            return False
        handler(self)(now)
        return True

    def _probe(self, now: float) -> None:
        device, profile = self._device, self._device.profile
        members = self.members()
        self._liveness.forget_loose(len(members))
        self._quick_probes = max(0, self._quick_probes - 1)
        fresh_s = profile.zone_beat_s if self._quick_probes else profile.probe_fresh_s
        if not device.contact.dialable:
            fresh_s = 0.0  # it keeps the link open, also while answers to other questions come by it
        chosen = self._probes.next(members, now)
        if chosen is not None and (chosen.rtt_s is None or now - chosen.heard_at > fresh_s):
            self._liveness.probe(chosen, now)
        else:
            self._quick_probes = 0
        device.set_timer(PROBE, now + (profile.quick_probe_s if self._quick_probes else self._probe_s()))

    # Messages

    def on_find_rows(self, sender: Contact, message: FindRows, now: float) -> None:
        if not self._device.joined:
            self._device.send(sender, Rows(message.request, False))
            self.joiner.on_knock_from(sender, now)
            return
        contacts = self._rows_for(message, sender.node_id)
        zones = self.pack_zones(now, not message.brief)
        lost = () if message.brief else tuple(self.reunion.lost.some(TOLD, self._device.random))
        self._device.send(sender, Rows(message.request, True, contacts, zones, lost))

    def _rows_for(self, question: FindRows, asker: int) -> tuple[Contact, ...]:
        """Tracked members of the asker's zone, the nearest of its zone, our leaf sets, and the rows that lead there."""
        target = question.target
        zone = question.zone
        near = [peer for peer in self.members() if peer.contact.zone == zone]
        near.sort(key=lambda peer: peer.node_id ^ target)
        chosen: dict[int, Contact] = {contact.node_id: contact for contact in self.zone_members(target, asker)}
        groups = [near[:NEAREST_IN_ANSWER], self.rings.peers()]
        deepest = shared_digits(self._device.node_id, target, self.table.digit_bits)
        groups += [self.table.row(row) for row in range(deepest, deepest - 1 if question.brief else -1, -1)]
        for group in groups:
            for peer in group:
                chosen[peer.node_id] = peer.contact
        chosen.pop(asker, None)
        return tuple(chosen.values())[:MAX_ROWS_CONTACTS]

    def on_announce(self, sender: Contact, message: Announce, now: float) -> None:
        """That it was sent is all it says. A leaf has no place in anybody's table: whoever gives it one, because of
        something that it has said as a node, is told."""
        if not self._device.contact.dialable and not self.holds(sender.node_id):
            self._device.send(sender, Announce())

    def on_beat(self, sender: Contact, message: Beat, now: float) -> None:
        self.rings.on_beat(sender, message, lambda contact: self.consider(contact, sender.node_id, now), now)


_TIMERS: dict[TimerKey, Callable[[Membership], Callable[[float], None]]] = {
    KNOCK: lambda membership: membership.joiner.on_knock_timer,
    ZONE_BEAT: lambda membership: membership.rings.beat_zone,
    GLOBAL_BEAT: lambda membership: membership.rings.beat_fleet,
    PROBE: lambda membership: membership._probe,
    GOSSIP: lambda membership: membership.gossip.on_timer,
    SELF_JOIN: lambda membership: membership.self_lookup.on_timer,
    REUNION: lambda membership: membership.reunion.on_timer,
}
