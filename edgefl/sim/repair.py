"""How fast the trees of many applications are whole again: `edgefl sim fleet --repair`.

Devices join, every application grows its tree, and in every tree a round is open (the shipped overlay is told so, as
the learning layer does). Then a share of the members of every tree vanishes in the same instant, without a word. In
that instant every application's next broadcast begins, and it goes the way of a round's start (learning/worker.py): a
root that lives sends it to its children, a device that is the root from now on begins one, whoever gets it for the
first time passes it on to its children at that moment and to every child that comes later. Nothing is sent twice.

Measured for every tree, in virtual seconds after the failure: when the last live member got a broadcast, and when every
live member first had a path to the one root along edges that both ends know (TreeReport.whole). Broadcasts here are
the round's start alone; a model follows it within a round trip and its transfer time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from edgefl.sim.fleet import app_id
from edgefl.sim.world import Member, World
from edgefl.wire import Contact, Message
from edgefl.wire.blob import BlobRef
from edgefl.wire.learning import RoundKind, RoundStart

if TYPE_CHECKING:
    from edgefl.effects import TimerKey

JOIN_S, IDLE_S, ATTACH_S, SETTLE_S, OPEN_S = 60.0, 60.0, 20.0, 90.0, 30.0
"""Joins, idleness, members join their trees within the first part of a time to settle; rounds are open for so long
before the failure: at least one look at the spare parents."""

LIMIT_S, STEP_S = 60.0, 0.1
"""How long repair is followed, and how often the trees are looked at."""

MODEL = BlobRef(bytes(32), 4)


class Announcer:
    """Passes a round's start on, down the tree, and remembers when it came."""

    def __init__(self, member: Member, announcers: dict[int, Announcer]) -> None:
        self.got_at: dict[int, float] = {}
        """By application; the first of each that came."""
        self._early: dict[int, int] = {}
        self._member = member
        self._now = False
        announcers[member.node_id] = self
        member.log.listeners.append(self)

    def begin(self, app: int) -> None:
        """From here on broadcasts count; the root begins one."""
        self._now = True
        view = self._member.overlay.tree(app)
        if view is not None and view.is_root:
            self._pass_on(app)

    def _pass_on(self, app: int) -> None:
        view = self._member.overlay.tree(app)
        if view is None or app in self.got_at:
            return
        self.got_at[app] = self._member.world.clock.now
        for child in view.children:
            self._send(app, child.contact)

    def _send(self, app: int, child: Contact) -> None:
        self._member.node.send(child, RoundStart(app, 0, 1, 1, RoundKind.TRAIN, MODEL, 0.0))

    # Handler of the node

    def on_message(self, sender: Contact, message: Message, now: float) -> bool:
        if not isinstance(message, RoundStart):
            return False
        if self._member.overlay.parent_of(message.app) == sender.node_id:
            self._pass_on(message.app)
        else:
            self._early[message.app] = sender.node_id
        return True

    def on_timer(self, key: TimerKey, now: float) -> bool:
        return False

    # Listener of the overlay

    def on_root(self, app: int, now: float) -> None:
        if self._now:
            self._pass_on(app)

    def on_parent(self, app: int, parent: Contact, now: float) -> None:
        if self._early.get(app) == parent.node_id:  # links keep the order of messages, the simulated network does not
            self._pass_on(app)

    def on_child(self, app: int, child: Contact, observer: bool, now: float) -> None:
        if app in self.got_at:
            self._send(app, child)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("on_"):
            return lambda *_: None
        raise AttributeError(name)


def run_repair(
    *,
    nodes: int = 1000,
    apps: int = 128,
    members: int = 60,
    share: float = 0.05,
    loss: float = 0.0,
    seed: int = 1,
    matrix: Sequence[Sequence[float]] | None = None,
    report: Callable[[str, float], None] = lambda what, share: None,
) -> dict[str, Any]:
    """At least `share` of the members of every one of `apps` trees vanish at once. Returns the document of
    `edgefl sim fleet --repair` (JSON types only); times are virtual, None where something never happened."""
    started = time.process_time()
    announcers: dict[int, Announcer] = {}
    fleet = World(devices=nodes, seed=seed, matrix=matrix, equip=lambda member: [Announcer(member, announcers)])
    fleet.network.faults.loss = loss
    length_s = JOIN_S + IDLE_S + SETTLE_S + OPEN_S + LIMIT_S

    def progress(what: str) -> None:
        report(what, min(1.0, fleet.clock.now / length_s))

    progress("joining")
    fleet.grow(nodes, JOIN_S)
    fleet.run(IDLE_S)
    progress("trees form")
    groups = {app_id(index, seed): fleet.random.sample(fleet.alive(), min(members, nodes)) for index in range(apps)}
    _form(fleet, groups)
    whole_before = sum(fleet.tree(app).whole for app in groups)
    progress("rounds open")
    bytes_before = fleet.network.bytes
    for app, group in groups.items():
        for member in group:
            member.overlay.watch_tree(app, member.now + OPEN_S + LIMIT_S, member.now)
    fleet.run(OPEN_S)
    open_bytes_s = (fleet.network.bytes - bytes_before) / nodes / OPEN_S

    roots = {app: {m.node_id for m in group if _is_root(m, app)} for app, group in groups.items()}
    victims = choose(groups, share, fleet.random)
    fleet.kill(victims)
    failed_at = fleet.clock.now
    gone = {member.node_id for member in victims}
    live = {app: [m for m in group if m.node_id not in gone] for app, group in groups.items()}
    for app, group in live.items():
        for member in group:
            announcers[member.node_id].begin(app)
    whole_at: dict[int, float] = {}

    def over() -> bool:
        return len(whole_at) == apps and all(app in announcers[m.node_id].got_at for app in live for m in live[app])

    while fleet.clock.now < failed_at + LIMIT_S and not over():
        progress("repair")
        fleet.run(STEP_S)
        for app in [app for app in groups if app not in whole_at]:
            if fleet.tree(app, live[app]).whole:
                whole_at[app] = fleet.clock.now - failed_at
    got = {app: [announcers[m.node_id].got_at.get(app) for m in group] for app, group in live.items()}
    complete = [max(at for at in times if at is not None) - failed_at for times in got.values() if None not in times]
    lost_root = sum(bool(roots[app] & gone) for app in groups)
    edges = sum(len(group) for group in groups.values()) - apps
    return {
        "nodes": nodes,
        "seed": seed,
        "loss": loss,
        "trees": apps,
        "members": members,
        "whole_before": whole_before,
        "vanished": len(victims),
        "vanished_per_tree": _spread([len(groups[app]) - len(live[app]) for app in groups]),
        "trees_that_lost_their_root": lost_root,
        "live_members": sum(len(group) for group in live.values()),
        "reached": sum(at is not None for times in got.values() for at in times),
        "reached_s": _spread([at - failed_at for times in got.values() for at in times if at is not None]),
        "trees_reached": len(complete),
        "tree_reached_s": _spread(complete),
        "trees_whole": len(whole_at),
        "tree_whole_s": _spread(list(whole_at.values())),
        "cycles": fleet.cycles,
        "open_bytes_per_node_s": round(open_bytes_s, 2),
        "open_bytes_per_edge_s": round(open_bytes_s * nodes / max(1, edges), 2),
        "digest": f"{fleet.network.digest:08x}",
        "seconds": round(fleet.clock.now, 1),
        "cpu_seconds": round(time.process_time() - started, 2),
    }


def _form(fleet: World, groups: dict[int, list[Member]]) -> None:
    start = fleet.clock.now
    joins = [(app, member) for app, group in groups.items() for member in group]
    fleet.random.shuffle(joins)
    for index, (app, member) in enumerate(joins):
        fleet.clock.run(start + ATTACH_S * index / len(joins))
        member.overlay.join_tree(app, member.now)
    fleet.clock.run(start + SETTLE_S)


def _is_root(member: Member, app: int) -> bool:
    view = member.overlay.tree(app)
    return view is not None and view.is_root


def choose(groups: dict[int, list[Member]], share: float, random: Random) -> list[Member]:
    """Devices so that every group loses at least that share of its members, rounded up, and few lose more: of the group
    that lacks most, the one that most of the lacking groups have."""
    lacking = {app: int(np.ceil(share * len(group))) for app, group in groups.items()}
    chosen: dict[int, Member] = {}
    while (app := max(lacking, key=lambda a: lacking[a])) is not None and lacking[app] > 0:
        rest = [member for member in groups[app] if member.node_id not in chosen]
        random.shuffle(rest)
        victim = max(rest, key=lambda member: sum(lacking[a] > 0 for a in member.overlay.trees()))
        chosen[victim.node_id] = victim
        for other in victim.overlay.trees():
            lacking[other] -= 1
    return list(chosen.values())


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and largest; nothing of nothing."""
    if not values:
        return {}
    median, p99, most = (float(np.quantile(values, q)) for q in (0.5, 0.99, 1.0))
    return {"median": round(median, 3), "p99": round(p99, 3), "max": round(most, 3)}
