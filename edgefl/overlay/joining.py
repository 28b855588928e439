"""How a device finds its place: silently, and it introduces itself only when it has found it.

    IDLE --begin--> KNOCKING
    KNOCKING  ask up to three remembered contacts for the rows that lead to our id; walk on to the nearest device
              nobody joined answers: knock again after 3 s         the walk ends: --> ZONE_KEY, or ZONE if the walk
                                                                   already met devices of our zone
    ZONE_KEY  walk to the owner of our zone's key, who tracks the zone's members                       --> ZONE
    ZONE      walk to our own id among the devices of our zone                                         --> MEASURING
    MEASURING ping the candidates of every slot and of both leaf sets; those that answer fill them     --> done: joined
              nobody answered: --> KNOCKING

Devices that have not joined answer so and are never learned (or two of them could found an island). The exception that
a fleet needs after a power cut, when nobody is joined any more: after 15 s in which only unjoined devices answered, the
one with the lowest id among those that it can hear begins as the first. (A device that knocks at an unjoined one is
asked back, so the hearing is mutual.) Islands that this makes meet again through remembered contacts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from enum import Enum, auto

from edgefl.overlay.device import Device
from edgefl.overlay.ids import clockwise, digit, shared_digits, zone_key
from edgefl.overlay.liveness import Liveness, Peer
from edgefl.overlay.profile import NODE, Profile
from edgefl.overlay.search import RowQueries, Search
from edgefl.wire.contact import Contact

DOOR_CANDIDATES = 12
"""Devices that a leaf measures for its four doors."""

MAX_UNJOINED = 64
"""Unjoined devices that we remember to decide who begins."""

MAX_CALLERS = 8
"""Devices that have knocked at us, or look for us, and are asked back at every knock."""

UNDIALABLE = 1 << 64
"""Stands for all unjoined devices that cannot be dialled: above every id, for they cannot begin."""

NOBODY: Set[int] = frozenset()
"""Shared by all that measure nobody: an empty set of its own takes 216 bytes."""

KNOCK = ("membership", "knock")


class Phase(Enum):
    IDLE = auto()
    KNOCKING = auto()
    ZONE_KEY = auto()
    ZONE = auto()
    MEASURING = auto()


class Joiner:
    """The way from knowing some addresses to being joined. `on_done` is called when the tables are filled."""

    __slots__ = (
        "_callers",
        "_device",
        "_found",
        "_liveness",
        "_measuring",
        "_on_done",
        "_queries",
        "_search",
        "_seeds",
        "_since",
        "_unjoined",
        "phase",
    )

    def __init__(
        self,
        device: Device,
        liveness: Liveness,
        queries: RowQueries,
        seeds: Callable[[], list[Contact]],
        on_done: Callable[[float], None],
    ) -> None:
        self._device = device
        self._liveness = liveness
        self._queries = queries
        self._seeds = seeds
        self._on_done = on_done
        self._search: Search | None = None
        self._found: dict[int, Contact] = {}
        self._unjoined: dict[int, float] = {}
        self._callers: dict[int, Contact] = {}
        self._since = 0.0
        self._measuring: Set[int] = NOBODY
        self.phase = Phase.IDLE

    def begin(self, now: float) -> None:
        """Start looking for the overlay; keeps trying until it is found."""
        if self.phase is Phase.IDLE:
            self._since = now
            self._knock(now)

    def stop(self) -> None:
        self.phase = Phase.IDLE
        self._device.effects.cancel_timer(KNOCK)
        if self._search is not None:
            self._search.abandon()
            self._search = None
        self._found, self._measuring, self._callers = {}, NOBODY, {}

    def hurry(self, now: float) -> None:
        """New contacts are known: no need to wait for the next knock."""
        if self.phase is Phase.KNOCKING:
            self._knock(now)

    def on_knock_from(self, sender: Contact, now: float) -> None:
        """Somebody asks us something while we look for the way ourselves: ask it back from now on."""
        if self.phase is Phase.IDLE:
            return
        if sender.dialable:
            self._callers[sender.node_id] = sender
            if len(self._callers) > MAX_CALLERS:
                del self._callers[next(iter(self._callers))]
        else:
            self._hear_unjoined(UNDIALABLE, now)  # it waits for us, and cannot begin itself

    def on_knock_timer(self, now: float) -> None:
        if self.phase is Phase.IDLE:
            return
        if self._may_begin_alone(now):
            self._done(now)
        else:
            self._knock(now)

    def _knock(self, now: float) -> None:
        self.phase = Phase.KNOCKING
        self._found = {}
        self._walk(self._device.node_id, [*self._seeds(), *self._callers.values()], self._placed, now)

    def _knock_later(self, now: float) -> None:
        """This attempt has failed. (Every phase ends by itself: each question in it is answered or times out.)"""
        self.phase = Phase.KNOCKING
        self._device.set_timer(KNOCK, now + self._device.jittered(self._device.profile.knock_s))

    def _walk(
        self,
        target: int,
        seeds: Iterable[Contact],
        then: Callable[[float], None],
        now: float,
        *,
        within: int | None = None,
    ) -> None:
        if self._search is not None:
            self._search.abandon()
        self._search = Search(self._device, self._queries, target, seeds, then, within=within)
        self._search.step(now)

    def _take_found(self, now: float) -> bool:
        """Collect what the finished walk found. False when no joined device answered it."""
        search = self._search
        if search is None:
            return False
        for node_id in search.unjoined:
            self._hear_unjoined(node_id, now)
        if search.nearest is None:
            return False
        self._found |= search.collected
        return True

    def _hear_unjoined(self, node_id: int, now: float) -> None:
        self._unjoined[node_id] = now
        if len(self._unjoined) > MAX_UNJOINED:
            del self._unjoined[next(iter(self._unjoined))]

    def _placed(self, now: float) -> None:
        if not self._take_found(now):
            self._knock_later(now)
            return
        self._unjoined.clear()
        self._since = now
        if self._zone_peers():
            self._find_zone(now)
        else:
            self.phase = Phase.ZONE_KEY
            self._walk(zone_key(self._device.contact.zone), self._found.values(), self._zone_asked, now)

    def _zone_asked(self, now: float) -> None:
        self._take_found(now)
        self._find_zone(now)

    def _find_zone(self, now: float) -> None:
        self.phase = Phase.ZONE
        self._walk(self._device.node_id, self._zone_peers(), self._zone_placed, now, within=self._device.contact.zone)

    def _zone_placed(self, now: float) -> None:
        self._take_found(now)
        self.phase = Phase.MEASURING
        device = self._device
        candidates = measured_at_joining(device.contact, self._found, device.random.random, device.profile)
        self._measuring = {contact.node_id for contact in candidates}
        for contact in candidates:
            self._liveness.ping(contact, now, self._answer_to(contact.node_id))
        self._finish_if_measured(now)

    def _answer_to(self, node_id: int) -> Callable[[Peer | None, float], None]:
        def answered(_: Peer | None, now: float) -> None:
            self._measuring -= {node_id}
            self._finish_if_measured(now)

        return answered

    def _finish_if_measured(self, now: float) -> None:
        if self.phase is not Phase.MEASURING or self._measuring:
            return
        if self._liveness.peers:
            self._done(now)
        else:
            self._knock_later(now)

    def _done(self, now: float) -> None:
        self.stop()
        self._unjoined.clear()
        self._on_done(now)

    def _may_begin_alone(self, now: float) -> bool:
        """Only unjoined devices have answered for a while, and we are the first of them."""
        profile = self._device.profile
        if self.phase is not Phase.KNOCKING or now - self._since < profile.cold_start_s:
            return False
        recent = [node_id for node_id, at in self._unjoined.items() if now - at < profile.cold_start_s]
        return bool(recent) and self._device.contact.dialable and self._device.node_id < min(recent)

    def _zone_peers(self) -> list[Contact]:
        zone = self._device.contact.zone
        return [contact for contact in self._found.values() if contact.zone == zone]


def measured_at_joining(
    own: Contact, found: dict[int, Contact], draw: Callable[[], float], profile: Profile = NODE
) -> list[Contact]:
    """The contacts worth a ping: both leaf sets, then a few for each slot, those of our zone first. A leaf needs a few
    doors alone, most of them of its zone."""
    chosen: dict[int, Contact] = {}
    if not own.dialable:
        return sorted(found.values(), key=lambda contact: (contact.zone != own.zone, draw()))[:DOOR_CANDIDATES]
    bits = profile.digit_bits
    for members, side in (
        ([c for c in found.values() if c.zone == own.zone], profile.zone_side),
        (list(found.values()), profile.fleet_side),
    ):
        ring = sorted(members, key=lambda contact: clockwise(own.node_id, contact.node_id))
        chosen.update((contact.node_id, contact) for contact in ring[:side] + ring[-side:])
    slots: dict[tuple[int, int], list[tuple[bool, float, Contact]]] = {}
    for contact in found.values():
        row = shared_digits(own.node_id, contact.node_id, bits)
        place = (row, digit(contact.node_id, row, bits))
        slots.setdefault(place, []).append((contact.zone != own.zone, draw(), contact))
    for place in sorted(slots, reverse=True):
        for _, _, contact in sorted(slots[place], key=lambda item: item[:2])[: profile.slot_candidates]:
            if len(chosen) >= profile.join_pings:
                return list(chosen.values())
            chosen[contact.node_id] = contact
    return list(chosen.values())
