"""All trees of one device: their messages, heartbeats and clocks.

Trees cost per neighbour pair, not per tree: one TreeBeat every 15 s carries all edges that two devices share. What
changes in between (members, height, depth, root) is sent at once, at most once a second. A neighbour that has said
nothing about an edge for 17 s is verified by ping; alive but silent for a minute, it has lost the edge. An edge that
the receiver does not know is answered with Detach, so both ends agree again. While a round is open in a tree, its
neighbours are watched more closely (watch.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgefl.errors import UsageError
from edgefl.overlay.device import Device
from edgefl.overlay.game.game import Game
from edgefl.overlay.liveness import Liveness
from edgefl.overlay.rank_tree import RankTree, TreeWorld
from edgefl.overlay.requests import Requests
from edgefl.overlay.routing import Router
from edgefl.overlay.tree_view import TreeListener, TreeView
from edgefl.overlay.watch import CLOSE
from edgefl.overlay.watch import Watch as CloseWatch
from edgefl.wire.contact import Contact, Role
from edgefl.wire.game import MoveAsk, PriceAsk
from edgefl.wire.overlay import (
    MAX_BEAT_TREES,
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
    Untrack,
)
from edgefl.wire.tree_walk import MAX_NEIGHBOURS, TreeAsk, TreeTold

if TYPE_CHECKING:
    from edgefl.effects import TimerKey

MAX_TREES = 128
"""Applications that one device takes part in: two hundred times the planned mean; 13 neighbours and 48 contacts
each."""

MAX_HELPED = 16
"""Of these, the ones that it is no member of: half of a small device's memory goes to models, and sixteen times 25 MB
is that of one with 1 GB."""

MAX_DETACHES = 8
"""Unknown edges answered per heartbeat: a forged one makes us send no more than it cost."""

BEAT: TimerKey = ("tree", "beat")
FLUSH: TimerKey = ("tree", "flush")
WATCH: TimerKey = ("tree", "watch")
RENEW = ("tree", "renew")


class Forest:
    """The trees that this device takes part in, by application."""

    __slots__ = (
        "_close_watch",
        "_device",
        "_dirty",
        "_flushed_at",
        "_game",
        "_left_behind",
        "_liveness",
        "_router",
        "_ticking",
        "_world",
        "call_help",
        "trees",
    )

    def __init__(
        self,
        device: Device,
        requests: Requests,
        liveness: Liveness,
        router: Router,
        game: Game,
        listener: TreeListener,
    ) -> None:
        self._device = device
        self._liveness = liveness
        self._router = router
        self._game = game
        self._world = TreeWorld(
            device,
            requests,
            liveness,
            game,
            listener,
            self._ask_tracker,
            self._renew_at,
            self._touched,
            self._call_help,
            self._dismiss,
        )
        self._close_watch = CloseWatch(device, liveness, requests)
        self._flushed_at = float("-inf")
        self._dirty: dict[int, RankTree] = {}
        self._left_behind: dict[int, float] = {}
        self.call_help: Callable[[int, Scope, float], None] = lambda app, scope, now: None
        self._ticking = False
        self.trees: dict[int, RankTree] = {}

    # Life cycle

    def join(self, app: int, now: float, *, observer: bool, helper: bool, scope: Scope) -> None:
        """Take part in an application's tree. Raises UsageError beyond MAX_TREES. A helper that does not volunteer (any
        more), or has its fill, is dismissed at once."""
        tree = self.trees.get(app)
        if tree is not None:
            if (tree.observer, tree.helper, tree.scope) == (observer, helper, scope):
                return
            self.leave(app, now)
        if helper and not self.may_help(app):
            self._world.listener.on_dismissed(app, now)
            return
        if len(self.trees) >= MAX_TREES:
            raise UsageError(
                f"this device already takes part in {MAX_TREES} applications", hint="leave one of them first"
            )
        tree = self.trees[app] = RankTree(self._world, app, scope, observer, helper)
        if not observer:
            self._game.join(tree)
        if not self._ticking:
            self._ticking = True
            profile = self._device.profile
            self._device.set_timer(BEAT, now + profile.tree_beat_s * self._device.random.random())
            self._device.set_timer(WATCH, now + profile.tree_silence_s)
        tree.renew(now)

    def may_help(self, app: int) -> bool:
        """We volunteer, have room, and are not in this tree already."""
        helped = sum(tree.helper for tree in self.trees.values())
        room = helped < MAX_HELPED and len(self.trees) < MAX_TREES
        return self._device.contact.role is Role.HELPER and room and app not in self.trees

    def leave(self, app: int, now: float) -> None:
        """Leave a tree; unknown ones are fine."""
        tree = self.trees.pop(app, None)
        if tree is None:
            return
        tree.leave(now)
        self._game.leave(app, now)
        self._close_watch.end(app)
        self._dirty.pop(app, None)
        self._device.effects.cancel_timer((*RENEW, app))
        if not tree.observer:
            self._router.route(app, Untrack(app), now, scope=tree.scope)

    def stop(self, now: float) -> None:
        for app in list(self.trees):
            self.leave(app, now)
        for key in (BEAT, FLUSH, WATCH):
            self._device.effects.cancel_timer(key)
        self._ticking = False

    def watch(self, app: int, until: float, now: float) -> None:
        """Until then a round is open in this tree; unknown ones are fine."""
        tree = self.trees.get(app)
        if tree is not None:
            self._close_watch.set(tree, until, now)

    def disown(self, app: int, sender: Contact) -> None:
        """Somebody acts as our parent, or our child, in this tree. One that is not any more hears so at once."""
        tree, welcome = self._tree(app, sender)
        if tree is not None and welcome and not (tree.is_above(sender.node_id) or sender.node_id in tree.children):
            self._device.send(sender, Detach(app, Refusal.SWITCHED))

    def view(self, app: int) -> TreeView | None:
        tree = self.trees.get(app)
        return None if tree is None else tree.view()

    def place(self, app: int) -> TreeTold:
        """Where we stand in that tree, for others: with what the game makes of it."""
        tree = self.trees.get(app)
        if tree is None:
            return TreeTold(app)
        children = tuple(child.contact for child in tree.children)[:MAX_NEIGHBOURS]
        return self._game.place(TreeTold(app, True, tree.parent, children, observer=tree.observer))

    def sizes(self) -> dict[str, int]:
        sizes = [tree.sizes() for tree in self.trees.values()]
        largest = {name: max((size[name] for size in sizes), default=0) for name in ("children", "pool")}
        return {"trees": len(self.trees), **largest}

    def neighbours(self) -> set[int]:
        """Parents and children in all trees."""
        return {node_id for tree in self.trees.values() for node_id, _ in tree.silent_since()}

    # What trees ask for

    def _ask_tracker(self, tree: RankTree, track: Track, now: float) -> None:
        self._router.route(tree.app, track, now, scope=tree.scope)

    def _renew_at(self, tree: RankTree, at: float) -> None:
        self._device.set_timer((*RENEW, tree.app), at)

    def _call_help(self, tree: RankTree, now: float) -> None:
        self.call_help(tree.app, tree.scope, now)

    def _dismiss(self, tree: RankTree, now: float) -> None:
        self.leave(tree.app, now)
        self._world.listener.on_dismissed(tree.app, now)

    def _touched(self, tree: RankTree, now: float) -> None:
        if not self._dirty:
            self._device.set_timer(FLUSH, max(now, self._flushed_at + self._device.profile.tree_flush_s))
        self._dirty[tree.app] = tree

    # Events

    def on_timer(self, key: TimerKey, now: float) -> bool:
        if key[0] != "tree":
            return False
        if key == BEAT:
            self._device.set_timer(BEAT, now + self._device.profile.tree_beat_s)
            self._send_edges(list(self.trees.values()), changed_only=False)
        elif key == FLUSH:
            self._flushed_at = now
            dirty, self._dirty = self._dirty, {}
            self._send_edges(list(dirty.values()), changed_only=True)
        elif key == WATCH:
            self._watch(now)
        elif key == CLOSE:
            self._close_watch.on_timer(now)
        elif key[:2] == RENEW:
            tree = self.trees.get(key[2])  # type: ignore[call-overload]
            if tree is not None:
                tree.renew(now)
        return True

    def on_overlay_joined(self, now: float) -> None:
        for tree in list(self.trees.values()):
            tree.renew(now)

    def on_woken(self, now: float) -> None:
        """We have stood still: the trackers hear that we are here."""
        for tree in list(self.trees.values()):
            tree.on_woken(now)

    def say_edges(self) -> None:
        """A heartbeat out of turn: neighbours that have given us up say so."""
        self._send_edges(list(self.trees.values()), changed_only=False)

    def on_gone(self, contact: Contact, now: float, *, dead: bool) -> None:
        for tree in list(self.trees.values()):
            tree.on_gone(contact, now, dead=dead)

    def on_appeared(self, contact: Contact, now: float) -> None:
        for tree in list(self.trees.values()):
            tree.on_appeared(contact, now)

    def on_peer_changed(self, contact: Contact, now: float) -> None:
        for tree in list(self.trees.values()):
            tree.on_peer_changed(contact, now)

    def on_own_contact_changed(self, now: float) -> None:
        for tree in list(self.trees.values()):
            tree.on_own_contact_changed(now)
        self._send_edges(list(self.trees.values()), changed_only=False)  # neighbours learn from it where we are now

    def _send_edges(self, trees: list[RankTree], *, changed_only: bool) -> None:
        by_neighbour: dict[int, tuple[Contact, list[TreeEdge]]] = {}
        for tree in trees:
            for contact, edge in tree.edges(changed_only=changed_only):
                by_neighbour.setdefault(contact.node_id, (contact, []))[1].append(edge)
        for contact, edges in by_neighbour.values():
            for start in range(0, len(edges), MAX_BEAT_TREES):
                self._device.send(contact, TreeBeat(tuple(edges[start : start + MAX_BEAT_TREES])))

    def _watch(self, now: float) -> None:
        """Verify neighbours that are silent about an edge; wake up when the next one may become silent."""
        profile = self._device.profile
        patience_s = profile.tree_silence_s + self._world.requests.stretch_s(now)
        wake_at = now + profile.tree_silence_s
        for tree in list(self.trees.values()):
            for node_id, heard_at in tree.silent_since():
                silent_s = now - heard_at
                if silent_s < patience_s:
                    wake_at = min(wake_at, heard_at + patience_s)
                elif silent_s > profile.tree_edge_lifetime_s or node_id not in self._liveness.peers:
                    tree.on_silence(node_id, now)
                else:
                    self._liveness.suspect(node_id, now)
                    wake_at = min(wake_at, now + profile.tree_beat_s / 3)
        self._device.set_timer(WATCH, max(wake_at, now + profile.tree_flush_s / 10))

    def leave_zone(self, now: float) -> None:
        """Our zone is about to change: applications of the old one are left while we are still in it, so that even
        the farewell stays inside."""
        until = now + self._device.profile.tree_edge_lifetime_s
        self._left_behind = {app: end for app, end in self._left_behind.items() if end > now}
        for app, tree in [(app, tree) for app, tree in self.trees.items() if tree.scope is Scope.ZONE]:
            if tree.helper:
                self._dismiss(tree, now)
            else:
                self.leave(app, now)
            self._left_behind[app] = until  # an answer may be on its way that must not be answered across the border
        while len(self._left_behind) > MAX_TREES:
            del self._left_behind[next(iter(self._left_behind))]

    def _tree(self, app: int, sender: Contact) -> tuple[RankTree | None, bool]:
        """Our tree of that application, and whether the sender may speak of it: what is of our zone alone is refused at
        the border, without a word."""
        tree = self.trees.get(app)
        of_a_zone = app in self._left_behind if tree is None else tree.scope is Scope.ZONE
        foreign = of_a_zone and sender.zone != self._device.contact.zone
        if foreign:
            self._device.counters["refused_foreign_zone"] += 1
        return tree, not foreign

    # Messages

    def on_candidates(self, sender: Contact, message: Candidates, now: float) -> None:
        tree, welcome = self._tree(message.app, sender)
        if tree is not None and welcome:
            tree.on_candidates(message, now)

    def on_attach(self, sender: Contact, message: Attach, now: float) -> None:
        tree, welcome = self._tree(message.app, sender)
        if tree is None and welcome:
            self._device.send(sender, Refused(message.app, Refusal.NOT_A_MEMBER))
        elif tree is not None and welcome:
            tree.on_attach(sender, message, now)

    def on_attached(self, sender: Contact, message: Attached, now: float) -> None:
        tree, welcome = self._tree(message.app, sender)
        if tree is None and welcome:
            self._device.send(sender, Detach(message.app, Refusal.NOT_A_MEMBER))
        elif tree is not None and welcome:
            tree.on_attached(sender, message, now)

    def on_refused(self, sender: Contact, message: Refused, now: float) -> None:
        tree, welcome = self._tree(message.app, sender)
        if tree is not None and welcome:
            tree.on_refused(sender, message, now)

    def on_detach(self, sender: Contact, message: Detach, now: float) -> None:
        tree, welcome = self._tree(message.app, sender)
        if tree is not None and welcome:
            tree.on_detach(sender, message, now)

    def on_tree_beat(self, sender: Contact, message: TreeBeat, now: float) -> None:
        answers = 0
        for edge in message.edges:
            tree, welcome = self._tree(edge.app, sender)
            if not welcome:
                continue
            if (tree is None or not tree.on_edge(sender, edge, now)) and answers < MAX_DETACHES:
                answers += 1
                reason = Refusal.NOT_A_MEMBER if tree is None else Refusal.SWITCHED
                self._device.send(sender, Detach(edge.app, reason))

    def on_price_ask(self, sender: Contact, message: PriceAsk, now: float) -> None:
        tree, welcome = self._tree(message.app, sender)
        if welcome:
            self._game.on_price_ask(tree, sender, message, now)

    def on_move_ask(self, sender: Contact, message: MoveAsk, now: float) -> None:
        tree, welcome = self._tree(message.app, sender)
        if welcome:
            self._game.on_move_ask(tree, sender, message, now)

    def on_tree_ask(self, sender: Contact, message: TreeAsk, now: float) -> None:
        _, welcome = self._tree(message.app, sender)
        if welcome:
            self._device.send(sender, self.place(message.app))
