"""Fleets of simulated devices: the shipped overlay on the faulty network, and the scenario that judges it.

`Fleet` builds devices, lets them join, kills and restarts them, and answers questions that only somebody who sees
everything can answer: who owns this key, is each tree one tree. `run_fleet` is the scenario of `edgefl sim fleet`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from edgefl.overlay import WAN, Listener, Overlay, Position, Profile, zone_of_site
from edgefl.sim.clock import Clock
from edgefl.sim.network import Handler, Network, SimNode
from edgefl.sim.rtt_model import RttModel
from edgefl.wire import Contact
from edgefl.wire.overlay import Scope

if TYPE_CHECKING:
    from edgefl.wire.application import Advert

BOOTSTRAP_CONTACTS = 3
"""Addresses that a device is given: what a join token carries."""


class EventLog:
    """What the overlay of one device has reported; passes it on to further listeners (the layers above)."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self.listeners: list[Listener] = []
        self.lookups: dict[int, tuple[Contact | None, int]] = {}
        self.adverts: list[tuple[float, Advert]] = []
        self.trees: list[tuple[float, str, int]] = []
        self.joined_at: float | None = None
        self.isolated = 0

    def on_joined(self, now: float) -> None:
        self.joined_at = now
        for listener in self.listeners:
            listener.on_joined(now)

    def on_isolated(self, now: float) -> None:
        self.isolated += 1
        for listener in self.listeners:
            listener.on_isolated(now)

    def on_root(self, app: int, now: float) -> None:
        self._tree_event("root", app, now)
        for listener in self.listeners:
            listener.on_root(app, now)

    def on_parent(self, app: int, parent: Contact, now: float) -> None:
        self._tree_event("parent", app, now)
        for listener in self.listeners:
            listener.on_parent(app, parent, now)

    def on_orphaned(self, app: int, now: float) -> None:
        self._tree_event("orphaned", app, now)
        for listener in self.listeners:
            listener.on_orphaned(app, now)

    def on_child(self, app: int, child: Contact, observer: bool, now: float) -> None:
        for listener in self.listeners:
            listener.on_child(app, child, observer, now)

    def on_child_gone(self, app: int, child: int, now: float) -> None:
        for listener in self.listeners:
            listener.on_child_gone(app, child, now)

    def on_lookup(self, request: int, owner: Contact | None, hops: int, now: float) -> None:
        self.lookups[request] = (owner, hops)
        for listener in self.listeners:
            listener.on_lookup(request, owner, hops, now)

    def on_advert(self, advert: Advert, now: float) -> None:
        self.adverts.append((now, advert))
        for listener in self.listeners:
            listener.on_advert(advert, now)

    def _tree_event(self, kind: str, app: int, now: float) -> None:
        self.trees.append((now, kind, app))
        self._member.fleet.check_for_cycle(self._member, app)


@dataclass(slots=True, eq=False)
class Member:
    """One device of the fleet."""

    fleet: Fleet
    node: SimNode
    log: EventLog = field(init=False)
    overlay: Overlay = field(init=False)

    @property
    def node_id(self) -> int:
        return self.node.contact.node_id


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


class Fleet:
    """Devices with overlays under virtual time. Nothing happens until `run`."""

    def __init__(
        self,
        *,
        devices: int = 64,
        seed: int = 1,
        profile: Profile = WAN,
        zones: bool = True,
        wire: bool = False,
        matrix: Sequence[Sequence[float]] | None = None,
        verify: Callable[[Advert], bool] = lambda advert: True,
        equip: Callable[[Member], Sequence[Handler]] = lambda member: (),
    ) -> None:
        """`devices`: how many are planned (shapes the world). `equip` gives each device further handlers; it may also
        append to `member.log.listeners`."""
        self.random = Random(seed)
        self.clock = Clock()
        self.model = RttModel(Random(self.random.getrandbits(64)), devices, matrix)
        self.network = Network(self.clock, self.model, Random(self.random.getrandbits(64)), wire=wire)
        self.members: dict[int, Member] = {}
        self.cycles = 0
        self._profile = profile
        self._zones = zones
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
            host = f"10.{self._addresses >> 16}.{self._addresses >> 8 & 255}.{self._addresses & 255}"
            fields = {"node_id": self.random.getrandbits(64), "host": host, "port": 7000, "zone": zone}
            contact = Contact(**{**fields, **changes})
        member = Member(self, SimNode(self.network, contact, place, self.random.getrandbits(64)))
        member.log = EventLog(member)
        member.overlay = Overlay(contact, member.node, member.log, verify=self._verify, profile=self._profile)
        member.node.handlers = [member.overlay, *self._equip(member)]
        self.members[contact.node_id] = member
        return member

    def start(self, member: Member, *, first: bool = False) -> None:
        """Start a device now; unless it is the first, it knows some devices that have started before."""
        others = [m for m in self.alive() if m is not member]
        known = self.random.sample(others, min(BOOTSTRAP_CONTACTS, len(others)))
        member.overlay.bootstrap([m.overlay.contact for m in known], self.clock.now)
        member.overlay.start(self.clock.now, first=first)

    def grow(self, devices: int, over_s: float) -> None:
        """Add devices and start them one after the other, evenly over some time; the very first founds the fleet."""
        start = self.clock.now
        for index in range(devices):
            self.clock.run(start + over_s * index / devices)
            first = not self.members
            self.start(self.add(), first=first)
        self.clock.run(start + over_s)

    def alive(self) -> list[Member]:
        return [member for member in self.members.values() if member.node.alive]

    def kill(self, members: Sequence[Member]) -> None:
        """Let devices vanish silently, all at once."""
        for member in members:
            member.node.die()

    def restart(self, member: Member) -> Member:
        """A killed device comes back: same id and address, higher incarnation, nothing remembered but some contacts."""
        old = member.overlay.contact
        contact = Contact(
            old.node_id, old.host, old.port, old.zone, old.incarnation + 1, old.capacity, old.role
        )
        again = self.add(contact)
        again.node.place = member.node.place
        self.start(again)
        return again

    def change_contact(self, member: Member, contact: Contact) -> None:
        """A device's address, zone or class changes while it runs."""
        self.network.detach(member.node)
        member.node.contact = contact
        self.network.attach(member.node)
        member.overlay.set_contact(contact, self.clock.now)

    def run(self, seconds: float) -> None:
        self.clock.run(self.clock.now + seconds)

    # Seen from above

    def owner(self, key: int) -> int:
        """The live, joined device that is truly nearest to a key."""
        return min((m.node_id for m in self.alive() if m.overlay.joined), key=lambda node_id: node_id ^ key)

    def lookups(self, count: int, *, wait_s: float = 12.0) -> float:
        """Send lookups of random keys from random devices over a second; the share that named the true owner."""
        asked = []
        start = self.clock.now
        alive = self.alive()
        for index in range(count):
            self.clock.run(start + index / count)
            member = self.random.choice(alive)
            key = self.random.getrandbits(64)
            asked.append((member, member.overlay.lookup(key, self.clock.now), key))
        self.clock.run(start + wait_s)
        right = 0
        for member, request, key in asked:
            owner, _ = member.log.lookups.get(request, (None, 0))
            right += owner is not None and owner.node_id == self.owner(key)
        return right / count

    def tree(self, app: int) -> TreeReport:
        """Follow every member's parents up to a root."""
        views = {}
        for member in self.alive():
            view = member.overlay.tree(app)
            if view is not None and not view.observer:
                views[member.node_id] = view
        roots = [node_id for node_id, view in views.items() if view.is_root]
        depths = []
        for node_id in views:
            at, depth = node_id, 0
            while at in views and views[at].parent is not None and depth <= len(views):
                parent = views[at].parent
                below = at
                at = parent.node_id if parent is not None else 0
                if at not in views or all(child.contact.node_id != below for child in views[at].children):
                    break
                depth += 1
            if at in views and views[at].is_root:
                depths.append(depth)
        counted = sum(views[root].members for root in roots)
        return TreeReport(app, len(views), len(depths), len(roots), tuple(depths), counted)

    def check_for_cycle(self, member: Member, app: int) -> None:
        """Called after every change of a parent: walking up from it must not come back."""
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


def app_id(index: int, seed: int) -> int:
    """An application id for a scenario."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest(), "big")


Report = Callable[[str, float], None]
"""Progress: what is going on, and how far the scenario is (0 to 1)."""

JOIN_S, IDLE_S, SETTLE_S = 60.0, 120.0, 120.0
AFTER_S = (45.0, 70.0, 95.0)
END_S = 180.0
"""The scenario: joins over a minute, two minutes of idleness (the second one is metered), trees form and settle, part of
the fleet vanishes, lookups at three moments afterwards, and the trees are judged three minutes after the failure."""


def run_fleet(
    *,
    nodes: int = 300,
    apps: int = 3,
    members: int = 60,
    churn: float = 0.5,
    loss: float = 0.0,
    seed: int = 1,
    lookups: int = 300,
    zones: bool = True,
    wire: bool = False,
    report: Report = lambda what, share: None,
) -> dict[str, Any]:
    """The overlay under the failure of a share `churn` of all devices at once, with packet `loss` throughout.

    Returns the document of `edgefl sim fleet` (JSON types only). Virtual time; CPU time is measured.
    """
    started = time.process_time()
    fleet = Fleet(devices=nodes, seed=seed, zones=zones, wire=wire)
    fleet.network.faults.loss = loss
    length_s = JOIN_S + IDLE_S + SETTLE_S + END_S

    def progress(what: str) -> None:
        report(what, min(1.0, fleet.clock.now / length_s))

    progress("joining")
    fleet.grow(nodes, JOIN_S)
    fleet.run(IDLE_S / 2)
    progress("idle")
    bytes_before = fleet.network.bytes
    fleet.run(IDLE_S / 2)
    idle_bytes_s = (fleet.network.bytes - bytes_before) / nodes / (IDLE_S / 2)
    joined = sum(member.overlay.joined for member in fleet.alive())

    progress("trees form")
    app_ids = [app_id(index, seed) for index in range(apps)]
    joins = [(app, m) for app in app_ids for m in fleet.random.sample(fleet.alive(), min(members, nodes))]
    fleet.random.shuffle(joins)
    start = fleet.clock.now
    for index, (app, member) in enumerate(joins):
        fleet.clock.run(start + 20.0 * index / len(joins))
        member.overlay.join_tree(app, fleet.clock.now, scope=Scope.GLOBAL)
    fleet.clock.run(start + SETTLE_S / 2)
    bytes_before = fleet.network.bytes
    fleet.clock.run(start + SETTLE_S)
    tree_bytes_s = (fleet.network.bytes - bytes_before) / nodes / (SETTLE_S / 2)
    settled = [fleet.tree(app) for app in app_ids]
    progress("lookups")
    correct = {"before": fleet.lookups(lookups)}

    victims = fleet.random.sample(fleet.alive(), round(nodes * churn))
    fleet.kill(victims)
    failed_at = fleet.clock.now
    for after_s in AFTER_S:
        progress(f"{after_s:.0f} s after the failure")
        fleet.clock.run(failed_at + after_s)
        correct[f"after_{after_s:.0f}s"] = fleet.lookups(lookups)
    progress("judging")
    fleet.clock.run(failed_at + END_S)
    final = [fleet.tree(app) for app in app_ids]
    hops = [hops for m in fleet.members.values() for owner, hops in m.log.lookups.values() if owner is not None]
    return {
        "nodes": nodes,
        "seed": seed,
        "churn": churn,
        "loss": loss,
        "joined": joined,
        "lookups_correct": {name: round(value, 4) for name, value in correct.items()},
        "lookup_hops_mean": round(sum(hops) / max(1, len(hops)), 3),
        "apps": [tree.as_dict() for tree in final],
        "apps_before": [tree.as_dict() for tree in settled],
        "cycles": fleet.cycles,
        "bytes_per_node_s": round(tree_bytes_s, 2),
        "idle_bytes_per_node_s": round(idle_bytes_s, 2),
        "messages": fleet.network.messages,
        "events": fleet.clock.events,
        "seconds": round(fleet.clock.now, 1),
        "cpu_seconds": round(time.process_time() - started, 2),
    }


__all__ = ["EventLog", "Fleet", "Member", "Position", "TreeReport", "app_id", "run_fleet"]
