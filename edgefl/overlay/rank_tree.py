"""One application's tree, as one of its devices takes part in it.

Theory of operation. Members know the order of rank (rank.py); a parent outranks its child, which both ends check, so no
sequence of losses, repairs and races can close a cycle. A member attaches inside its zone if a higher-ranked member of
the zone exists; else it is its zone's head and attaches across zones; if nobody anywhere is higher, it is the root.

    position  SEEKING   no parent: ask the tracker (2, 2, 4 .. 30 s), attach to whom it proposes
              ATTACHED  below a parent
              ROOT      the tracker names nobody higher

    SEEKING   --Attached--> ATTACHED          SEEKING --Candidates without anybody higher--> ROOT
    ATTACHED  --parent dead, Detach from it, it no longer outranks us--> SEEKING
    ATTACHED  --across zones, and the zone has somebody higher: Attached by that one--> ATTACHED (old parent told)
    ROOT      --a higher one known: Attached by it--> ATTACHED

    attempt   (beside the position, so that an edge is made before the old one is broken)
              MEASURING a handful of candidates of a higher level, by ping; skipped in repair
              WAITING   Attach sent to the nearest: Attached ends it; FULL goes down to its children; silence or another
                        refusal tries the next; nobody left: report the failed ones to the tracker, ask again

A parent serves 8 children of its zone and 4 of others. Full, it lets its lowest-ranked child go for a newcomer of
higher rank (which else could be stuck), and names the newcomer to it; a newcomer of lower rank is sent down to the
children. Subtree height and members ride up with the heartbeats, depth and root ride down. Observers attach below
members, have no children and are not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Protocol

from edgefl.overlay.device import Device
from edgefl.overlay.liveness import Liveness, Peer
from edgefl.overlay.rank import Rank, can_be_parent, level, rank
from edgefl.overlay.requests import Requests
from edgefl.wire.contact import Contact
from edgefl.wire.overlay import (
    MAX_ALTERNATIVES,
    MAX_FAILED,
    Attach,
    Attached,
    Candidates,
    Detach,
    Refusal,
    Refused,
    Scope,
    Track,
    TreeEdge,
)

ZONE_CHILDREN = 8
"""Fan-out inside the zone: depth 7.7 at 10^6 members, where 4 + 4 gives one level more (overlay study 1.3)."""

OTHER_CHILDREN = 4
"""Fan-out across zones: these edges carry models over wide-area links."""

HANDFUL = 5
"""Candidates compared by RTT: the nearest of five random ones is about as good as the nearest of sixteen."""

MAX_ATTEMPTS = 24
"""Parents tried before asking the tracker again: twice the depth of the largest tree."""

MAX_POOL = 48
"""Members known as possible parents or runners-up: two answers of a tracker."""

MAX_HEIGHT = 255
MAX_MEMBERS = 0xFFFFFFFF


class Position(Enum):
    """Where a device stands in a tree."""

    SEEKING = "seeking"
    ATTACHED = "attached"
    ROOT = "root"


class TreeListener(Protocol):
    """What happens to a device's place in a tree; `now` in monotonic seconds."""

    def on_root(self, app: int, now: float) -> None: ...
    def on_parent(self, app: int, parent: Contact, now: float) -> None: ...
    def on_orphaned(self, app: int, now: float) -> None: ...
    def on_child(self, app: int, child: Contact, observer: bool, now: float) -> None: ...
    def on_child_gone(self, app: int, child: int, now: float) -> None: ...


@dataclass(frozen=True, slots=True)
class ChildView:
    """A child as others may see it: `height` of its subtree (0: a leaf), `members` in it."""

    contact: Contact
    observer: bool
    height: int
    members: int


@dataclass(frozen=True, slots=True)
class TreeView:
    """A device's place in a tree. `members` counts its subtree with itself, `depth` is its distance from the root."""

    app: int
    position: Position
    observer: bool
    parent: Contact | None
    children: tuple[ChildView, ...]
    height: int
    members: int
    depth: int
    root: int

    @property
    def is_root(self) -> bool:
        return self.position is Position.ROOT


@dataclass(slots=True)
class _Child:
    contact: Contact
    observer: bool
    height: int
    members: int
    heard_at: float
    told: tuple[int, int] | None = None


@dataclass(slots=True)
class _Attempt:
    queue: list[Contact]
    measuring: set[int] = field(default_factory=set)
    tried: set[int] = field(default_factory=set)
    waiting: Contact | None = None
    said: tuple[int, int] = (0, 0)


@dataclass(slots=True)
class TreeWorld:
    """What a tree needs from its device."""

    device: Device
    requests: Requests
    liveness: Liveness
    listener: TreeListener
    ask_tracker: Callable[[RankTree, Track, float], None]
    renew_at: Callable[[RankTree, float], None]
    touched: Callable[[RankTree, float], None]


class RankTree:
    """This device in one tree."""

    def __init__(self, world: TreeWorld, app: int, scope: Scope, observer: bool) -> None:
        self._world = world
        self._device = world.device
        self.app = app
        self.scope = scope
        self.observer = observer
        self.position = Position.SEEKING
        self.parent: Contact | None = None
        self.children: dict[int, _Child] = {}
        self.depth = 0
        self.root = 0
        self._parent_heard_at = 0.0
        self._told: tuple[int, int] | None = None
        self._attempt: _Attempt | None = None
        self._pool: dict[int, Contact] = {}
        self._avoid: dict[int, float] = {}
        self._failed: dict[int, float] = {}
        self._seeks = 0
        self._kept = True

    # What others may see

    @property
    def height(self) -> int:
        heights = [child.height + 1 for child in self.children.values() if not child.observer]
        return min(MAX_HEIGHT, max(heights, default=0))

    @property
    def members(self) -> int:
        below = sum(child.members for child in self.children.values() if not child.observer)
        return min(MAX_MEMBERS, below + (not self.observer))

    def view(self) -> TreeView:
        children = tuple(ChildView(c.contact, c.observer, c.height, c.members) for c in self.children.values())
        return TreeView(
            self.app,
            self.position,
            self.observer,
            self.parent,
            children,
            self.height,
            self.members,
            self.depth,
            self.root,
        )

    def top_ranked(self, count: int) -> tuple[Contact, ...]:
        """The best known other members that are not known to be dead, highest rank first."""
        known = {**self._pool, **{i: c.contact for i, c in self.children.items() if not c.observer}}
        if self.parent is not None:
            known[self.parent.node_id] = self.parent
        live = [
            contact
            for node_id, contact in known.items()
            if node_id not in self._failed and not self._world.liveness.has_buried(node_id)
        ]
        live.sort(key=lambda contact: rank(contact, self.app), reverse=True)
        return tuple(live[:count])

    def sizes(self) -> dict[str, int]:
        return {"children": len(self.children), "pool": max(len(self._pool), len(self._avoid), len(self._failed))}

    def neighbours(self) -> list[Contact]:
        """Parent and children."""
        return ([self.parent] if self.parent else []) + [child.contact for child in self.children.values()]

    # Ranks

    def _standing(self) -> Rank:
        return rank(self._device.contact, self.app, self.observer)

    def _outranks_us(self, contact: Contact) -> bool:
        """May be our parent: higher, dialable, and inside the application's scope."""
        place = rank(contact, self.app)
        in_scope = self.scope is Scope.GLOBAL or contact.zone == self._device.contact.zone
        return place > self._standing() and can_be_parent(place) and in_scope

    def _targets(self, now: float) -> list[Contact]:
        """Possible parents: those of our zone if there are any, else those of other zones."""
        liveness = self._world.liveness
        higher = [
            contact
            for contact in self._pool.values()
            if self._outranks_us(contact)
            and self._avoid.get(contact.node_id, now) <= now
            and not liveness.is_buried(contact, now)
        ]
        own_zone = [contact for contact in higher if contact.zone == self._device.contact.zone]
        return own_zone or higher

    def _learn(self, contacts: Iterable[Contact]) -> None:
        for contact in contacts:
            known = self._pool.pop(contact.node_id, contact)
            if contact.node_id != self._device.node_id:
                self._pool[contact.node_id] = contact if contact.incarnation >= known.incarnation else known
        while len(self._pool) > MAX_POOL:
            del self._pool[next(iter(self._pool))]

    # Tracker

    def renew(self, now: float) -> None:
        """Tell the tracker that we are here, and when to do so again."""
        profile = self._device.profile
        self._failed = {node_id: at for node_id, at in self._failed.items() if now - at < profile.avoid_s}
        content = self.position is not Position.SEEKING and not self._failed
        self._world.ask_tracker(self, Track(self.app, self.observer, tuple(self._failed), content), now)
        if self.position is Position.SEEKING:
            wait_s = profile.seek_s[min(self._seeks, len(profile.seek_s) - 1)]
            self._seeks += 1
        elif self.position is Position.ROOT:
            wait_s = profile.root_renewal_s
        else:
            wait_s = profile.renewal_s if self._kept else profile.unkept_renewal_s
        self._world.renew_at(self, now + self._device.jittered(wait_s))

    def on_candidates(self, message: Candidates, now: float) -> None:
        self._kept = message.kept
        self._learn(message.members)
        standing = self._standing()
        higher = any(
            rank(contact, self.app) > standing and contact.node_id != self._device.node_id
            for contact in message.members
        )
        if not higher and self.position is Position.SEEKING and self._attempt is None and not self.observer:
            self._become_root(now)
        else:
            self._reconsider(now)

    def _reconsider(self, now: float) -> None:
        """Is there a better place, by what we know now?"""
        if self._attempt is not None:
            return
        targets = self._targets(now)
        own_zone = self._device.contact.zone
        if self.parent is not None and (self.parent.zone == own_zone or not targets or targets[0].zone != own_zone):
            return
        if targets:
            self._begin(targets, now, repair=False)

    def _become_root(self, now: float) -> None:
        self.position = Position.ROOT
        self.depth, self.root = 0, self._device.node_id
        self._seeks = 0
        self._world.renew_at(self, now + self._device.jittered(self._device.profile.root_renewal_s))
        self._world.touched(self, now)
        self._world.listener.on_root(self.app, now)

    # Finding a parent

    def _begin(self, targets: list[Contact], now: float, *, repair: bool) -> None:
        """Compare a handful by RTT, or in repair go straight on with those that we know best."""
        own_level = level(self._standing())
        preferred = targets if self.observer else [c for c in targets if level(rank(c, self.app)) > own_level]
        candidates = preferred or targets
        handful = self._device.random.sample(candidates, min(HANDFUL, len(candidates)))
        attempt = self._attempt = _Attempt(handful)
        if not repair:
            unmeasured = [c for c in handful if self._world.liveness.rtt_s(c.node_id) is None]
            attempt.measuring = {c.node_id for c in unmeasured}
            for contact in unmeasured:
                self._world.liveness.ping(contact, now, partial(self._measured, attempt, contact))
        if not attempt.measuring and self._attempt is attempt:
            self._choose(attempt, now)

    def _measured(self, attempt: _Attempt, contact: Contact, peer: Peer | None, now: float) -> None:
        if self._attempt is not attempt or contact.node_id not in attempt.measuring:
            return
        attempt.measuring.discard(contact.node_id)
        if peer is None:
            self._report(contact.node_id, now)
        if not attempt.measuring:
            self._choose(attempt, now)

    def _choose(self, attempt: _Attempt, now: float) -> None:
        attempt.queue.sort(key=self._rtt_s)
        self._next(now)

    def _rtt_s(self, contact: Contact) -> float:
        rtt_s = self._world.liveness.rtt_s(contact.node_id)
        return float("inf") if rtt_s is None else rtt_s

    def _next(self, now: float) -> None:
        """Ask the next candidate of the attempt; give up when there is none."""
        attempt = self._attempt
        if attempt is None:
            return
        attempt.waiting = None
        while attempt.queue and len(attempt.tried) < MAX_ATTEMPTS:
            contact = attempt.queue.pop(0)
            if (
                contact.node_id in attempt.tried
                or not self._outranks_us(contact)
                or self._avoid.get(contact.node_id, now) > now
            ):
                continue
            attempt.tried.add(contact.node_id)
            timeout_s = self._world.liveness.timeout_s(contact.node_id)
            if self._world.requests.open(self._question(), contact.node_id, now, timeout_s, self._no_answer):
                attempt.waiting, attempt.said = contact, (self.height, self.members)
                self._device.send(contact, Attach(self.app, self.observer, *attempt.said))
                return
        self._attempt = None
        if self.position is not Position.ATTACHED:
            profile = self._device.profile
            wait_s = profile.seek_s[min(self._seeks, len(profile.seek_s) - 1)] / 2
            self._world.renew_at(self, now + self._device.jittered(wait_s))

    def _question(self) -> tuple[str, int]:
        return ("attach", self.app)

    def _no_answer(self, now: float) -> None:
        attempt = self._attempt
        if attempt is not None and attempt.waiting is not None:
            self._world.liveness.suspect(attempt.waiting.node_id, now)
            self._report(attempt.waiting.node_id, now)
            self._next(now)

    def _report(self, node_id: int, now: float) -> None:
        """This member is no parent, it seems: leave it alone for a while, and tell the tracker."""
        self._shun(node_id, now)
        self._failed[node_id] = now
        if len(self._failed) > MAX_FAILED:
            del self._failed[next(iter(self._failed))]

    def _shun(self, node_id: int, now: float) -> None:
        self._avoid[node_id] = now + self._device.profile.avoid_s
        if len(self._avoid) > MAX_POOL:
            del self._avoid[next(iter(self._avoid))]

    def on_attached(self, sender: Contact, message: Attached, now: float) -> None:
        if self.parent is not None and sender.node_id == self.parent.node_id:
            self._heard_from_parent(message.depth, message.root, now)
            return
        opened_at = self._world.requests.close(self._question(), sender.node_id)
        if opened_at is None or self._attempt is None:
            self._device.send(sender, Detach(self.app, Refusal.SWITCHED))  # too late: we are elsewhere
            return
        self._world.liveness.measured(sender.node_id, now - opened_at)
        if not self._outranks_us(sender):
            self._device.send(sender, Detach(self.app, Refusal.RANK))
            self._next(now)
            return
        old, said, self._attempt = self.parent, self._attempt.said, None
        if old is not None:
            self._device.send(old, Detach(self.app, Refusal.SWITCHED))
        self.position, self.parent, self._told = Position.ATTACHED, sender, said
        self._world.touched(self, now)  # children may have come or gone since we asked
        self._seeks = 0
        self._failed.pop(sender.node_id, None)
        self._heard_from_parent(message.depth, message.root, now)
        profile = self._device.profile
        wait_s = profile.tree_flush_s if self._failed else profile.renewal_s  # others should not try the dead, too
        self._world.renew_at(self, now + self._device.jittered(wait_s))
        self._world.listener.on_parent(self.app, sender, now)

    def on_refused(self, sender: Contact, message: Refused, now: float) -> None:
        if self._world.requests.close(self._question(), sender.node_id) is not None:
            self._refused(sender.node_id, message.reason, message.alternatives, now)

    def _refused(self, node_id: int, reason: Refusal, alternatives: tuple[Contact, ...], now: float) -> None:
        if reason is Refusal.NOT_A_MEMBER:
            self._report(node_id, now)
        else:
            self._shun(node_id, now)
        self._learn(alternatives)
        if self._attempt is not None:
            self._attempt.queue = sorted(alternatives, key=self._rtt_s) + self._attempt.queue
            self._next(now)

    # Losing a parent

    def _lose_parent(self, now: float, alternatives: Iterable[Contact] = ()) -> None:
        """Repair at once: with the alternatives named, else with the spare parents that we know; the tracker helps."""
        self.position, self.parent = Position.SEEKING, None
        self._seeks = 0
        self._learn(alternatives)
        self._world.listener.on_orphaned(self.app, now)
        if self._attempt is None:
            self._begin_repair(list(alternatives), now)
        self.renew(now)

    def _begin_repair(self, alternatives: list[Contact], now: float) -> None:
        targets = self._targets(now)
        named = {contact.node_id for contact in alternatives}
        targets = [contact for contact in targets if contact.node_id in named] or targets
        if targets:
            self._begin(targets, now, repair=True)

    def on_gone(self, node_id: int, now: float) -> None:
        """A device is dead or has left."""
        self._pool.pop(node_id, None)
        if node_id in self.children:
            self._drop_child(node_id, now)
        if self.parent is not None and node_id == self.parent.node_id:
            self._report(node_id, now)
            self._lose_parent(now)

    def on_detach(self, sender: Contact, message: Detach, now: float) -> None:
        node_id = sender.node_id
        if node_id in self.children:
            self._drop_child(node_id, now)
        if self.parent is not None and node_id == self.parent.node_id:
            if message.reason is Refusal.NOT_A_MEMBER or message.reason is Refusal.LEAVING:
                self._report(node_id, now)
            else:
                self._shun(node_id, now)
            self._lose_parent(now, message.alternatives)
        elif self._world.requests.close(self._question(), node_id) is not None:
            self._refused(node_id, message.reason, message.alternatives, now)

    # Children

    def on_attach(self, sender: Contact, message: Attach, now: float) -> None:
        device = self._device
        standing, own = rank(sender, self.app, message.observer), self._standing()
        if self.scope is Scope.ZONE and sender.zone != device.contact.zone:
            device.send(sender, Refused(self.app, Refusal.ZONE))
        elif not can_be_parent(own):
            device.send(sender, Refused(self.app, Refusal.NOT_A_MEMBER))
        elif standing >= own:
            device.send(sender, Refused(self.app, Refusal.RANK))
        elif sender.node_id in self.children:
            self._adopt(sender, message, now)
        elif self._make_room(sender, standing, now):
            self._adopt(sender, message, now)
            device.counters["adoptions"] += 1
            self._world.listener.on_child(self.app, sender, message.observer, now)
        else:
            device.send(sender, Refused(self.app, Refusal.FULL, self._alternatives(standing)))

    def _adopt(self, sender: Contact, message: Attach, now: float) -> None:
        depth = min(MAX_HEIGHT, self.depth + 1)
        height, members = (0, 0) if message.observer else (message.height, message.members)
        child = _Child(sender, message.observer, height, members, now, (depth, self.root))
        self.children[sender.node_id] = child
        self._device.send(sender, Attached(self.app, depth, self.root))
        self._world.touched(self, now)

    def _make_room(self, newcomer: Contact, standing: Rank, now: float) -> bool:
        """True when there is a place of its kind for the newcomer, if need be the place of a lower-ranked child."""
        own_zone = self._device.contact.zone
        inside = newcomer.zone == own_zone
        same_kind = [child for child in self.children.values() if (child.contact.zone == own_zone) == inside]
        if len(same_kind) < (ZONE_CHILDREN if inside else OTHER_CHILDREN):
            return True
        lowest = min(same_kind, key=self._child_rank)
        if self._child_rank(lowest) >= standing:
            return False
        alternatives = (newcomer, *self._alternatives(self._child_rank(lowest), without=lowest.contact.node_id))
        self._evict(lowest.contact, Refusal.EVICTED, alternatives[:MAX_ALTERNATIVES], now)
        return True

    def _evict(self, child: Contact, reason: Refusal, alternatives: tuple[Contact, ...], now: float) -> None:
        self._device.send(child, Detach(self.app, reason, alternatives))
        self._device.counters["evictions"] += 1
        self._drop_child(child.node_id, now)

    def _drop_child(self, node_id: int, now: float) -> None:
        del self.children[node_id]
        self._world.touched(self, now)
        self._world.listener.on_child_gone(self.app, node_id, now)

    def _child_rank(self, child: _Child) -> Rank:
        return rank(child.contact, self.app, child.observer)

    def _alternatives(self, standing: Rank, without: int | None = None) -> tuple[Contact, ...]:
        """Our children that may be parents of a device of that rank."""
        return tuple(
            child.contact
            for node_id, child in self.children.items()
            if node_id != without and standing < self._child_rank(child) and can_be_parent(self._child_rank(child))
        )[:MAX_ALTERNATIVES]

    # Heartbeats

    def on_edge(self, sender: Contact, edge: TreeEdge, now: float) -> bool:
        """A neighbour's view of our common edge. False when we know no such edge."""
        if edge.upwards:
            child = self.children.get(sender.node_id)
            if child is None:
                return False
            child.heard_at = now
            if not child.observer and (child.height, child.members) != (edge.height, edge.members):
                child.height, child.members = edge.height, edge.members
                self._world.touched(self, now)
            return True
        if self.parent is not None and sender.node_id == self.parent.node_id:
            self._heard_from_parent(edge.depth, edge.root, now)
            return True
        waiting = self._attempt.waiting if self._attempt else None
        return waiting is not None and waiting.node_id == sender.node_id  # its Attached is still on the way

    def _heard_from_parent(self, depth: int, root: int, now: float) -> None:
        self._parent_heard_at = now
        if (self.depth, self.root) != (depth, root):
            self.depth, self.root = depth, root
            self._world.touched(self, now)

    def edges(self, *, changed_only: bool) -> list[tuple[Contact, TreeEdge]]:
        """What the neighbours should hear from us, and remember that they have been told."""
        said = []
        up = (self.height, self.members)
        if self.parent is not None and not (changed_only and up == self._told):
            self._told = up
            said.append((self.parent, TreeEdge(self.app, True, height=up[0], members=up[1])))
        down = (min(MAX_HEIGHT, self.depth + 1), self.root)
        for child in self.children.values():
            if not (changed_only and down == child.told):
                child.told = down
                said.append((child.contact, TreeEdge(self.app, False, depth=down[0], root=down[1])))
        return said

    def silent_since(self) -> list[tuple[int, float]]:
        """When each neighbour last said something about our edge."""
        times = [(node_id, child.heard_at) for node_id, child in self.children.items()]
        if self.parent is not None:
            times.append((self.parent.node_id, self._parent_heard_at))
        return times

    def on_silence(self, node_id: int, now: float) -> None:
        """Alive, but it has not spoken of this edge for too long: it does not keep it."""
        if node_id in self.children:
            self._drop_child(node_id, now)
        elif self.parent is not None and self.parent.node_id == node_id:
            self._device.send(self.parent, Detach(self.app, Refusal.SWITCHED))
            self._shun(node_id, now)
            self._lose_parent(now)

    # Changes of contacts, and the end

    def on_peer_changed(self, contact: Contact, now: float) -> None:
        """A neighbour has a new address, zone or class: is the edge still right?"""
        node_id = contact.node_id
        if node_id in self._pool:
            self._pool[node_id] = contact
        if self.parent is not None and node_id == self.parent.node_id:
            self.parent = contact
            if not self._outranks_us(contact):
                self._device.send(contact, Detach(self.app, Refusal.RANK))
                self._lose_parent(now)
        child = self.children.get(node_id)
        if child is not None:
            child.contact = contact
            self._check_child(child, now)

    def _check_child(self, child: _Child, now: float) -> None:
        if self._child_rank(child) >= self._standing():
            self._evict(child.contact, Refusal.RANK, (), now)
        elif self.scope is Scope.ZONE and child.contact.zone != self._device.contact.zone:
            self._evict(child.contact, Refusal.ZONE, (), now)

    def on_own_contact_changed(self, now: float) -> None:
        """Our own rank or zone may have changed: re-check both sides, children first, then ask the tracker."""
        for child in list(self.children.values()):
            self._check_child(child, now)
        if self.parent is not None and not self._outranks_us(self.parent):
            self._device.send(self.parent, Detach(self.app, Refusal.RANK))
            self._lose_parent(now)
        else:
            self.renew(now)

    def leave(self, now: float) -> None:
        """Let go of both sides; the children learn where they might go."""
        if self._attempt is not None:
            self._world.requests.cancel(self._question())
            self._attempt = None
        for child in list(self.children.values()):
            onward = ([self.parent] if self.parent else []) + [
                other for other in self._alternatives(self._child_rank(child)) if other is not child.contact
            ]
            self._device.send(child.contact, Detach(self.app, Refusal.LEAVING, tuple(onward[:MAX_ALTERNATIVES])))
        if self.parent is not None:
            self._device.send(self.parent, Detach(self.app, Refusal.LEAVING))
        self.children.clear()
        self.parent = None
