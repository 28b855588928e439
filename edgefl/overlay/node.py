"""The overlay of one device: its components put together, and the interface for the layers above.

Everything enters through `on_message`, `on_timer`, `on_link_lost` and the calls of the owner, each with `now`;
everything leaves through `Effects` and the `Listener`. A message is charged to its sender's quota, then handed to the
one component that its type belongs to. What a peer sends can be useless, but it cannot raise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from edgefl.overlay.coordinates import unpack_coordinate
from edgefl.overlay.device import Device
from edgefl.overlay.directory import Directory
from edgefl.overlay.events import EventQueue, Listener
from edgefl.overlay.forest import Forest
from edgefl.overlay.game.equilibrium import Epsilon
from edgefl.overlay.game.game import Game
from edgefl.overlay.game.ledger import Price
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
from edgefl.overlay.tree_view import TreeView
from edgefl.overlay.tree_walk import Seen, TreeWalks
from edgefl.overlay.volunteers import Volunteers
from edgefl.overlay.zones import ZoneMethod, ZoneReport, Zones
from edgefl.wire import overlay as wire
from edgefl.wire.application import Advert
from edgefl.wire.codec import Message
from edgefl.wire.contact import Contact
from edgefl.wire.game import MoveAsk, MoveTold, PriceAsk, PriceTold, SiteLoad, SitePromise
from edgefl.wire.overlay import Candidates, Leaving, Route, Scope, Track
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


class Overlay:
    """One device in the overlay. `verify` checks an advert's signature; it is called for news only."""

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
        self._membership.on_self_join = self._track_zone
        self._membership.on_adopted = self._adopted
        self._membership.zone_members = self._tracker.zone_members
        self._forest.call_help = self._volunteers.call
        self._router.deliver = self._deliver
        self._router.on_lookup = self._looked_up
        self._zones.on_zone = self._leave_zone
        self._liveness.fleet_guess = self._membership.fleet_guess
        self._zones.fleet_estimate = self._membership.fleet_size
        self._membership.pack_zones = self._pack_zones
        self._membership.zone_distance_s = self._zones.table.estimate_s
        self._membership.unpack_zones = self._queries.unpack_zones = self._zones.table.unpack

    # What is known

    @property
    def contact(self) -> Contact:
        return self._device.contact

    @property
    def joined(self) -> bool:
        return self._device.joined

    @property
    def counters(self) -> Counter[str]:
        """Events worth counting, by name; grows only."""
        return self._device.counters

    def contacts(self) -> tuple[Contact, ...]:
        """Everybody in our tables."""
        return tuple(peer.contact for peer in self._membership.members())

    def acquaintances(self) -> set[int]:
        """The node ids of everybody that it could turn to, now or after losing all others."""
        remembered = {contact.node_id for contact in self._membership.remembered()}
        return remembered | self._liveness.peers.keys()

    def zone_leaves(self) -> tuple[Contact, ...]:
        return tuple(peer.contact for peer in self._membership.rings.zone.peers())

    def global_leaves(self) -> tuple[Contact, ...]:
        return tuple(peer.contact for peer in self._membership.rings.fleet.peers())

    def rtt_s(self, node_id: int) -> float | None:
        """Smoothed round-trip time in seconds; None if it was never measured."""
        return self._liveness.rtt_s(node_id)

    def is_suspect(self, node_id: int) -> bool:
        return self._liveness.is_suspect(node_id)

    def tree(self, app: int) -> TreeView | None:
        """Our place in the application's tree; None if we take no part."""
        return self._forest.view(app)

    def parent_of(self, app: int) -> int | None:
        """The node id of our parent in that tree, if we have one; cheaper than a view."""
        tree = self._forest.trees.get(app)
        return None if tree is None or tree.parent is None else tree.parent.node_id

    def tree_neighbours(self) -> set[int]:
        """Parents and children in all trees, by node id."""
        return self._forest.neighbours()

    def trees(self) -> tuple[int, ...]:
        return tuple(self._forest.trees)

    def top_ranked(self, app: int, count: int) -> tuple[Contact, ...]:
        """The best known other members that are not known to be dead, highest rank first (a root's runners-up)."""
        tree = self._forest.trees.get(app)
        return () if tree is None else tree.top_ranked(count)

    def adverts(self) -> tuple[Advert, ...]:
        """All applications known, by id."""
        return self._directory.adverts()

    def zones(self, now: float) -> ZoneReport:
        """Our zone, how it was chosen, and the zones that we know."""
        return self._zones.report(now)

    def estimate_s(self, node_id: int) -> float | None:
        """The RTT to a known device as its coordinate and ours suggest, in seconds; None while it claims none."""
        peer = self._liveness.peers.get(node_id)
        if peer is None or peer.coordinate is None:
            return None
        return self._device.coordinate.rtt_s(unpack_coordinate(peer.coordinate))

    def sizes(self) -> dict[str, int]:
        """How much each bounded table holds, by name (for status, metrics and the tests of the bounds)."""
        return {
            "peers": len(self._liveness.peers),
            "contacts": len(self._membership.members()),
            "requests": len(self._requests),
            "quotas": len(self._quota),
            **self._liveness.sizes(),
            **self._membership.sizes(),
            **self._router.sizes(),
            **self._tracker.sizes(),
            **self._forest.sizes(),
            **self._directory.sizes(),
            **self._zones.sizes(),
            **self._volunteers.sizes(),
            **self._game.sizes(),
            **self._walks.sizes(),
        }

    # What the owner asks for

    def start(self, now: float, *, first: bool = False) -> None:
        """Join the overlay, or found it if this is the `first` device."""
        if self._phase is Phase.NEW:
            self._phase = Phase.RUNNING
            self._membership.start(now, first=first)
            self._drain(now)

    def bootstrap(self, contacts: Iterable[Contact], now: float) -> None:
        """Where to find the fleet; may be called at any time, the newest 16 are kept."""
        self._membership.bootstrap(contacts, now)
        self._drain(now)

    def leave(self, now: float) -> None:
        """Leave gracefully; the overlay is silent afterwards, for good."""
        if self._phase is Phase.RUNNING:
            self._forest.stop(now)
            self._tracker.stop()
            self._directory.stop()
            self._zones.stop()
            self._membership.stop(now)
            self._requests.clear()
            for key in (REQUESTS, ZONE_TRACK, WOKEN):
                self._device.effects.cancel_timer(key)
            self._device.loopback.clear()
            self._device.joined = False
        self._phase = Phase.LEFT

    def set_contact(self, contact: Contact, now: float) -> None:
        """Our address, zone or class has changed. The incarnation must be higher and the node id the same."""
        before = self._device.contact
        if contact.node_id != before.node_id or contact.incarnation <= before.incarnation:
            raise ValueError("a new contact needs the same node id and a higher incarnation")
        if self._phase is Phase.RUNNING and contact.zone != before.zone:
            self._forest.leave_zone(now)
            self._tracker.leave_zone()
        self._device.contact = contact
        if contact.zone != before.zone:
            self._game.site.on_zone_changed()
        if self._phase is Phase.RUNNING:
            self._membership.on_own_contact_changed(before, now)
            if contact.zone != before.zone:
                self._router.route(zone_key(before.zone), wire.Untrack(zone_key(before.zone)), now)
                self._track_zone(now)
            self._forest.on_own_contact_changed(now)
            self._zones.on_own_contact_changed(before, now)
            self._drain(now)

    def lookup(self, key: int, now: float) -> int:
        """Ask who is nearest to `key`; the answer is `on_lookup` with the number returned."""
        return self._router.lookup(key, now)

    def ping(self, contact: Contact, now: float, then: Callable[[float | None], None]) -> None:
        """Measure the RTT to a device now: `then` is called once, with seconds, or None without an answer in time."""
        self._liveness.ping(contact, now, lambda peer, at: then(None if peer is None else at - now))

    def join_tree(
        self, app: int, now: float, *, observer: bool = False, helper: bool = False, scope: Scope = Scope.GLOBAL
    ) -> None:
        """Take part in an application's tree, or change the part taken. A `helper` carries its models without being a
        member, and is dismissed at once if this device does not volunteer. UsageError beyond forest.MAX_TREES."""
        self._forest.join(app, now, observer=observer, helper=helper, scope=scope)
        self._drain(now)

    def walk_tree(self, app: int, now: float, then: Callable[[tuple[Seen, ...]], None]) -> bool:
        """See the whole tree that we take part in: `then` is called once. False: too many such walks at a time."""
        started = self._walks.start(app, now, then)
        self._drain(now)
        return started

    def disown(self, app: int, sender: Contact, now: float) -> None:
        """This device speaks to us as a parent or a child in the application's tree: unless it is, it is told so at
        once. Its next heartbeat would tell it as well, but a round would wait for that."""
        self._forest.disown(app, sender)

    def leave_tree(self, app: int, now: float) -> None:
        self._forest.leave(app, now)
        self._drain(now)

    def watch_tree(self, app: int, until: float, now: float) -> None:
        """A round is open in the tree until then (or no longer, if that has passed): neighbours and spare parents are
        asked more often, so that the dead are noticed and replaced within seconds."""
        self._forest.watch(app, until, now)
        if until > now:
            self._game.on_round_open(app)
        self._drain(now)

    def set_price(self, price: Price) -> None:
        """What this device costs those who send through it, from its sensors."""
        self._game.set_price(price)

    def on_round_over(self, app: int, size_bytes: int, waited_s: float, now: float) -> None:
        """Our update of this round is with our parent, after it was ready for so long: the boundary at which a device
        may change its parent (overlay/game)."""
        self._game.on_round_over(app, size_bytes, waited_s, now)
        self._drain(now)

    def epsilon_sums(self, app: int) -> tuple[float, float]:
        """The same as two sums, for the history: what could be gained and what is paid, in byte-seconds."""
        epsilon = self._game.epsilon(app)
        return epsilon.gain_byte_s, epsilon.cost_byte_s

    def epsilon(self, app: int) -> Epsilon:
        """What the devices of our subtree could still gain by another parent; at the root, of the application."""
        return self._game.epsilon(app)

    @property
    def price(self) -> Price:
        """As last set."""
        return self._game.ledger.price

    @property
    def promised_bytes(self) -> int:
        """What this device carries for its children in a round, over all applications."""
        return self._game.ledger.load_bytes

    @property
    def site_load_bytes(self) -> int:
        """What the devices of our site carry over its uplink in a round, as far as we know; 0 without its price."""
        return self._game.site.load_bytes()

    def publish(self, advert: Advert, now: float) -> None:
        """Make an advert known, and keep it known: the holder of the application's root repeats this every minute."""
        self._directory.publish(advert, now)
        self._drain(now)

    def discover(self, now: float) -> None:
        """Ask the directory now instead of within a minute."""
        self._directory.discover(now)
        self._drain(now)

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
        handler(self)(sender, message, now)
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

    def _pinned(self) -> frozenset[int]:
        return self._membership.pinned() | self._forest.neighbours()

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
                    _HANDLERS[type(message)](self)(self._device.contact, message, now)
                else:
                    self._events.deliver_one()
        finally:
            self._draining = False


_BODIES = (wire.Lookup, wire.Track, wire.Untrack, wire.Discover, wire.ZoneQuery, wire.SeekHelpers, SitePromise)

_Handler = Callable[[Contact, Any, float], None]

_HANDLERS: dict[type[Message], Callable[[Overlay], _Handler]] = {
    wire.FindRows: lambda overlay: overlay._membership.on_find_rows,
    wire.Rows: lambda overlay: overlay._queries.on_rows,
    wire.Announce: lambda overlay: overlay._membership.on_announce,
    wire.Ping: lambda overlay: overlay._on_ping,
    wire.Pong: lambda overlay: overlay._liveness.on_pong,
    wire.Beat: lambda overlay: overlay._membership.on_beat,
    wire.RowGossip: lambda overlay: overlay._membership.on_row_gossip,
    wire.Leaving: lambda overlay: overlay._on_leaving,
    wire.Route: lambda overlay: overlay._router.on_route,
    wire.RouteAck: lambda overlay: overlay._router.on_route_ack,
    wire.Found: lambda overlay: overlay._router.on_found,
    wire.Candidates: lambda overlay: overlay._on_candidates,
    wire.TrackerCopy: lambda overlay: overlay._tracker.on_copy,
    wire.HelpWanted: lambda overlay: overlay._volunteers.on_help_wanted,
    wire.Attach: lambda overlay: overlay._forest.on_attach,
    wire.Attached: lambda overlay: overlay._forest.on_attached,
    wire.Refused: lambda overlay: overlay._forest.on_refused,
    wire.Detach: lambda overlay: overlay._forest.on_detach,
    wire.TreeBeat: lambda overlay: overlay._forest.on_tree_beat,
    PriceAsk: lambda overlay: overlay._forest.on_price_ask,
    PriceTold: lambda overlay: overlay._game.on_price_told,
    MoveAsk: lambda overlay: overlay._forest.on_move_ask,
    TreeAsk: lambda overlay: overlay._forest.on_tree_ask,
    TreeTold: lambda overlay: overlay._walks.on_told,
    MoveTold: lambda overlay: overlay._game.on_move_told,
    SiteLoad: lambda overlay: overlay._game.site.on_load,
    wire.Publish: lambda overlay: overlay._directory.on_publish,
    wire.Adverts: lambda overlay: overlay._directory.on_adverts,
    wire.Rumour: lambda overlay: overlay._directory.on_rumour,
    wire.ZoneInfo: lambda overlay: overlay._zones.on_info,
}
"""One table for all overlays of a process: a simulator has thousands."""

_TIMERS: dict[Hashable, Callable[[Overlay], Callable[[TimerKey, float], bool]]] = {
    "membership": lambda overlay: overlay._membership.on_timer,
    "routing": lambda overlay: overlay._router.on_timer,
    "tracker": lambda overlay: overlay._tracker.on_timer,
    "tree": lambda overlay: overlay._forest.on_timer,
    "directory": lambda overlay: overlay._directory.on_timer,
    "zones": lambda overlay: overlay._zones.on_timer,
}
