"""Volunteers: devices that carry the models of applications which they are no members of.

A member that nobody can dial has children of nobody's: it takes a place and brings none. Where most members are like
that the places run out, while every member that can be dialled brings more than it takes. A device of the role
`helper` fills the gap: it stands in rank between the two (rank.py), so it outranks whom it is there for and is never
the root of a tree, relays and adds up like any parent, and is no member: nobody counts it.

    helper        registers in its zone, as long as its settings say that it helps
    stuck member  finds every place taken, twice, and calls: SeekHelpers, to the owner of its zone's register
    register      asks one volunteer for each eight callers: HelpWanted, then lets a while pass, as help takes time
    helper        takes part, unless it has its fill; leaves when nobody is above it, or nobody below it for long

A device that does not volunteer cannot be made to: it ignores HelpWanted. Helpers are sought in the zone of those who
need them: a helper of another zone would carry each model over a wide-area link for four children.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field

from edgefl.declared import dataclass
from edgefl.overlay.children import ZONE_CHILDREN
from edgefl.overlay.device import Device
from edgefl.overlay.forest import Forest
from edgefl.overlay.ids import volunteers_key
from edgefl.overlay.routing import Router
from edgefl.overlay.tracker import Tracker
from edgefl.wire.contact import Contact, Role
from edgefl.wire.overlay import HelpWanted, Route, Scope, SeekHelpers, Track

MAX_CALLS = 64
"""Applications of a zone that lack places at the same time and are remembered; the one called for longest ago goes."""

MAX_CALLERS = 128
"""Members counted per application between two invitations: sixteen helpers at once."""


@dataclass(slots=True)
class _Call:
    """What the register remembers of an application: who has called since the last invitation, who has been asked."""

    invited_at: float = float("-inf")
    callers: set[int] = field(default_factory=set)
    asked: set[int] = field(default_factory=set)


class Volunteers:
    """All three sides of it on one device: helping, calling for help, keeping the zone's register."""

    __slots__ = ("_calls", "_device", "_forest", "_router", "_tracker", "_wanted")

    def __init__(
        self,
        device: Device,
        router: Router,
        tracker: Tracker,
        forest: Forest,
        wanted: Callable[[int, Scope, float], None],
    ) -> None:
        """`wanted(app, scope, now)` tells the owner of this device, which volunteers, that it is needed."""
        self._device = device
        self._router = router
        self._tracker = tracker
        self._forest = forest
        self._wanted = wanted
        self._calls: dict[int, _Call] = {}

    def sizes(self) -> dict[str, int]:
        return {"help_calls": len(self._calls)}

    def register(self, now: float) -> None:
        """Be found in our zone, if we volunteer."""
        own = self._device.contact
        if own.role is Role.HELPER:
            key = volunteers_key(own.zone)
            self._router.route(key, Track(key), now, scope=Scope.ZONE)

    def call(self, app: int, scope: Scope, now: float) -> None:
        """Every place in the tree that we know of is taken."""
        self._device.counters["help_calls"] += 1
        self._router.route(volunteers_key(self._device.contact.zone), SeekHelpers(app, scope), now, scope=Scope.ZONE)

    def on_seek(self, route: Route, message: SeekHelpers, now: float) -> None:
        """A member of our zone finds no place, and we keep the register."""
        own = self._device.contact
        if route.key != volunteers_key(own.zone) or route.origin.zone != own.zone:
            return
        call = self._calls.pop(message.app, None) or _Call()
        self._calls[message.app] = call
        if len(self._calls) > MAX_CALLS:
            del self._calls[next(iter(self._calls))]
        if len(call.callers) < MAX_CALLERS:
            call.callers.add(route.origin.node_id)
        if now - call.invited_at < self._device.profile.help_pause_s:
            return
        for helper in self._choose(call, route.origin.node_id, -(-len(call.callers) // ZONE_CHILDREN)):
            self._device.send(helper, HelpWanted(message.app, message.scope))
            call.invited_at = now
        call.callers.clear()

    def _choose(self, call: _Call, asker: int, count: int) -> list[Contact]:
        """Volunteers at random: first those that have not been asked yet."""
        own = self._device.contact
        known = [
            contact
            for contact in self._tracker.members(volunteers_key(own.zone))
            if contact.role is Role.HELPER and contact.zone == own.zone and contact.node_id != asker
        ]
        fresh = [contact for contact in known if contact.node_id not in call.asked]
        if not fresh:
            call.asked.clear()
            fresh = known
        chosen = self._device.random.sample(fresh, min(count, len(fresh)))
        call.asked.update(contact.node_id for contact in chosen)
        return chosen

    def on_help_wanted(self, sender: Contact, message: HelpWanted, now: float) -> None:
        """Somebody wants us to help. Only who volunteers does, within bounds, and inside its zone."""
        own = self._device.contact
        if own.role is not Role.HELPER or sender.zone != own.zone or not self._forest.may_help(message.app):
            self._device.counters["help_refused"] += 1
        else:
            self._wanted(message.app, message.scope, now)
