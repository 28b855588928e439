"""A fleet of simulated devices: the shipped overlay on the faulty network.

`World` builds devices, lets them join, kills and restarts them, and answers questions that only somebody who sees
everything can answer: who owns this key, is each tree one tree. Further layers are put on top with `equip`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

from edgefl.overlay import WAN, Overlay, Profile, ZoneMethod, zone_of_site
from edgefl.overlay.game.rules import Rule
from edgefl.sim.clock import Clock
from edgefl.sim.event_log import EventLog
from edgefl.sim.network import Handler, Network, SimNode
from edgefl.sim.rtt_model import RttModel
from edgefl.wire import Contact

if TYPE_CHECKING:
    from edgefl.wire.application import Advert

BOOTSTRAP_CONTACTS = 3
"""Addresses that a device is given: what a join token carries."""

REMEMBERED_CONTACTS = 13
"""What a state directory keeps of them: with those of a token as many as an overlay takes."""


@dataclass(slots=True, eq=False)
class Member:
    """One device of the fleet."""

    world: World
    node: SimNode
    log: EventLog = field(init=False)
    overlay: Overlay = field(init=False)

    @property
    def node_id(self) -> int:
        return self.node.contact.node_id

    @property
    def now(self) -> float:
        """The time on this device's own clock: what every call of its overlay is given."""
        return self.node.now


@dataclass(frozen=True, slots=True)
class TreeReport:
    """One application's tree, seen from above."""

    app: int
    members: int
    attached: int
    roots: int
    depths: tuple[int, ...]
    counted: int

    @property
    def whole(self) -> bool:
        """Every member reaches the one root."""
        return self.attached == self.members and self.roots == 1

    def as_dict(self) -> dict[str, Any]:
        depths = self.depths or (0,)
        return {
            "app": f"{self.app:016x}",
            "members": self.members,
            "attached": self.attached,
            "roots": self.roots,
            "counted_by_root": self.counted,
            "depth": {"mean": round(sum(depths) / len(depths), 3), "max": max(depths)},
        }


class World:
    """Devices with overlays under virtual time. Nothing happens until `run`."""

    def __init__(
        self,
        *,
        devices: int = 64,
        seed: int = 1,
        profile: Profile | Sequence[Profile] = WAN,
        zones: bool = True,
        zoning: ZoneMethod = ZoneMethod.SITE,
        rule: Rule = Rule.ACBR,
        wire: bool = False,
        matrix: Sequence[Sequence[float]] | None = None,
        verify: Callable[[Advert], bool] = lambda advert: True,
        equip: Callable[[Member], Sequence[Handler]] = lambda member: (),
    ) -> None:
        """`devices`: how many are planned (shapes the world). Of several profiles each device draws one. `zones`: the
        operator has named the regions; `zoning` says how devices without such a label find their zone; `rule` how all
        choose their parents. `equip` gives each device further handlers; it may also append to
        `member.log.listeners`."""
        self.random = Random(seed)
        self.clock = Clock()
        self.model = RttModel(Random(self.random.getrandbits(64)), devices, matrix)
        self.network = Network(self.clock, self.model, Random(self.random.getrandbits(64)), wire=wire)
        self.members: dict[int, Member] = {}
        self.cycles = 0
        self._profiles = (profile,) if isinstance(profile, Profile) else tuple(profile)
        self._zones = zones and zoning is ZoneMethod.SITE
        self._zoning = zoning
        self._rule = rule
        self._verify = verify
        self._equip = equip
        self._addresses = 0

    # Devices

    def add(self, contact: Contact | None = None, **changes: Any) -> Member:
        """A new device that has not started. `changes` override fields of its random contact."""
        place = self.model.place()
        if contact is None:
            self._addresses += 1
            zone = zone_of_site(self.model.region(place)) if self._zones else 0
            fields = {"node_id": self.random.getrandbits(64), "host": self._host(), "port": 7000, "zone": zone}
            contact = Contact(**{**fields, **changes})
        member = Member(self, SimNode(self.network, contact, place, self.random.getrandbits(64)))
        member.log = EventLog(partial(self._check_for_cycle, member))
        member.log.on_zone_change = partial(self._change_zone, member)
        profile = self._profiles[0] if len(self._profiles) == 1 else self.random.choice(self._profiles)
        member.overlay = Overlay(
            contact,
            member.node,
            member.log,
            verify=self._verify,
            profile=profile,
            zones=self._zoning,
            rule=self._rule,
        )
        member.node.handlers = [member.overlay, *self._equip(member)]
        self.members[contact.node_id] = member
        return member

    def start(self, member: Member, *, first: bool = False) -> None:
        """Start a device now; unless it is the first, it knows some devices that have started before."""
        others = [m for m in self.alive() or self.members.values() if m is not member and m.node.contact.dialable]
        known = self.random.sample(others, min(BOOTSTRAP_CONTACTS, len(others)))
        member.overlay.bootstrap([m.overlay.contact for m in known], member.now)
        member.overlay.start(member.now, first=first)

    def grow(
        self, devices: int, over_s: float, changes: Callable[[Random], dict[str, Any]] = lambda random: {}
    ) -> None:
        """Add devices and start them one after the other, evenly over some time; the very first founds the fleet.
        `changes` overrides fields of each contact."""
        start = self.clock.now
        for index in range(devices):
            self.clock.run(start + over_s * index / devices)
            first = not self.members
            self.start(self.add(**changes(self.random)), first=first)
        self.clock.run(start + over_s)

    def alive(self) -> list[Member]:
        return [member for member in self.members.values() if member.node.alive]

    def kill(self, members: Sequence[Member]) -> None:
        """Let devices vanish silently, all at once."""
        for member in members:
            member.node.die()

    def notice(self, victims: Sequence[Member]) -> None:
        """The links to dead devices break, and those who had one hear of it after half a round trip: that is how a
        process ends whose kernel lives on. (Who vanishes with its power is missed later.)"""
        gone = {member.node_id: member for member in victims}
        for member in self.alive():
            known = {contact.node_id for contact in member.overlay.contacts()} | member.overlay.tree_neighbours()
            for node_id in sorted(known & gone.keys()):
                delay_s = self.model.rtt_s(member.node.place, gone[node_id].node.place) / 2
                self.clock.at(self.clock.now + delay_s, self._link_lost, member, node_id)

    @staticmethod
    def _link_lost(member: Member, node_id: int) -> None:
        if member.node.alive:
            member.overlay.on_link_lost(node_id, member.now)

    def restart(self, member: Member) -> Member:
        """A killed device comes back: same id and address, higher incarnation; of what it knew, contacts alone, those
        that it had lost included."""
        old = member.overlay.contact
        contact = Contact(old.node_id, old.host, old.port, old.zone, old.incarnation + 1, old.capacity, old.role)
        return self._start_again(member, contact)

    def replace(self, member: Member) -> Member:
        """A killed device comes back without its state: a new key, so a new id, at the same address."""
        old = member.overlay.contact
        return self._start_again(member, replace(old, node_id=self.random.getrandbits(64), incarnation=0))

    def _start_again(self, member: Member, contact: Contact) -> Member:
        again = self.add(contact)
        again.node.place = member.node.place
        if again.node_id == member.node_id:
            again.overlay.bootstrap(member.overlay.contacts()[:REMEMBERED_CONTACTS], again.now)
            again.overlay.remember([*member.overlay.contacts(), *member.overlay.lost()])
        self.start(again)
        return again

    def change_contact(self, member: Member, contact: Contact) -> None:
        """A device's address, zone or class changes while it runs."""
        self.network.detach(member.node)
        member.node.contact = contact
        self.network.attach(member.node)
        member.overlay.set_contact(contact, member.now)

    def move(self, member: Member, city: int) -> None:
        """A device travels to another city, where it gets a new address."""
        member.node.place = self.model.place(city)
        self._addresses += 1
        old = member.overlay.contact
        self.change_contact(member, replace(old, host=self._host(), incarnation=old.incarnation + 1))

    def _change_zone(self, member: Member, zone: int) -> None:
        old = member.overlay.contact
        self.change_contact(member, replace(old, zone=zone, incarnation=old.incarnation + 1))

    def _host(self) -> str:
        return f"10.{self._addresses >> 16}.{self._addresses >> 8 & 255}.{self._addresses & 255}"

    def run(self, seconds: float) -> None:
        self.clock.run(self.clock.now + seconds)

    # Seen from above

    def owner(self, key: int) -> int:
        """The live, joined device that is truly nearest to a key; a leaf owns nothing."""
        owners = (m.node_id for m in self.alive() if m.overlay.joined and m.overlay.contact.dialable)
        return min(owners, key=lambda node_id: node_id ^ key)

    def is_torn(self) -> bool:
        """Are there live devices who know nobody, through however many others, that is known to the rest? No protocol
        brings them together again: somebody has to tell them an address."""
        alive = {member.node_id: member for member in self.alive()}
        knows = {node_id: member.overlay.acquaintances() & alive.keys() for node_id, member in alive.items()}
        for node_id, others in list(knows.items()):
            for other in others:
                knows[other].add(node_id)
        reached: set[int] = set()
        ahead = list(alive)[:1]
        while ahead:
            node_id = ahead.pop()
            if node_id not in reached:
                reached.add(node_id)
                ahead += knows[node_id]
        return len(reached) < len(alive)

    def lookups(self, count: int, *, wait_s: float = 12.0) -> float:
        """Send lookups of random keys from random devices over a second; the share that named the true owner."""
        asked = []
        start = self.clock.now
        alive = self.alive()
        for index in range(count):
            self.clock.run(start + index / count)
            member = self.random.choice(alive)
            key = self.random.getrandbits(64)
            asked.append((member, member.overlay.lookup(key, member.now), key))
        self.clock.run(start + wait_s)
        return self.right(asked) / count

    def right(self, asked: Iterable[tuple[Member, int, int]]) -> int:
        """How many of these lookups (who asked, its number, the key) were answered with the owner of the key."""
        joined = [m.node_id for m in self.alive() if m.overlay.joined and m.overlay.contact.dialable]
        right = 0
        for member, request, key in asked:
            answer, _ = member.log.lookups.get(request, (None, 0))
            right += answer is not None and answer.node_id == min(joined, key=key.__xor__)
        return right

    def tree(self, app: int, among: Sequence[Member] | None = None) -> TreeReport:
        """Follow every member's parents up to a root, along edges that both ends know, helpers included. `among` spares
        looking for the members in the whole fleet."""
        return self._trace(app, self.alive() if among is None else among)

    def trees(self, apps: Sequence[int]) -> list[TreeReport]:
        """The same for many applications, with one look at each device."""
        taking_part: dict[int, list[Member]] = {app: [] for app in apps}
        for member in self.alive():
            for app in member.overlay.trees():
                if app in taking_part:
                    taking_part[app].append(member)
        return [self._trace(app, members) for app, members in taking_part.items()]

    @staticmethod
    def _trace(app: int, among: Iterable[Member]) -> TreeReport:
        views = {}
        for member in among:
            view = member.overlay.tree(app)
            if view is not None and not view.observer:
                views[member.node_id] = view
        parents: dict[int, int] = {}
        for node_id, view in views.items():
            above = None if view.parent is None else views.get(view.parent.node_id)
            if above is not None and any(child.contact.node_id == node_id for child in above.children):
                parents[node_id] = view.parent.node_id  # type: ignore[union-attr]
        roots = [node_id for node_id, view in views.items() if view.is_root]
        depths = []
        members = [node_id for node_id, view in views.items() if not view.helper]
        for node_id in members:
            at, depth = node_id, 0
            while at in parents and depth <= len(views):
                at, depth = parents[at], depth + 1
            if views[at].is_root:
                depths.append(depth)
        counted = sum(views[root].members for root in roots)
        return TreeReport(app, len(members), len(depths), len(roots), tuple(depths), counted)

    def _check_for_cycle(self, member: Member, app: int) -> None:
        """After every change of a parent: walking up from it must not come back."""
        seen = {member.node_id}
        at: Member | None = member
        while at is not None and at.node.alive:
            tree = at.overlay.parent_of(app)
            at = None if tree is None else self.members.get(tree)
            if at is not None and at.node_id in seen:
                self.cycles += 1
                return
            if at is not None:
                seen.add(at.node_id)
