"""The overlay of one device: the interface for the layers above.

Everything enters through `on_message`, `on_timer`, `on_link_lost` (assembly.py) and the calls of the owner, each with
`now`; everything leaves through `Effects` and the `Listener`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from edgefl.overlay.assembly import WOKEN, ZONE_TRACK, Assembly, Phase
from edgefl.overlay.coordinates import unpack_coordinate
from edgefl.overlay.game.equilibrium import Epsilon
from edgefl.overlay.game.ledger import Price
from edgefl.overlay.ids import zone_key
from edgefl.overlay.requests import TIMER as REQUESTS
from edgefl.overlay.tree_view import TreeView
from edgefl.overlay.tree_walk import Seen
from edgefl.overlay.zones import ZoneReport
from edgefl.wire import overlay as wire
from edgefl.wire.application import Advert
from edgefl.wire.contact import Contact
from edgefl.wire.overlay import Scope


class Overlay(Assembly):
    """One device in the overlay."""

    __slots__ = ()

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
        remembered = {contact.node_id for contact in self._membership.reunion.remembered()}
        return remembered | self._liveness.peers.keys()

    def lost(self) -> tuple[Contact, ...]:
        """Devices that have fallen silent and may be cut off: to be kept on disk, and remembered after a restart."""
        return tuple(self._membership.reunion.lost)

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

    def remember(self, contacts: Iterable[Contact]) -> None:
        """Devices that this one knew before its last start: it looks for them now and then, and knocks there when it
        finds nobody else."""
        self._membership.reunion.remember(contacts)

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
