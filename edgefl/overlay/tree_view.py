"""A device's place in a tree as other layers see it: where it stands, who is above and below, what happens to it."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from edgefl.declared import dataclass
from edgefl.wire.contact import Contact


class Position(Enum):
    """Where a device stands in a tree."""

    SEEKING = "seeking"
    ATTACHED = "attached"
    ROOT = "root"


@dataclass(frozen=True, slots=True)
class ChildView:
    """A child: `height` of its subtree (0: a leaf), `members` in it."""

    contact: Contact
    observer: bool
    height: int
    members: int


@dataclass(frozen=True, slots=True)
class TreeView:
    """A device's place in a tree. `members` counts its subtree, with itself if it is one; `depth` is its distance from
    the root."""

    app: int
    position: Position
    observer: bool
    parent: Contact | None
    children: tuple[ChildView, ...]
    height: int
    members: int
    depth: int
    root: int
    """Node id; 0 while it is not known. While a device seeks a parent, depth and root are those of before."""
    helper: bool = False
    """It carries the application's models without being a member."""

    @property
    def is_root(self) -> bool:
        return self.position is Position.ROOT


class TreeListener(Protocol):
    """What happens to a device's place in a tree; `now` in monotonic seconds. Called when the overlay has finished
    handling an event, so it may call the overlay."""

    def on_root(self, app: int, now: float) -> None:
        """This device is the root now."""

    def on_parent(self, app: int, parent: Contact, now: float) -> None:
        """Attached below this parent, for the first time or instead of another."""

    def on_orphaned(self, app: int, now: float) -> None:
        """The parent is lost; another one is being looked for."""

    def on_dismissed(self, app: int, now: float) -> None:
        """This device is not needed as a helper any more, and has left the tree."""

    def on_child(self, app: int, child: Contact, observer: bool, now: float) -> None:
        """A child has attached, perhaps not for the first time (it may have restarted)."""

    def on_child_gone(self, app: int, child: int, now: float) -> None:
        """A child is dead, has left, or was sent away."""
