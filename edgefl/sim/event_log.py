"""What the overlay of one device has reported, in order; passed on to further listeners (the layers above)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgefl.overlay import Listener
    from edgefl.wire import Contact
    from edgefl.wire.application import Advert
    from edgefl.wire.overlay import Scope


class EventLog:
    """A `Listener` that remembers. `on_tree_change` is called after every change of a parent,
    `on_zone_change` when the device belongs into another zone."""

    def __init__(self, on_tree_change: Callable[[int], None] = lambda app: None) -> None:
        self.listeners: list[Listener] = []
        self.events: list[tuple[float, str, tuple[Any, ...]]] = []
        self.lookups: dict[int, tuple[Contact | None, int]] = {}
        self._on_tree_change = on_tree_change
        self.on_zone_change: Callable[[int], None] = lambda zone: None

    def times(self, name: str, *arguments: Any) -> list[float]:
        """When this event happened, with these first arguments."""
        return [at for at, event, values in self.events if event == name and values[: len(arguments)] == arguments]

    def names(self) -> list[str]:
        return [event for _, event, _ in self.events]

    def _note(self, name: str, now: float, *arguments: Any) -> None:
        self.events.append((now, name, arguments))
        for listener in self.listeners:
            getattr(listener, f"on_{name}")(*arguments, now)

    def on_joined(self, now: float) -> None:
        self._note("joined", now)

    def on_isolated(self, now: float) -> None:
        self._note("isolated", now)

    def on_root(self, app: int, now: float) -> None:
        self._on_tree_change(app)
        self._note("root", now, app)

    def on_parent(self, app: int, parent: Contact, now: float) -> None:
        self._on_tree_change(app)
        self._note("parent", now, app, parent)

    def on_orphaned(self, app: int, now: float) -> None:
        self._on_tree_change(app)
        self._note("orphaned", now, app)

    def on_dismissed(self, app: int, now: float) -> None:
        self._on_tree_change(app)
        self._note("dismissed", now, app)

    def on_help_wanted(self, app: int, scope: Scope, now: float) -> None:
        self._note("help_wanted", now, app, scope)

    def on_child(self, app: int, child: Contact, observer: bool, now: float) -> None:
        self._note("child", now, app, child, observer)

    def on_child_gone(self, app: int, child: int, now: float) -> None:
        self._note("child_gone", now, app, child)

    def on_lookup(self, request: int, owner: Contact | None, hops: int, now: float) -> None:
        self.lookups[request] = (owner, hops)
        self._note("lookup", now, request, owner, hops)

    def on_zone(self, zone: int, now: float) -> None:
        self.on_zone_change(zone)
        self._note("zone", now, zone)

    def on_advert(self, advert: Advert, now: float) -> None:
        self._note("advert", now, advert)
