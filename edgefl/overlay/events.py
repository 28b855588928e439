"""Events wait until what caused them has been handled completely, so that a listener may call the overlay in them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from edgefl.overlay.tree_view import TreeListener

if TYPE_CHECKING:
    from edgefl.wire.application import Advert
    from edgefl.wire.contact import Contact
    from edgefl.wire.overlay import Scope


class Listener(TreeListener, Protocol):
    """Events out of the overlay, those of the trees included; `now` in monotonic seconds."""

    def on_joined(self, now: float) -> None:
        """Others know us, and we may route."""

    def on_isolated(self, now: float) -> None:
        """Everybody is lost; joining again through remembered contacts."""

    def on_lookup(self, request: int, owner: Contact | None, hops: int, now: float) -> None:
        """The answer to a lookup; no owner if there was none in time."""

    def on_zone(self, zone: int, now: float) -> None:
        """This device belongs into another zone: call `set_contact` with it, and a higher incarnation."""

    def on_help_wanted(self, app: int, scope: Scope, now: float) -> None:
        """This device volunteers, and the application lacks places: it may join its tree as a helper."""

    def on_advert(self, advert: Advert, now: float) -> None:
        """A verified advert, new or newer than the one known."""


class EventQueue:
    """A `Listener` that holds back events for another one."""

    __slots__ = ("_listener", "waiting")

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self.waiting: list[Callable[[], None]] = []

    def deliver_one(self) -> None:
        self.waiting.pop(0)()

    def on_joined(self, now: float) -> None:
        self.waiting.append(partial(self._listener.on_joined, now))

    def on_isolated(self, now: float) -> None:
        self.waiting.append(partial(self._listener.on_isolated, now))

    def on_lookup(self, request: int, owner: Contact | None, hops: int, now: float) -> None:
        self.waiting.append(partial(self._listener.on_lookup, request, owner, hops, now))

    def on_zone(self, zone: int, now: float) -> None:
        self.waiting.append(partial(self._listener.on_zone, zone, now))

    def on_advert(self, advert: Advert, now: float) -> None:
        self.waiting.append(partial(self._listener.on_advert, advert, now))

    def on_root(self, app: int, now: float) -> None:
        self.waiting.append(partial(self._listener.on_root, app, now))

    def on_parent(self, app: int, parent: Contact, now: float) -> None:
        self.waiting.append(partial(self._listener.on_parent, app, parent, now))

    def on_orphaned(self, app: int, now: float) -> None:
        self.waiting.append(partial(self._listener.on_orphaned, app, now))

    def on_dismissed(self, app: int, now: float) -> None:
        self.waiting.append(partial(self._listener.on_dismissed, app, now))

    def on_help_wanted(self, app: int, scope: Scope, now: float) -> None:
        self.waiting.append(partial(self._listener.on_help_wanted, app, scope, now))

    def on_child(self, app: int, child: Contact, observer: bool, now: float) -> None:
        self.waiting.append(partial(self._listener.on_child, app, child, observer, now))

    def on_child_gone(self, app: int, child: int, now: float) -> None:
        self.waiting.append(partial(self._listener.on_child_gone, app, child, now))
