"""The children of one device in one tree: how many of which kind, who gives way, what their subtrees add up to.

Invariant: at most 8 children of the own zone and 4 of others.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgefl.declared import dataclass
from edgefl.overlay.rank import Rank, can_be_parent, rank
from edgefl.overlay.tree_view import ChildView
from edgefl.wire.contact import Contact
from edgefl.wire.overlay import MAX_ALTERNATIVES

ZONE_CHILDREN = 8
"""Fan-out inside the zone: depth 7.7 at 10^6 members, where 4 + 4 gives one level more (overlay study 1.3)."""

OTHER_CHILDREN = 4
"""Fan-out across zones: these edges carry models over wide-area links."""

MAX_HEIGHT = 255
MAX_MEMBERS = 0xFFFFFFFF
"""What fits on the wire; a child that claims more is lying, and nothing overflows."""


@dataclass(slots=True)
class Child:
    """One child; `told` is the depth and root that it has heard from us."""

    contact: Contact
    observer: bool
    height: int
    members: int
    heard_at: float
    told: tuple[int, int] | None = None


class Children:
    """By node id, in the order of their coming."""

    __slots__ = ("_app", "_children")

    def __init__(self, app: int) -> None:
        self._app = app
        self._children: dict[int, Child] = {}

    def __len__(self) -> int:
        return len(self._children)

    def __iter__(self) -> Iterator[Child]:
        return iter(list(self._children.values()))

    def __contains__(self, node_id: int) -> bool:
        return node_id in self._children

    def get(self, node_id: int) -> Child | None:
        return self._children.get(node_id)

    def put(self, child: Child) -> None:
        self._children[child.contact.node_id] = child

    def remove(self, node_id: int) -> bool:
        return self._children.pop(node_id, None) is not None

    def clear(self) -> None:
        self._children.clear()

    def rank_of(self, child: Child) -> Rank:
        return rank(child.contact, self._app, child.observer)

    @property
    def height(self) -> int:
        """Of the tree below and including us: 0 without members below."""
        heights = [child.height + 1 for child in self._children.values() if not child.observer]
        return min(MAX_HEIGHT, max(heights, default=0))

    @property
    def members(self) -> int:
        """In all subtrees below us."""
        return min(MAX_MEMBERS, sum(child.members for child in self._children.values() if not child.observer))

    def views(self) -> tuple[ChildView, ...]:
        return tuple(ChildView(c.contact, c.observer, c.height, c.members) for c in self._children.values())

    def is_full_for(self, newcomer: Contact, own_zone: int) -> bool:
        """No place of its kind is free."""
        limit = ZONE_CHILDREN if newcomer.zone == own_zone else OTHER_CHILDREN
        return len(self._same_kind(newcomer, own_zone)) >= limit

    def lowest(self, newcomer: Contact, own_zone: int) -> Child:
        """Of the newcomer's kind, the one that would give way first."""
        return min(self._same_kind(newcomer, own_zone), key=self.rank_of)

    def excess(self, own_zone: int) -> list[Child]:
        """Those beyond the number of places of their kind, lowest rank first: a child's zone may change, or ours."""
        beyond = []
        for inside, limit in ((True, ZONE_CHILDREN), (False, OTHER_CHILDREN)):
            kind = sorted((c for c in self if (c.contact.zone == own_zone) == inside), key=self.rank_of)
            beyond += kind[: max(0, len(kind) - limit)]
        return beyond

    def above(self, standing: Rank, without: int | None = None) -> tuple[Contact, ...]:
        """Our children that may be parents of a device of that rank."""
        return tuple(
            child.contact
            for node_id, child in self._children.items()
            if node_id != without and standing < self.rank_of(child) and can_be_parent(self.rank_of(child))
        )[:MAX_ALTERNATIVES]

    def _same_kind(self, newcomer: Contact, own_zone: int) -> list[Child]:
        inside = newcomer.zone == own_zone
        return [child for child in self._children.values() if (child.contact.zone == own_zone) == inside]
