"""The components of one overlay, put together: who makes whom, who hears what of whom.

A message is charged to its sender's quota, then handed to the one component that its type belongs to; so is a timer, by
the first part of its name. News of peers go from liveness.py to all that may care. What a component tells the device
itself, or its owner, waits until the event at hand is over. What a peer sends can be useless, but it cannot raise.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from edgefl.overlay.device import Device
from edgefl.overlay.directory import Directory
from edgefl.overlay.events import EventQueue, Listener
from edgefl.overlay.forest import Forest
from edgefl.overlay.game.game import Game
from edgefl.overlay.game.rules import Rule
from edgefl.overlay.ids import zone_key
from edgefl.overlay.liveness import Hooks, Liveness, Peer
from edgefl.overlay.membership import Membership
from edgefl.overlay.profile import WAN, Profile
from edgefl.overlay.quota import Quota
from edgefl.overlay.requests import TIMER as REQUESTS
from edgefl.overlay.requests import Requests
from edgefl.overlay.routing import Router
from edgefl.overlay.search import RowQueries
from edgefl.overlay.stall import Stall
from edgefl.overlay.tracker import Tracker
from edgefl.overlay.tree_walk import TreeWalks
from edgefl.overlay.volunteers import Volunteers
from edgefl.overlay.zones import ZoneMethod, Zones
from edgefl.wire import overlay as wire
from edgefl.wire.application import Advert
from edgefl.wire.codec import Message
from edgefl.wire.contact import Contact
from edgefl.wire.game import MoveAsk, MoveTold, PriceAsk, PriceTold, SiteLoad, SitePromise
from edgefl.wire.overlay import Candidates, Leaving, Route, Track
from edgefl.wire.tree_walk import TreeAsk, TreeTold

if TYPE_CHECKING:
    from edgefl.effects import Effects, TimerKey

MESSAGE_SHARE, MESSAGE_WINDOW_S = 1000.0, 5.0
"""What one peer may send: 200 requests per second is the last hop before a tracker while 10^4 members join."""

COST = {wire.Publish: 3.0, wire.Rumour: 3.0, wire.Adverts: 6.0, wire.FindRows: 4.0}
"""Messages that cost more than one: signatures to verify (100 us each), a long answer to send. Adverts are looked at
only when asked for, so a page costs less than its signatures: a discovery of a full directory fits into one window."""

UNJOINED_MAY_SEND = frozenset((wire.FindRows, wire.Rows, wire.Ping, wire.Pong, wire.Leaving))
"""All other messages come from joined members alone, so their senders may be learned. (Rows and Pong say it
themselves.)"""

ZONE_TRACK: TimerKey = ("overlay", "zone")
WOKEN: TimerKey = ("overlay", "woken")


class Phase(Enum):
    """The life of an overlay: it is started once and left once."""

    NEW = "new"
    RUNNING = "running"
    LEFT = "left"


class Assembly:
    """All components of one device. `verify` checks an advert's signature; it is called for news only."""

    __slots__ = (
        "_device",
        "_directory",
        "_draining",
        "_events",
        "_forest",
        "_game",
        "_liveness",
        "_membership",
        "_phase",
        "_queries",
        "_quota",
        "_requests",
        "_router",
        "_stall",
        "_tracker",
        "_volunteers",
        "_walks",
        "_zones",
    )

    def __init__(
        self,
        contact: Contact,
        effects: Effects,
        listener: Listener,
        *,
        verify: Callable[[Advert], bool],
        profile: Profile = WAN,
        zones: ZoneMethod = ZoneMethod.SITE,
        rule: Rule = Rule.ACBR,
    ) -> None:
        self._device = device = Device(contact, effects, profile)
        self._events = events = EventQueue(listener)
        self._draining = False
        self._phase = Phase.NEW
        self._quota = Quota(MESSAGE_SHARE, MESSAGE_WINDOW_S)
        self._requests = requests = Requests(device)
        self._stall = Stall(profile)
        self._liveness = liveness = Liveness(device, requests)
        self._queries = queries = RowQueries(device, requests, liveness)
        self._membership = membership = Membership(device, requests, liveness, queries)
        self._router = router = Router(device, requests, liveness, membership, queries)
        self._tracker = Tracker(device, liveness, membership)
        self._game = game = Game(device, requests, liveness, router, rule)
        self._forest = Forest(device, requests, liveness, router, game, events)
        self._walks = TreeWalks(device, requests, liveness, self._forest.place)
        self._directory = Directory(device, requests, membership, router, verify, events.on_advert)
        self._volunteers = Volunteers(device, router, self._tracker, self._forest, events.on_help_wanted)
        self._zones = Zones(device, requests, liveness, router, zones)
        self._connect()

    def _connect(self) -> None:
        self._liveness.hooks = Hooks(self._appeared, self._changed, self._gone, self._pinned)
        self._membership.on_joined = self._joined
        self._membership.on_isolated = self._events.on_isolated
        self._membership.self_lookup.on_self_join = self._track_zone
        self._membership.on_adopted = self._adopted
        self._membership.zone_members = self._tracker.zone_members
        self._queries.remember = self._membership.reunion.remember
        self._forest.call_help = self._volunteers.call
        self._router.deliver = self._deliver
        self._router.on_lookup = self._looked_up
        self._zones.on_zone = self._leave_zone
        self._liveness.fleet_guess = self._membership.fleet_guess
        self._zones.fleet_estimate = self._membership.fleet_size
        gossip = self._membership.gossip
        self._membership.pack_zones = gossip.pack_zones = self._pack_zones
        gossip.zone_distance_s = self._zones.table.estimate_s
        gossip.unpack_zones = self._queries.unpack_zones = self._zones.table.unpack

    # Events from the world

    def on_message(self, sender: Contact, message: Message, now: float) -> bool:
        """A message has arrived from an authenticated peer. False: it does not belong to the overlay."""
        kind = type(message)
        handler = _HANDLERS.get(kind)
        if handler is None:
            return isinstance(message, _BODIES)  # of ours, but it travels inside Route alone
        if self._phase is not Phase.RUNNING or sender.node_id == self._device.node_id:
            return True
        if not self._quota.spend(sender.node_id, COST.get(kind, 1.0), now):
            self._device.counters["over_quota"] += 1
            return True
        if kind in UNJOINED_MAY_SEND:
            self._liveness.heard(sender, now)
        elif self._liveness.learn(sender, now) is None or not self._device.joined:
            return True  # of an earlier incarnation; or we would have to answer like a joined member
        handler(self, sender, message, now)
        if self._device.loopback or self._events.waiting:
            self._drain(now)
        return True

    def on_timer(self, key: TimerKey, now: float) -> bool:
        """A timer has fired. False: it does not belong to the overlay."""
        handled = True
        if self._stall.is_news(self._device.due(key, now), now) and self._phase is Phase.RUNNING:
            self._wake(now)
        if key == REQUESTS:
            self._requests.on_timer(now)
        elif key == ZONE_TRACK:
            self._track_zone(now)
        elif key == WOKEN:
            self._say_we_are_here(now)
        else:
            component = _TIMERS.get(key[0])
            handled = component is not None and component(self)(key, now)
        if self._device.loopback or self._events.waiting:
            self._drain(now)
        return handled

    def _wake(self, now: float) -> None:
        """This device has stood still for so long that others may have taken it for dead. It says that it is here, and
        asks whether its places are still its own: it need not find out by missing others."""
        self._device.counters["stalls"] += 1
        if self._device.joined:
            self._forest.on_woken(now)
            self._say_we_are_here(now)
            # Once more: others have closed links meanwhile, and what went into one before we knew is lost.
            self._device.set_timer(WOKEN, now + self._device.profile.watch_s)

    def _say_we_are_here(self, now: float) -> None:
        if self._device.joined:
            self._membership.on_woken()
            self._forest.say_edges()

    def on_link_lost(self, node_id: int, now: float) -> None:
        """The transport has lost its link to this device: a hint that is verified at once."""
        self._liveness.suspect(node_id, now)
        self._drain(now)

    # Between the components

    def _joined(self, now: float) -> None:
        self._tracker.start(now)
        self._track_zone(now)
        self._forest.on_overlay_joined(now)
        self._directory.on_overlay_joined(now)
        self._zones.start(now)
        self._events.on_joined(now)

    def _appeared(self, peer: Peer, knows_us: bool, now: float) -> None:
        self._membership.offer(peer, now, knows_us=knows_us)
        self._forest.on_appeared(peer.contact, now)

    def _adopted(self, peer: Peer, now: float) -> None:
        self._tracker.on_nearer(peer, now)
        self._directory.on_nearer(peer, now)

    def _changed(self, peer: Peer, before: Contact, now: float) -> None:
        self._membership.on_peer_changed(peer, before, now)
        if self._membership.holds(peer.node_id):
            self._adopted(peer, now)  # it may have restarted, and know nothing any more
        self._tracker.on_member_changed(peer.contact, now)
        self._forest.on_peer_changed(peer.contact, now)

    def _gone(self, peer: Peer, on_purpose: bool, now: float) -> None:
        self._membership.on_peer_gone(peer, on_purpose, now)
        self._tracker.forget_member(peer.node_id, now)
        self._forest.on_gone(peer.contact, now, dead=not on_purpose)
        self._game.site.forget(peer.node_id)

    def _pinned(self) -> set[int]:
        return self._membership.pinned().union(self._forest.neighbours())

    def _looked_up(self, request: int, owner: Contact | None, hops: int, now: float) -> None:
        if not self._zones.on_lookup(request, owner, now):
            self._events.on_lookup(request, owner, hops, now)

    def _leave_zone(self, zone: int, now: float) -> None:
        """Say farewell to the applications of our zone while we are in it; then the owner moves us to the other one."""
        self._forest.leave_zone(now)
        self._tracker.leave_zone()
        self._events.on_zone(zone, now)

    def _pack_zones(self, now: float, newcomer: bool) -> bytes:
        return self._zones.pack(now, newcomer=newcomer)

    def _track_zone(self, now: float) -> None:
        """Be known to our zone's tracker; its answer names others of the zone."""
        self._device.set_timer(ZONE_TRACK, now + self._device.jittered(self._device.profile.renewal_s))
        key = zone_key(self._device.contact.zone)
        self._router.route(key, Track(key), now)
        self._volunteers.register(now)

    def _on_ping(self, sender: Contact, message: wire.Ping, now: float) -> None:
        self._liveness.on_ping(sender, message, now)
        if not self._device.joined:
            self._membership.joiner.on_knock_from(sender, now)

    def _on_leaving(self, sender: Contact, message: Leaving, now: float) -> None:
        self._liveness.says_it_is_gone(sender, now, on_purpose=True)

    def _on_candidates(self, sender: Contact, message: Candidates, now: float) -> None:
        own = self._device.contact
        if own.dialable and sender.node_id ^ message.app > own.node_id ^ message.app:
            self._device.counters["implausible"] += 1  # whoever owns the key is nearer to it than we are
        elif message.app == zone_key(self._device.contact.zone):
            for contact in message.members:
                self._membership.consider(contact, sender.node_id, now)
        else:
            # The tracker may not know yet what members have told us: that they moved, or can no longer be dialled.
            members = tuple(map(self._liveness.newest, message.members))
            self._forest.on_candidates(sender, replace(message, members=members), now)

    def _deliver(self, route: Route, body: Message, now: float) -> None:
        if isinstance(body, Track):
            self._tracker.on_track(route, body, now)
        elif isinstance(body, wire.Untrack):
            self._tracker.on_untrack(route, body, now)
        elif isinstance(body, wire.SeekHelpers):
            self._volunteers.on_seek(route, body, now)
        elif isinstance(body, SitePromise):
            self._game.site.on_promise(route, body, now)
        elif isinstance(body, wire.ZoneQuery):
            self._tracker.on_zone_query(route, body, now)
        elif isinstance(body, wire.Publish):
            self._directory.on_routed_publish(route, body, now)
        elif isinstance(body, wire.Discover):
            self._directory.on_discover(route, body, now)

    def _drain(self, now: float) -> None:
        """Handle what we have sent to ourselves, then tell the listener, until nothing is left of either."""
        if self._draining:
            return
        self._draining = True
        try:
            while self._device.loopback or self._events.waiting:
                if self._device.loopback:
                    message = self._device.loopback.pop(0)
                    _HANDLERS[type(message)](self, self._device.contact, message, now)
                else:
                    self._events.deliver_one()
        finally:
            self._draining = False


_BODIES = (wire.Lookup, wire.Track, wire.Untrack, wire.Discover, wire.ZoneQuery, wire.SeekHelpers, SitePromise)

_Handler = Callable[[Assembly, Contact, Any, float], None]

_HANDLERS: dict[type[Message], _Handler] = {
    wire.FindRows: lambda parts, who, what, now: parts._membership.on_find_rows(who, what, now),
    wire.Rows: lambda parts, who, what, now: parts._queries.on_rows(who, what, now),
    wire.Announce: lambda parts, who, what, now: parts._membership.on_announce(who, what, now),
    wire.Ping: lambda parts, who, what, now: parts._on_ping(who, what, now),
    wire.Pong: lambda parts, who, what, now: parts._liveness.on_pong(who, what, now),
    wire.Beat: lambda parts, who, what, now: parts._membership.on_beat(who, what, now),
    wire.RowGossip: lambda parts, who, what, now: parts._membership.gossip.on_row_gossip(who, what, now),
    wire.Leaving: lambda parts, who, what, now: parts._on_leaving(who, what, now),
    wire.Route: lambda parts, who, what, now: parts._router.on_route(who, what, now),
    wire.RouteAck: lambda parts, who, what, now: parts._router.on_route_ack(who, what, now),
    wire.Found: lambda parts, who, what, now: parts._router.on_found(who, what, now),
    wire.Candidates: lambda parts, who, what, now: parts._on_candidates(who, what, now),
    wire.TrackerCopy: lambda parts, who, what, now: parts._tracker.on_copy(who, what, now),
    wire.HelpWanted: lambda parts, who, what, now: parts._volunteers.on_help_wanted(who, what, now),
    wire.Attach: lambda parts, who, what, now: parts._forest.on_attach(who, what, now),
    wire.Attached: lambda parts, who, what, now: parts._forest.on_attached(who, what, now),
    wire.Refused: lambda parts, who, what, now: parts._forest.on_refused(who, what, now),
    wire.Detach: lambda parts, who, what, now: parts._forest.on_detach(who, what, now),
    wire.TreeBeat: lambda parts, who, what, now: parts._forest.on_tree_beat(who, what, now),
    PriceAsk: lambda parts, who, what, now: parts._forest.on_price_ask(who, what, now),
    PriceTold: lambda parts, who, what, now: parts._game.on_price_told(who, what, now),
    MoveAsk: lambda parts, who, what, now: parts._forest.on_move_ask(who, what, now),
    TreeAsk: lambda parts, who, what, now: parts._forest.on_tree_ask(who, what, now),
    TreeTold: lambda parts, who, what, now: parts._walks.on_told(who, what, now),
    MoveTold: lambda parts, who, what, now: parts._game.on_move_told(who, what, now),
    SiteLoad: lambda parts, who, what, now: parts._game.site.on_load(who, what, now),
    wire.Publish: lambda parts, who, what, now: parts._directory.on_publish(who, what, now),
    wire.Adverts: lambda parts, who, what, now: parts._directory.on_adverts(who, what, now),
    wire.Rumour: lambda parts, who, what, now: parts._directory.on_rumour(who, what, now),
    wire.ZoneInfo: lambda parts, who, what, now: parts._zones.on_info(who, what, now),
}
"""One table for all overlays of a process: a simulator has thousands."""

_TIMERS: dict[Hashable, Callable[[Assembly], Callable[[TimerKey, float], bool]]] = {
    "membership": lambda parts: parts._membership.on_timer,
    "routing": lambda parts: parts._router.on_timer,
    "tracker": lambda parts: parts._tracker.on_timer,
    "tree": lambda parts: parts._forest.on_timer,
    "directory": lambda parts: parts._directory.on_timer,
    "zones": lambda parts: parts._zones.on_timer,
}
