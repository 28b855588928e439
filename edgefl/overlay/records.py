"""What a tracker remembers of applications and their members: leases, in tables that are bounded whoever writes.

A member's own word sets its lease (`keep`); what a neighbour copies to us lengthens it at most (`merge`), and takes out
nobody who has renewed lately. An application has at most 128 members, of which the least needed goes (proposals.py); a
member has a quota of applications, and so has a neighbour of those that it copies to us. What members bring goes before
what neighbours copy.

Changes are noted until they are copied on (tracker.py).
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from edgefl.declared import dataclass
from edgefl.overlay.device import Device
from edgefl.overlay.proposals import least_needed
from edgefl.wire.contact import Contact
from edgefl.wire.overlay import MAX_TRACKER_ENTRIES, Scope

if TYPE_CHECKING:
    from edgefl.effects import TimerKey

MAX_APPS = 128
"""Applications tracked by one device, copies included: 100 applications per device of the fleet is beyond any plan.
With 128 entries of about 150 bytes each, at most 2.5 MB."""

MAX_APPS_PER_MEMBER = 48
"""Applications that one device may be tracked under at one tracker: its quota of the above."""

MAX_COPIED_APPS = 48
"""Applications that one neighbour may copy to us: its quota."""

COPY: TimerKey = ("tracker", "copy")
"""Changes have waited for each other long enough."""


@dataclass(slots=True)
class Entry:
    """`renewed_at`: by the member itself; minus infinity when it is only known from a copy."""

    member: Contact
    expires_at: float
    renewed_at: float


@dataclass(slots=True)
class Tracked:
    """One application. `served_at`: when a member last came to us."""

    entries: dict[int, Entry] = field(default_factory=dict)
    scope: Scope = Scope.GLOBAL
    served_at: float = float("-inf")
    changed: dict[int, Contact] = field(default_factory=dict)
    source: int | None = None
    """The neighbour that made us remember this application, None when members came to us themselves."""


class Records:
    """All applications that one device tracks, by id."""

    __slots__ = ("_device", "_memberships", "apps")

    def __init__(self, device: Device) -> None:
        self._device = device
        self._memberships: dict[int, int] = {}
        self.apps: dict[int, Tracked] = {}

    def members(self, app: int) -> list[Contact]:
        tracked = self.apps.get(app)
        return [] if tracked is None else [entry.member for entry in tracked.entries.values()]

    def knows(self, node_id: int) -> bool:
        """A member of any application."""
        return node_id in self._memberships

    # Applications

    def serve(self, app: int, scope: Scope, now: float) -> Tracked | None:
        """The application's record, made if there is room; None if there is none. A member has come to us."""
        tracked = self.apps.get(app)
        if tracked is None:
            if len(self.apps) >= MAX_APPS and not self._sacrifice_copy():
                self._device.counters["tracker_refusals"] += 1
                return None
            tracked = self.apps[app] = Tracked()
        tracked.scope, tracked.served_at, tracked.source = scope, now, None
        return tracked

    def copied(self, app: int, scope: Scope, source: int) -> Tracked | None:
        """The application's record, made if `source`, which copies it to us, has room left; None if it has not."""
        tracked = self.apps.get(app)
        if tracked is None:
            from_source = sum(1 for other in self.apps.values() if other.source == source)
            if from_source >= MAX_COPIED_APPS or len(self.apps) >= MAX_APPS:
                self._device.counters["tracker_refusals"] += 1
                return None
            tracked = self.apps[app] = Tracked(scope=scope, source=source)
        return tracked

    def _sacrifice_copy(self) -> bool:
        copied = next((app for app, tracked in self.apps.items() if tracked.source is not None), None)
        if copied is None:
            return False
        self.forget(copied)
        return True

    def forget(self, app: int) -> None:
        for node_id in list(self.apps[app].entries):
            self._remove(self.apps[app], node_id)
        del self.apps[app]

    def forget_if_empty(self, app: int) -> None:
        if not self.apps[app].entries and not self.apps[app].changed:
            del self.apps[app]

    # Members

    def keep(self, app: int, tracked: Tracked, member: Contact, now: float) -> bool:
        """Renew or add the member; False if there is no room for it."""
        entry = tracked.entries.get(member.node_id)
        expires_at = now + self._device.profile.lease_s
        if entry is None:
            if self._memberships.get(member.node_id, 0) >= MAX_APPS_PER_MEMBER:
                self._device.counters["tracker_refusals"] += 1
                return False
            kept = self._add(app, tracked, member, expires_at, now)
            if kept:
                self._note(tracked, member, now)
            return kept
        if member.incarnation < entry.member.incarnation:
            return True
        if member != entry.member:
            self._note(tracked, member, now)
        entry.member, entry.expires_at, entry.renewed_at = member, expires_at, now
        return True

    def merge(self, app: int, tracked: Tracked, member: Contact, lease_s: int, now: float) -> None:
        """A neighbour's entry; without a lease, the member has gone."""
        entry = tracked.entries.get(member.node_id)
        expires_at = now + min(float(lease_s), self._device.profile.lease_s)
        if entry is not None:
            if member.incarnation < entry.member.incarnation:
                return
            if lease_s == 0:
                if now - entry.renewed_at >= self._device.profile.recently_heard_s:
                    self._remove(tracked, member.node_id)
                return
            entry.member = member
            entry.expires_at = max(entry.expires_at, expires_at)
        elif lease_s and self._memberships.get(member.node_id, 0) < MAX_APPS_PER_MEMBER:
            self._add(app, tracked, member, expires_at, float("-inf"))

    def drop(self, tracked: Tracked, node_id: int, now: float) -> None:
        """The member has gone."""
        entry = tracked.entries.get(node_id)
        if entry is not None:
            self._note(tracked, entry.member, now)
            self._remove(tracked, node_id)

    def expire(self, tracked: Tracked, now: float) -> None:
        for node_id in [i for i, entry in tracked.entries.items() if entry.expires_at <= now]:
            self._remove(tracked, node_id)

    def _add(self, app: int, tracked: Tracked, member: Contact, expires_at: float, renewed_at: float) -> bool:
        tracked.entries[member.node_id] = Entry(member, expires_at, renewed_at)
        self._memberships[member.node_id] = self._memberships.get(member.node_id, 0) + 1
        if len(tracked.entries) > MAX_TRACKER_ENTRIES:
            victim = least_needed([entry.member for entry in tracked.entries.values()], app)
            self._remove(tracked, victim.node_id)
        return member.node_id in tracked.entries

    def _remove(self, tracked: Tracked, node_id: int) -> None:
        del tracked.entries[node_id]
        self._memberships[node_id] -= 1
        if not self._memberships[node_id]:
            del self._memberships[node_id]

    def _note(self, tracked: Tracked, member: Contact, now: float) -> None:
        """The copies must hear of this change."""
        if not any(other.changed for other in self.apps.values()):
            self._device.set_timer(COPY, now + self._device.profile.copy_batch_s)
        if len(tracked.changed) < MAX_TRACKER_ENTRIES:
            tracked.changed[member.node_id] = member
