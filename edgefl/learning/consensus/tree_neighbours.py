"""Neighbours from the overlay: the application's tree, and across it.

A device exchanges models with its parent, its children, and those children of its parent that the parent introduces to
it: all of them where there are few, else the next ones in a ring of the children. The tree keeps the graph connected,
the rings make it well mixed and keep it together while a dead parent is being replaced. The mean degree is about the
`degree` that the application asks for: 2 from the tree, the rest from the rings.
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
        self._introduced: tuple[Contact, ...] = ()

    @property
    def lost(self) -> bool:
        tree = self._tree()
        is_only_member = tree is not None and tree.is_root and tree.members <= 1
        return not is_only_member and not self.outgoing(0)

    def outgoing(self, round_: int) -> tuple[Contact, ...]:
        tree = self._tree()
        near = [] if tree is None else [child.contact for child in tree.children if not child.observer]
        if tree is not None and tree.parent is not None:
            near.append(tree.parent)
        known = {contact.node_id: contact for contact in (*self._introduced, *near)}
        known.pop(self._own_id, None)
        return tuple(known[node_id] for node_id in sorted(known))

    def incoming(self, round_: int) -> tuple[Contact, ...]:
        return self.outgoing(round_)

    def expects(self, node_id: int, round_: int) -> bool:
        return any(contact.node_id == node_id for contact in self.outgoing(round_))

    def on_introduction(self, peers: tuple[Contact, ...]) -> None:
        """What the parent says replaces what it, or an earlier one, has said."""
        self._introduced = peers

    def introductions(self) -> Iterator[tuple[Contact, bool, tuple[Contact, ...]]]:
        """For each child: (child, whether it only observes, whom it is to know)."""
        tree = self._tree()
        children = () if tree is None else tree.children
        ring = sorted((child.contact for child in children if not child.observer), key=lambda child: child.node_id)
        for child in children:
            peers = () if child.observer else ring_peers(ring, child.contact.node_id, self._degree)
            yield child.contact, child.observer, peers


def ring_peers(ring: list[Contact], own_id: int, degree: int) -> tuple[Contact, ...]:
    """The others of a ring with whom this one exchanges: all, or half of the wanted number on either side."""
    place = next(index for index, contact in enumerate(ring) if contact.node_id == own_id)
    others = ring[place + 1 :] + ring[:place]
    reach = max(1, (degree - TREE_DEGREE) // 2)
    if len(others) > max(degree, 2 * reach):
        others = others[:reach] + others[-reach:]
    return tuple(others[:MAX_PEERS])
