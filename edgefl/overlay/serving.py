"""The lower half of a device's place in a tree: who gets a place below it, who gives way, what both ends say.

A parent serves 8 children of its zone and 4 of others. Full, it lets its lowest-ranked child go for a newcomer of
higher rank (which else could be stuck), and names the newcomer to it; a newcomer of lower rank is sent down to the
children. The upper half is rank_tree.py.
"""

from __future__ import annotations

from collections.abc import Callable

from edgefl.overlay.children import Child, Children
from edgefl.overlay.device import Device
from edgefl.overlay.game.game import Game
from edgefl.overlay.rank import Rank, can_be_parent, rank
from edgefl.overlay.tree_view import TreeListener
from edgefl.wire.contact import Contact
from edgefl.wire.overlay import MAX_ALTERNATIVES, Attach, Attached, Detach, Refusal, Refused, Scope, TreeEdge


class Serving:
    """What one device does for its children in one tree. `standing` tells its own rank, `down` what a child hears of
    depth and root; `touched` is called when the neighbours have to hear something new."""

    __slots__ = ("_app", "_device", "_down", "_game", "_listener", "_scope", "_standing", "_touched", "children")

    def __init__(
        self,
        device: Device,
        game: Game,
        listener: TreeListener,
        app: int,
        scope: Scope,
        standing: Callable[[], Rank],
        down: Callable[[], tuple[int, int]],
        touched: Callable[[float], None],
    ) -> None:
        self._device = device
        self._game = game
        self._listener = listener
        self._app = app
        self._scope = scope
        self._standing = standing
        self._down = down
        self._touched = touched
        self.children = Children(app)

    def on_attach(self, sender: Contact, message: Attach, now: float) -> None:
        device, own = self._device, self._standing()
        standing = rank(sender, self._app, message.observer)
        if not can_be_parent(own):
            device.send(sender, Refused(self._app, Refusal.NOT_A_MEMBER))
        elif standing >= own:
            device.send(sender, Refused(self._app, Refusal.RANK))
        elif sender.node_id in self.children or self._make_room(sender, standing, now):
            self._adopt(sender, message, now)
        else:
            device.send(sender, Refused(self._app, Refusal.FULL, self.children.above(standing)))

    def _adopt(self, sender: Contact, message: Attach, now: float) -> None:
        down = self._down()
        height, members = (0, 0) if message.observer else (message.height, message.members)
        self.children.put(Child(sender, message.observer, height, members, now, told=down))
        self._device.send(sender, Attached(self._app, *down))
        self._device.counters["adoptions"] += 1
        if not message.observer:
            self._game.on_child(self._app, sender, now)
        self._touched(now)
        self._listener.on_child(self._app, sender, message.observer, now)

    def _make_room(self, newcomer: Contact, standing: Rank, now: float) -> bool:
        """True when there is a place of its kind for the newcomer, if need be the place of a lower-ranked child."""
        own_zone = self._device.contact.zone
        if not self.children.is_full_for(newcomer, own_zone):
            return True
        lowest = self.children.lowest(newcomer, own_zone)
        place = self.children.rank_of(lowest)
        if place >= standing:
            return False
        onward = (newcomer, *self.children.above(place, without=lowest.contact.node_id))
        self._let_go(lowest, Refusal.EVICTED, now, onward[:MAX_ALTERNATIVES])
        return True

    def _let_go(self, child: Child, reason: Refusal, now: float, onward: tuple[Contact, ...] = ()) -> None:
        self._device.send(child.contact, Detach(self._app, reason, onward))
        self._device.counters["evictions"] += 1
        self.drop(child.contact.node_id, now)

    def drop(self, node_id: int, now: float) -> None:
        """A child is gone, without a word; others are fine."""
        if self.children.remove(node_id):
            self._game.on_child_gone(self._app, node_id, now)
            self._touched(now)
            self._listener.on_child_gone(self._app, node_id, now)

    # Heartbeats

    def on_edge(self, sender: Contact, edge: TreeEdge, now: float) -> bool:
        """A child's view of our common edge. False when we know no such child."""
        child = self.children.get(sender.node_id)
        if child is None:
            return False
        child.heard_at = now
        if edge.epsilon is not None:
            self._game.on_epsilon(self._app, sender.node_id, edge.epsilon)
        if not child.observer and (child.height, child.members) != (edge.height, edge.members):
            child.height, child.members = edge.height, edge.members
            self._touched(now)
        return True

    def edges(self, *, changed_only: bool) -> list[tuple[Contact, TreeEdge]]:
        """What the children should hear from us, and remember that they have been told."""
        said, down = [], self._down()
        for child in self.children:
            if not (changed_only and down == child.told):
                child.told = down
                said.append((child.contact, TreeEdge(self._app, False, depth=down[0], root=down[1])))
        return said

    # Changes of contacts, and the end

    def on_peer_changed(self, contact: Contact, now: float) -> None:
        """A child may have a new address, zone or class."""
        child = self.children.get(contact.node_id)
        if child is not None:
            moved = contact.zone != child.contact.zone and not child.observer
            child.contact = contact
            if moved:
                self._game.on_child(self._app, contact, now)
            self._check(child, now)
            self._let_excess_go(now)

    def on_own_contact_changed(self, now: float) -> None:
        for child in self.children:
            self._check(child, now)
        self._let_excess_go(now)

    def _check(self, child: Child, now: float) -> None:
        if self.children.rank_of(child) >= self._standing():
            self._let_go(child, Refusal.RANK, now)
        elif self._scope is Scope.ZONE and child.contact.zone != self._device.contact.zone:
            self.drop(child.contact.node_id, now)  # no word: it would cross the border

    def _let_excess_go(self, now: float) -> None:
        """Who has changed sides in a move takes no place that is not there; it learns who might have one."""
        for child in self.children.excess(self._device.contact.zone):
            onward = self.children.above(self.children.rank_of(child), without=child.contact.node_id)
            self._let_go(child, Refusal.EVICTED, now, onward)

    def leave(self, parent: Contact | None) -> None:
        """Let go of all; they learn where they might go."""
        above = () if parent is None else (parent,)
        for child in self.children:
            onward = above + self.children.above(self.children.rank_of(child), without=child.contact.node_id)
            self._device.send(child.contact, Detach(self._app, Refusal.LEAVING, onward[:MAX_ALTERNATIVES]))
        self.children.clear()
