"""The rendezvous: the owner of an application's id remembers its members and proposes parents.

Theory of operation: soft state only. Members renew their lease; whoever owns the key answers from what it has. Changes
are copied within a second, everything every minute, to the two contacts nearest to the key, one of which is the next
owner; a device that appears nearer to the key, or has restarted there, gets a copy at once. A tracker that lost
everything is whole again after one renewal of everybody. A member that others report as dead is pinged by the tracker
itself, and dropped if it does not answer; then the reporters hear at once whom to turn to.

At most 128 entries per application are kept (records.py): the 16 highest ranks, and of the rest so many that every
zone keeps its highest. That is enough for any number of members, because a full parent names its children, so a
newcomer finds its place downwards from the top. It also tells a root, or the head of a zone, when a newcomer outranks
it; otherwise the newcomer would begin a second tree.

The members of a zone find each other the same way, under the zone's key; there ids matter, not ranks. So do those who
look for a zone's volunteers, under a key of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from edgefl.overlay.accused import Accused, Accuser
from edgefl.overlay.device import Device
from edgefl.overlay.ids import volunteers_key, zone_key
from edgefl.overlay.liveness import Liveness, Peer
from edgefl.overlay.membership import Membership
from edgefl.overlay.proposals import anchors, highest, population, propose, zone_seeds
from edgefl.overlay.rank import rank
from edgefl.overlay.records import COPY, Records, Tracked
from edgefl.wire.contact import Contact, Role
from edgefl.wire.overlay import (
    MAX_TRACKER_ENTRIES,
    Candidates,
    Route,
    Scope,
    Track,
    TrackerCopy,
    TrackerEntry,
    Untrack,
    ZoneInfo,
    ZoneQuery,
)

if TYPE_CHECKING:
    from edgefl.effects import TimerKey

COPIES = 2
"""Neighbours that hold a copy: both and the owner die within one minute with probability 10^-4 at 1 % churn a
minute."""

MAX_COUNT = 0xFFFFFFFF
"""What fits on the wire."""

FULL: TimerKey = ("tracker", "full")


def _is_register(app: int, zone: int) -> bool:
    """A key of a zone and not of an application: whoever is tracked there has no place in a tree."""
    return app in (zone_key(zone), volunteers_key(zone))


class Tracker:
    """The applications whose members this device remembers."""

    __slots__ = ("_accused", "_device", "_liveness", "_membership", "_records")

    def __init__(self, device: Device, liveness: Liveness, membership: Membership) -> None:
        self._device = device
        self._liveness = liveness
        self._membership = membership
        self._records = Records(device)
        self._accused = Accused(liveness, self._judge)

    def sizes(self) -> dict[str, int]:
        largest = max((len(tracked.entries) for tracked in self._records.apps.values()), default=0)
        return {"tracked_apps": len(self._records.apps), "largest_tracked_app": largest}

    def start(self, now: float) -> None:
        self._device.set_timer(FULL, now + self._device.jittered(self._device.profile.copy_s))

    def stop(self) -> None:
        for key in (COPY, FULL):
            self._device.effects.cancel_timer(key)

    def leave_zone(self) -> None:
        """Our zone changes: what belongs to the old one alone is forgotten here; its next owner has a copy."""
        for app in [app for app, tracked in self._records.apps.items() if tracked.scope is Scope.ZONE]:
            self._records.forget(app)

    def members(self, app: int) -> list[Contact]:
        """The members on record (for status and tests)."""
        return self._records.members(app)

    # Requests of members

    def on_track(self, route: Route, message: Track, now: float) -> None:
        origin, app = route.origin, message.app
        tracked = self._records.serve(app, route.scope, now)
        if app == volunteers_key(origin.zone):
            if tracked is not None and origin.role is Role.HELPER:
                self._records.keep(app, tracked, origin, now)
            return
        kept = False
        before: list[Contact] = []
        if tracked is not None:
            for node_id in message.failed:
                self._accuse(tracked, node_id, Accuser(app, origin, message.observer), now)
            before = self.members(app)
            if not message.observer:
                kept = self._records.keep(app, tracked, origin, now)
        members = self.members(app)
        if app == zone_key(origin.zone):
            chosen = zone_seeds(members, origin.node_id, self._device.random)
        else:
            standing = rank(origin, app, message.observer)
            chosen = propose(members, origin, app, standing, self._device.random, brief=message.renewal)
        self._device.send(origin, Candidates(app, chosen, len(members), kept))
        if kept and app != zone_key(origin.zone) and not (message.renewal and origin in before):
            self._tell_outranked(app, before, origin, members)

    def on_zone_query(self, route: Route, message: ZoneQuery, now: float) -> None:
        """Where the zone is, and how large: from the members that renew here."""
        key = zone_key(message.zone)
        if route.key == key:
            members = [member for member in self.members(key) if member.zone == message.zone]
            info = ZoneInfo(
                message.zone,
                anchors(members, key),
                min(MAX_COUNT, population(members, key, MAX_TRACKER_ENTRIES)),
                min(MAX_COUNT, self._membership.fleet_size()),
            )
            self._device.send(route.origin, info)

    def on_untrack(self, route: Route, message: Untrack, now: float) -> None:
        tracked = self._records.apps.get(message.app)
        if tracked is not None:
            self._records.drop(tracked, route.origin.node_id, now)

    def forget_member(self, node_id: int, now: float) -> None:
        """A device is known first-hand to be gone."""
        if self._records.knows(node_id):
            for tracked in self._records.apps.values():
                self._records.drop(tracked, node_id, now)

    def on_member_changed(self, contact: Contact, now: float) -> None:
        """A device says itself that it has another address, zone or role: whatever it was tracked with is old. (The
        copies follow with the next full one: a holder of a copy that passed this on would undo what the owner did.)"""
        if not self._records.knows(contact.node_id):
            return
        for app, tracked in self._records.apps.items():
            entry = tracked.entries.get(contact.node_id)
            if entry is None or entry.member.incarnation >= contact.incarnation:
                continue
            zones = (entry.member.zone, contact.zone)
            entry.member = contact
            if not any(_is_register(app, zone) for zone in zones) and self._owns(app, tracked, now):
                members = self.members(app)
                self._tell_outranked(app, members, contact, members)  # its renewal will be no news to us

    def _accuse(self, tracked: Tracked, node_id: int, accuser: Accuser, now: float) -> None:
        entry = tracked.entries.get(node_id)
        if entry is not None and entry.member.dialable and node_id != self._device.node_id:
            self._accused.accuse(entry.member, accuser, now)

    def _judge(self, node_id: int, peer: Peer | None, accusers: list[Accuser], now: float) -> None:
        """Alive: nothing happens. Dead: forget it, and tell those who were waiting for this to know whom to turn to."""
        if peer is not None:
            self.on_member_changed(peer.contact, now)
            return
        self.forget_member(node_id, now)
        for accuser in accusers:
            members = self.members(accuser.app)
            standing = rank(accuser.contact, accuser.app, accuser.observer)
            chosen = propose(members, accuser.contact, accuser.app, standing, self._device.random, brief=False)
            self._device.send(accuser.contact, Candidates(accuser.app, chosen, len(members)))

    def zone_members(self, key: int, asker: int) -> list[Contact]:
        """If `key` is that of a zone that we track: members worth knowing for the asker. Seeds a newcomer's zone
        ring."""
        return list(zone_seeds(self.members(key), asker, self._device.random))

    # Copies

    def on_copy(self, sender: Contact, message: TrackerCopy, now: float) -> None:
        if not self._membership.holds(sender.node_id):
            return
        if message.scope is Scope.ZONE and sender.zone != self._device.contact.zone:
            self._device.counters["refused_foreign_zone"] += 1
            return
        tracked = self._records.copied(message.app, message.scope, sender.node_id)
        if tracked is None:
            return
        ours = [entry.member for entry in tracked.entries.values() if entry.renewed_at > float("-inf")]
        before = self.members(message.app)
        for copied in message.entries:
            member = self._liveness.newest(copied.member)
            self._records.merge(message.app, tracked, member, copied.lease_s, now)
        if before and not _is_register(message.app, self._device.contact.zone):
            handed_over = self._device.node_id ^ message.app < sender.node_id ^ message.app
            self._compare(message.app, ours, before, told=handed_over)
        self._records.forget_if_empty(message.app)

    def _compare(self, app: int, ours: list[Contact], before: list[Contact], *, told: bool) -> None:
        """After a restart or a partition members come to two trackers, and the highest of either may take itself for
        the root. Now one of the two knows all of them: those who came to us hear of higher newcomers, and if the copy
        was handed over to us, the newcomers hear of those who are higher."""
        members = self.members(app)
        known = {member.node_id: member for member in before}
        newcomers = [member for member in members if known.get(member.node_id) != member]
        for zone in sorted({member.zone for member in newcomers}):
            newcomer = highest([member for member in newcomers if member.zone == zone], app)
            if newcomer is not None:
                self._tell_outranked(app, ours, newcomer, members)
                if told and rank(newcomer, app) < max(rank(member, app) for member in before):
                    self._tell(app, newcomer, members)

    def on_nearer(self, peer: Peer, now: float) -> None:
        """A device has appeared, or has restarted: what it owns now, it must know."""
        own_id = self._device.node_id
        for app, tracked in self._records.apps.items():
            if (
                (now - tracked.served_at < self._device.profile.lease_s or tracked.source == peer.node_id)
                and peer.node_id ^ app < own_id ^ app
                and self._in_scope(tracked, peer)
            ):
                self._device.send(peer.contact, self._copy(app, tracked, self.members(app), now))

    def on_timer(self, key: TimerKey, now: float) -> bool:
        if key == COPY:
            for app, tracked in self._records.apps.items():
                if tracked.changed:
                    changed, tracked.changed = list(tracked.changed.values()), {}
                    self._copy_to_neighbours(app, tracked, changed, now)
        elif key == FULL:
            self._device.set_timer(FULL, now + self._device.jittered(self._device.profile.copy_s))
            for app, tracked in list(self._records.apps.items()):
                self._records.expire(tracked, now)
                if self._owns(app, tracked, now):
                    self._copy_to_neighbours(app, tracked, self.members(app), now)
                self._records.forget_if_empty(app)
        else:
            return False
        return True

    def _copy_to_neighbours(self, app: int, tracked: Tracked, members: Iterable[Contact], now: float) -> None:
        copy = self._copy(app, tracked, members, now)
        near = [peer for peer in self._membership.members() if not peer.suspect and self._in_scope(tracked, peer)]
        for peer in sorted(near, key=lambda peer: peer.node_id ^ app)[:COPIES]:
            self._device.send(peer.contact, copy)

    def _copy(self, app: int, tracked: Tracked, members: Iterable[Contact], now: float) -> TrackerCopy:
        """Entries as they are now; a member that is no longer there travels with an empty lease."""
        entries = []
        for member in members:
            entry = tracked.entries.get(member.node_id)
            if entry is None or entry.expires_at <= now:
                entries.append(TrackerEntry(member, 0))
            else:
                entries.append(TrackerEntry(entry.member, max(1, int(entry.expires_at - now))))
        return TrackerCopy(app, tuple(entries[:MAX_TRACKER_ENTRIES]), tracked.scope)

    def _owns(self, app: int, tracked: Tracked, now: float) -> bool:
        """Members have come to us lately, and nobody nearer to the key has appeared since (its word counts now)."""
        distance = self._device.node_id ^ app
        return now - tracked.served_at < self._device.profile.lease_s and not any(
            node_id ^ app < distance and self._in_scope(tracked, peer)
            for node_id, peer in self._membership.by_id().items()
        )

    def _in_scope(self, tracked: Tracked, peer: Peer) -> bool:
        return tracked.scope is Scope.GLOBAL or peer.contact.zone == self._device.contact.zone

    def _tell_outranked(self, app: int, before: Iterable[Contact], newcomer: Contact, members: list[Contact]) -> None:
        """The root, and the head of the newcomer's zone, if they no longer are what they were."""
        others = [member for member in before if member.node_id != newcomer.node_id]
        heads = [highest(others, app), highest([m for m in others if m.zone == newcomer.zone], app)]
        standing = rank(newcomer, app)
        for head in {head.node_id: head for head in heads if head is not None}.values():
            if standing > rank(head, app):
                self._tell(app, head, members)

    def _tell(self, app: int, member: Contact, members: list[Contact]) -> None:
        chosen = propose(members, member, app, rank(member, app), self._device.random, brief=True)
        self._device.send(member, Candidates(app, chosen, len(members)))
