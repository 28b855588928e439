"""Neighbours from the overlay: the application's tree, and across it.

A device exchanges models with its parent, its children, and those whom they introduce to it. A parent introduces its
children to each other: all of them where there are few, else the next ones in a ring; and the first of them to its own
parent. The tree keeps the graph connected, the introductions make it well mixed and keep it together while a dead
parent is being replaced. Every edge is told to both its ends. The mean degree is about the `degree` that the
application asks for: 2 from the tree, the rest from the rings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from edgefl.wire.consensus import MAX_PEERS

if TYPE_CHECKING:
    from edgefl.learning.application import Tree
    from edgefl.wire import Contact

TREE_DEGREE = 2
"""The mean degree of a large tree."""


class TreeNeighbours:
    """One device's neighbours, the same in every round. Implements `Neighbours`. `tree` tells its present place."""

    def __init__(self, tree: Callable[[], Tree | None], own_id: int, degree: int) -> None:
        self._tree = tree
        self._own_id = own_id
        self._degree = degree
        self._by_parent: tuple[Contact, ...] = ()
        self._by_child: dict[int, Contact] = {}

    @property
    def lost(self) -> bool:
        return not self.outgoing(0)

    def outgoing(self, round_: int) -> tuple[Contact, ...]:
        tree = self._tree()
        near = [] if tree is None else [child.contact for child in tree.children if not child.observer]
        grandchildren = [self._by_child[child.node_id] for child in near if child.node_id in self._by_child]
        if tree is not None and tree.parent is not None:
            near.append(tree.parent)
        known = {contact.node_id: contact for contact in (*self._by_parent, *grandchildren, *near)}
        known.pop(self._own_id, None)
        return tuple(known[node_id] for node_id in sorted(known))

    def incoming(self, round_: int) -> tuple[Contact, ...]:
        return self.outgoing(round_)

    def expects(self, node_id: int, round_: int) -> bool:
        return any(contact.node_id == node_id for contact in self.outgoing(round_))

    def on_rooted(self) -> None:
        """No parent is left who would say otherwise."""
        self._by_parent = ()

    def on_introduction(self, sender: Contact, peers: tuple[Contact, ...]) -> bool:
        """What the parent says replaces what it, or an earlier one, has said; a child has one child to introduce. False
        for a sender that is neither."""
        tree = self._tree()
        if tree is None:
            return False
        if tree.parent is not None and sender.node_id == tree.parent.node_id:
            self._by_parent = peers
            return True
        children = {child.contact.node_id for child in tree.children if not child.observer}
        self._by_child = {child: contact for child, contact in self._by_child.items() if child in children}
        if sender.node_id in children:
            self._by_child.pop(sender.node_id, None)
            if peers:
                self._by_child[sender.node_id] = peers[0]
        return sender.node_id in children

    def introductions(self) -> Iterator[tuple[Contact, bool, tuple[Contact, ...]]]:
        """(neighbour in the tree, whether it only observes, whom it is to know)."""
        tree = self._tree()
        if tree is None:
            return
        ring = sorted((child.contact for child in tree.children if not child.observer), key=lambda child: child.node_id)
        up = () if tree.parent is None else (tree.parent,)
        for child in tree.children:
            peers = () if child.observer else ring_peers(ring, child.contact.node_id, self._degree)
            yield child.contact, child.observer, (peers + up if ring and child.contact == ring[0] else peers)
        if tree.parent is not None:
            yield tree.parent, False, tuple(ring[:1])


def ring_peers(ring: list[Contact], own_id: int, degree: int) -> tuple[Contact, ...]:
    """The others of a ring with whom this one exchanges: all, or half of the wanted number on either side."""
    place = next(index for index, contact in enumerate(ring) if contact.node_id == own_id)
    others = ring[place + 1 :] + ring[:place]
    reach = max(1, (degree - TREE_DEGREE) // 2)
    if len(others) > max(degree, 2 * reach):
        others = others[:reach] + others[-reach:]
    return tuple(others[: MAX_PEERS - 1])
