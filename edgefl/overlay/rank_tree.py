"""One application's tree, as one of its devices takes part in it.

Theory of operation. Members know the order of rank (rank.py); a parent outranks its child, which both ends check, so no
sequence of losses, repairs and races can close a cycle. A member attaches inside its zone if a higher-ranked member of
the zone exists; else it is its zone's head and attaches across zones; if nobody anywhere is higher, it is the root.

    position  SEEKING   no parent: ask the tracker (renewals.py says when), attach to whom it proposes
              ATTACHED  below a parent
              ROOT      the tracker names nobody higher

    SEEKING   --Attached--> ATTACHED          SEEKING --Candidates without anybody higher--> ROOT
    ATTACHED  --parent dead, Detach from it, it no longer outranks us--> SEEKING
    ATTACHED  --across zones, and the zone has somebody higher: Attached by that one--> ATTACHED (old parent told)
    ROOT      --a higher one known: Attached by it--> ATTACHED

Beside the position there may be an attempt to find a parent (attempt.py), so that an edge is made before the old one is
broken. When it fails, the failed candidates are reported to the tracker, and it is asked again.

What it does for its children stands in serving.py. Subtree height and members ride up with the heartbeats, depth and
root ride down. Observers attach below members, have no children and are not counted. Helpers (volunteers.py) have
children and are not counted; one that would be the root, or has had no children for long, leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from edgefl.declared import dataclass
from edgefl.overlay.attempt import Attempt
from edgefl.overlay.candidates import CandidatePool
from edgefl.overlay.children import MAX_HEIGHT, MAX_MEMBERS, Children
from edgefl.overlay.device import Device
from edgefl.overlay.game.game import Game
from edgefl.overlay.liveness import Liveness
from edgefl.overlay.rank import can_be_parent, is_helper, rank
from edgefl.overlay.renewals import Renewals
from edgefl.overlay.requests import Requests
from edgefl.overlay.serving import Serving
from edgefl.overlay.spares import Spares
from edgefl.overlay.tree_view import Position, TreeListener, TreeView
from edgefl.wire.contact import Contact
from edgefl.wire.overlay import (
    Attach,
    Attached,
    Candidates,
    Detach,
    Refusal,
    Refused,
    Scope,
    Track,
    TreeBeat,
    TreeEdge,
)

CROWDED = 2
"""Attempts to find a parent that ended at devices without room, before a member calls for helpers."""


@dataclass(slots=True)
class TreeWorld:
    """What a tree needs from its device."""

    device: Device
    requests: Requests
    liveness: Liveness
    game: Game
    listener: TreeListener
    ask_tracker: Callable[[RankTree, Track, float], None]
    renew_at: Callable[[RankTree, float], None]
    touched: Callable[[RankTree, float], None]
    call_help: Callable[[RankTree, float], None]
    dismiss: Callable[[RankTree, float], None]


class RankTree:
    """This device in one tree."""

    __slots__ = (
        "_attempt",
        "_crowded",
        "_device",
        "_orphaned",
        "_parent_heard_at",
        "_pool",
        "_renewals",
        "_spares",
        "_spares_seen_at",
        "_told",
        "_world",
        "app",
        "depth",
        "helper",
        "observer",
        "parent",
        "position",
        "root",
        "scope",
        "serving",
    )

    def __init__(self, world: TreeWorld, app: int, scope: Scope, observer: bool, helper: bool) -> None:
        self._world = world
        self._device = world.device
        self._pool = CandidatePool(world.device, world.liveness, app, scope, observer)
        self._spares = Spares(world.device, world.liveness, self._pool)
        self._renewals = Renewals(world.device, partial(world.renew_at, self))
        self._attempt: Attempt | None = None
        self._orphaned = False
        self._spares_seen_at = float("-inf")
        self._parent_heard_at = 0.0
        self._told: tuple[int, int] | None = None
        self._crowded = 0
        self.app = app
        self.scope = scope
        self.observer = observer
        self.helper = helper
        self.position = Position.SEEKING
        self.parent: Contact | None = None
        self.serving = Serving(
            world.device,
            world.game,
            world.listener,
            app,
            scope,
            self._pool.standing,
            self._down,
            partial(world.touched, self),
        )
        self.depth = 0
        self.root = 0

    # What others may see

    @property
    def children(self) -> Children:
        return self.serving.children

    @property
    def members(self) -> int:
        """In our subtree, with ourselves if we are one."""
        return min(MAX_MEMBERS, self.children.members + (not self.observer and not self.helper))

    def view(self) -> TreeView:
        return TreeView(
            self.app,
            self.position,
            self.observer,
            self.parent,
            self.children.views(),
            self.children.height,
            self.members,
            self.depth,
            self.root,
            self.helper,
        )

    def top_ranked(self, count: int) -> tuple[Contact, ...]:
        """The best known other members that are not known to be dead, highest rank first."""
        near = [child.contact for child in self.children if not child.observer]
        return self._pool.highest(count, [*near, self.parent] if self.parent else near)

    def sizes(self) -> dict[str, int]:
        return {"children": len(self.children), "pool": len(self._pool)}

    def _is_parent(self, node_id: int) -> bool:
        return self.parent is not None and self.parent.node_id == node_id

    # The tracker

    def renew(self, now: float, *, content: bool = True) -> None:
        """Tell the tracker that we are here, and when to do so again; who is not `content` hears of more members."""
        failed = self._pool.failed(now)
        if self.helper and self._renewals.is_idle(len(self.children), now):
            self._world.dismiss(self, now)
            return
        content = content and self.position is not Position.SEEKING and not failed
        self._world.ask_tracker(self, Track(self.app, self.observer, failed, content), now)
        self._renewals.asked(self.position, content, now)

    def on_candidates(self, message: Candidates, now: float) -> None:
        self._renewals.kept = message.kept
        self._pool.proposed(message.members)
        standing, own_id, liveness = self._pool.standing(), self._device.node_id, self._world.liveness
        outranked = any(
            c.node_id != own_id and rank(c, self.app) > standing and not liveness.is_buried(c, now)
            for c in message.members
        )
        if not outranked and self.position is Position.SEEKING and self._attempt is None and not self.observer:
            self._become_root(now)
        else:
            self._reconsider(now)
            self._keep_spares(now)

    def _keep_spares(self, now: float) -> None:
        if not self._device.contact.dialable and self.parent is not None and self._attempt is None:
            self._pool.keep_spares(self.parent.node_id, now)

    def _reconsider(self, now: float) -> None:
        """Is there a better place, by what we know now?"""
        targets = self._pool.targets(now)
        if self._attempt is not None or not targets:
            return
        own_zone = self._device.contact.zone
        if self.parent is None or (self.parent.zone != own_zone and targets[0].zone == own_zone):
            self._begin(targets, now)

    def _become_root(self, now: float) -> None:
        if self.helper:
            self._world.dismiss(self, now)
            return
        self.position = Position.ROOT
        self.depth, self.root = 0, self._device.node_id
        self._orphaned = False
        self._renewals.on_root(now)
        self._world.touched(self, now)
        self._world.listener.on_root(self.app, now)

    # Finding a parent

    def refresh_spares(self, now: float) -> None:
        """A round is open: know where to go if the parent dies; ask the tracker if we know too few."""
        if self.parent is None or now - self._spares_seen_at < self._device.profile.spare_fresh_s / 3:
            return
        self._spares_seen_at = now
        enough = self._spares.refresh(self.parent.node_id, now)
        if not enough and self._renewals.may_ask_for_spares(now):
            self.renew(now, content=False)

    def _begin(self, targets: list[Contact], now: float) -> None:
        world = self._world
        self._attempt = Attempt(
            world.device, world.requests, world.liveness, self._pool, self._describe, self._attempt_failed
        )
        if self._orphaned:
            self._attempt.repair(targets, self._spares.ready(now), now)
        else:
            self._attempt.begin(targets, now)

    # The routing game (overlay/game)

    def options(self, now: float) -> list[Contact]:
        """Parents that would do: live, of the right zone, of higher rank."""
        return self._pool.targets(now)

    def switch(self, to: Contact, now: float) -> None:
        """Attach there, then leave the present parent; if that fails, all stays as it is."""
        if self._attempt is None and self.position is Position.ATTACHED:
            self._begin([to], now)

    def has_room_for(self, contact: Contact) -> bool:
        """It could be our child without another one giving way."""
        own = self._pool.standing()
        if not can_be_parent(own) or rank(contact, self.app) >= own:
            return False
        return contact.node_id in self.children or not self.children.is_full_for(contact, self._device.contact.zone)

    def _describe(self) -> Attach:
        return Attach(self.app, self.observer, self.children.height, self.members)

    def _attempt_failed(self, now: float) -> None:
        attempt, self._attempt = self._attempt, None
        if attempt is not None and self.position is Position.SEEKING:
            self._no_room(attempt.crowded, now)
        self._succeed(now)
        if self.position is Position.SEEKING and self._orphaned and self._pool.failed(now):
            self.renew(now)  # the sooner the tracker hears of the dead, the sooner it finds out who is the next root
        else:
            self._renewals.on_attempt_failed(self.position, now)

    def _no_room(self, crowded: bool, now: float) -> None:
        """Nobody has a place. Once may be chance: members that bring places may be on their way. Who can be dialled
        needs no help, since everybody gives way to it who cannot."""
        self._crowded = self._crowded + 1 if crowded else 0
        if self._crowded >= CROWDED and not self.observer and not self._device.contact.dialable:
            self._world.call_help(self, now)

    def _succeed(self, now: float) -> None:
        """Whoever comes next in rank is the root, without waiting for the tracker to find out."""
        seeks = self.position is Position.SEEKING and self._attempt is None and not self.observer
        if self._orphaned and seeks and not self.helper and self._pool.is_next():
            self._become_root(now)
            self.renew(now)

    def on_attached(self, sender: Contact, message: Attached, now: float) -> None:
        attempt = self._attempt
        if self._is_parent(sender.node_id):
            self._heard_from_parent(message.depth, message.root, now)
        elif attempt is None or not attempt.accepted(sender, now):
            self._device.send(sender, Detach(self.app, Refusal.SWITCHED))  # too late: we are elsewhere
        elif not self._pool.may_be_parent(sender):
            self._device.send(sender, Detach(self.app, Refusal.RANK))
            self._attempt_failed(now)
        else:
            self._attach(sender, attempt.said, message, now)

    def _attach(self, parent: Contact, said: Attach, answer: Attached, now: float) -> None:
        if self.parent is not None:
            self._device.send(self.parent, Detach(self.app, Refusal.SWITCHED))
        self.position, self.parent, self._attempt = Position.ATTACHED, parent, None
        self._orphaned = False
        self._told = (said.height, said.members)
        self._world.touched(self, now)  # children may have come or gone since we asked
        self._heard_from_parent(answer.depth, answer.root, now)
        self._keep_spares(now)
        self._crowded = 0
        self._renewals.on_attached(bool(self._pool.failed(now)), now)
        self._world.listener.on_parent(self.app, parent, now)

    def on_refused(self, sender: Contact, message: Refused, now: float) -> None:
        if self._attempt is not None:
            self._attempt.refused(sender, message.reason, message.alternatives, now)

    def on_attach(self, sender: Contact, message: Attach, now: float) -> None:
        """A helper that has nobody above it may have to leave: a root must not be drawn below it."""
        uncertain = self.helper and self.position is not Position.ATTACHED
        if uncertain and can_be_parent(rank(sender, self.app, message.observer)):
            self._device.send(sender, Refused(self.app, Refusal.FULL))
        else:
            self.serving.on_attach(sender, message, now)

    # Losing neighbours

    def _lose_parent(self, now: float, alternatives: Iterable[Contact] = ()) -> None:
        """Repair at once: with the alternatives named, else with the spare parents that we know; the tracker helps."""
        self.position, self.parent = Position.SEEKING, None
        self._orphaned = True
        self._renewals.on_parent_lost()
        self._world.game.on_parent_lost(self.app)
        self._world.listener.on_orphaned(self.app, now)
        self._pool.learn(alternatives)
        if self._attempt is None:
            named = {contact.node_id for contact in alternatives}
            targets = self._pool.fallbacks(now)
            targets = [contact for contact in targets if contact.node_id in named] or targets
            if targets:
                self._begin(targets, now)
        self.renew(now)
        self._succeed(now)

    def on_gone(self, contact: Contact, now: float, *, dead: bool) -> None:
        """A device is dead or has left. One that seems dead and only stood still shall know that it has lost its edge:
        it asks for it again at once, while the round still waits for its subtree."""
        node_id = contact.node_id
        if dead and (self._is_parent(node_id) or node_id in self.children):
            self._device.send(contact, Detach(self.app, Refusal.SWITCHED))
        self._pool.forget(node_id)
        self.serving.drop(node_id, now)
        if self.parent is not None and self._is_parent(node_id):
            self._pool.report(self.parent, now, silent=True)
            self._lose_parent(now)
        self._succeed(now)

    def on_appeared(self, contact: Contact, now: float) -> None:
        """A device is heard (again). One that only stood still may be the parent that we have none of."""
        if self.parent is None and self._pool.only_stood_still(contact):
            self._pool.learn((contact,))
            self._reconsider(now)

    def on_detach(self, sender: Contact, message: Detach, now: float) -> None:
        node_id = sender.node_id
        if node_id in self.children and self.position is Position.ROOT:
            # If we have stood still, it may have another root above it, or be one: it hears that we are here, and the
            # tracker tells the one that is lower.
            self._device.send(sender, TreeBeat(()))
            self._renewals.soon(now)
        self.serving.drop(node_id, now)
        lost_edge = message.reason is Refusal.SWITCHED  # it does not know us, or has forgotten us: no refusal
        if self._is_parent(node_id):
            if message.reason in (Refusal.NOT_A_MEMBER, Refusal.LEAVING):
                self._pool.report(sender, now)
            elif not lost_edge:
                self._pool.shun(sender, now)
            self._lose_parent(now, (sender,) if lost_edge else message.alternatives)
        elif self._attempt is not None and not lost_edge:
            self._attempt.refused(sender, message.reason, message.alternatives, now)

    # Heartbeats

    def on_edge(self, sender: Contact, edge: TreeEdge, now: float) -> bool:
        """A neighbour's view of our common edge. False when we know no such edge."""
        if edge.upwards:
            return self.serving.on_edge(sender, edge, now)
        if self._is_parent(sender.node_id):
            self._heard_from_parent(edge.depth, edge.root, now)
        return self.is_above(sender.node_id)

    def is_above(self, node_id: int) -> bool:
        """Our parent, or its acceptance may still be on the way."""
        return self._is_parent(node_id) or (self._attempt is not None and self._attempt.waits_for(node_id))

    def _heard_from_parent(self, depth: int, root: int, now: float) -> None:
        self._parent_heard_at = now
        if (self.depth, self.root) != (depth, root):
            self.depth, self.root = depth, root
            self._world.touched(self, now)

    def _down(self) -> tuple[int, int]:
        """What a child hears: its depth, and the root."""
        return (min(MAX_HEIGHT, self.depth + 1), self.root)

    def edges(self, *, changed_only: bool) -> list[tuple[Contact, TreeEdge]]:
        """What the neighbours should hear from us, and remember that they have been told."""
        said = []
        up = (self.children.height, self.members)
        if self.parent is not None and not (changed_only and up == self._told):
            self._told = up
            epsilon = None if changed_only else self._world.game.epsilon_sum(self.app)
            edge = TreeEdge(self.app, True, height=up[0], members=up[1], epsilon=epsilon)
            said.append((self.parent, edge))
        return said + self.serving.edges(changed_only=changed_only)

    def silent_since(self) -> list[tuple[int, float]]:
        """When each neighbour last said something about our edge."""
        times = [(child.contact.node_id, child.heard_at) for child in self.children]
        if self.parent is not None:
            times.append((self.parent.node_id, self._parent_heard_at))
        return times

    def on_woken(self, now: float) -> None:
        """We have stood still: nobody was silent but ourselves."""
        self._parent_heard_at = now
        for child in self.children:
            child.heard_at = now
        self.renew(now, content=False)

    def on_silence(self, node_id: int, now: float) -> None:
        """Alive, but it has not spoken of this edge for too long: it does not keep it."""
        self.serving.drop(node_id, now)
        if self.parent is not None and self.parent.node_id == node_id:
            self._device.send(self.parent, Detach(self.app, Refusal.SWITCHED))
            self._pool.shun(self.parent, now)
            self._lose_parent(now)

    # Changes of contacts, and the end

    def on_peer_changed(self, contact: Contact, now: float) -> None:
        """A device has a new address, zone or class: are the edges still right?"""
        self._pool.update(contact)
        self.serving.on_peer_changed(contact, now)
        if self.parent is not None and self._is_parent(contact.node_id):
            self.parent = contact
            if self._check_parent(now):
                self._lose_parent(now, [contact])  # it may have restarted, and know no children any more: ask it again

    def on_own_contact_changed(self, now: float) -> None:
        """Our own rank or zone may have changed: re-check both sides, children first, then ask the tracker."""
        if self.helper and not is_helper(self._pool.standing()):
            self._world.dismiss(self, now)
            return
        self.serving.on_own_contact_changed(now)
        if self._check_parent(now):
            self.renew(now)

    def _check_parent(self, now: float) -> bool:
        """Leave a parent that may not be ours any more. False when it was left."""
        if self.parent is None or self._pool.may_be_parent(self.parent):
            return True
        if self.scope is Scope.GLOBAL or self.parent.zone == self._device.contact.zone:
            self._device.send(self.parent, Detach(self.app, Refusal.RANK))
        self._lose_parent(now)
        return False

    def leave(self, now: float) -> None:
        """Let go of both sides; the children learn where they might go."""
        if self._attempt is not None:
            self._attempt.cancel()
            self._attempt = None
        self.serving.leave(self.parent)
        if self.parent is not None:
            self._device.send(self.parent, Detach(self.app, Refusal.LEAVING))
        self.parent = None
