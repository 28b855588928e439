"""A central server beside the trees: the same devices, the same learning code, one root for all applications.

The server holds no data and trains nothing; it is always there, so nobody replicates its models. Everything else is as
in a tree of height 1: it pushes each model to every device of the application, and adds up what they send.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgefl.learning.effects import TrainJob, TrainResult
from edgefl.learning.node import Learning
from edgefl.sim.apps.device import AppDevice
from edgefl.wire import Contact
from edgefl.wire.overlay import Scope

if TYPE_CHECKING:
    from edgefl.wire.application import Advert


@dataclass(frozen=True, slots=True)
class StarChild:
    contact: Contact
    observer: bool = False
    members: int = 1


@dataclass(slots=True)
class StarView:
    """A place in a star: the server's, or that of a device below it. The server is no member."""

    is_root: bool
    parent: Contact | None
    root: int
    children: tuple[StarChild, ...] = ()
    height: int = 0
    members: int = 1


@dataclass(slots=True)
class Star:
    """Who is below the server, for each application."""

    server: AppDevice
    devices: dict[int, list[AppDevice]] = field(default_factory=dict)

    def view(self, device: AppDevice, app: int) -> StarView:
        root = self.server.contact
        if device is not self.server:
            return StarView(False, root, root.node_id)
        below = self.devices.get(app, [])
        children = tuple(StarChild(one.contact) for one in below)
        return StarView(True, None, root.node_id, children, 1 if children else 0, len(children))


class StarForest:
    """What the learning layer of one device sees of the star: implements its `Forest`."""

    def __init__(self, star: Star, device: AppDevice) -> None:
        self._star, self._device = star, device

    @property
    def contact(self) -> Contact:
        return self._device.contact

    def tree(self, app: int) -> StarView:
        return self._star.view(self._device, app)

    def top_ranked(self, app: int, count: int) -> tuple[Contact, ...]:
        return ()

    def join_tree(
        self, app: int, now: float, *, observer: bool = False, helper: bool = False, scope: Scope = Scope.GLOBAL
    ) -> None:
        star, device = self._star, self._device
        if device is star.server:
            device.learning.on_root(app, now)
            return
        below = star.devices.setdefault(app, [])
        if device not in below:
            below.append(device)
            star.server.learning.on_child(app, device.contact, observer, now)
            device.learning.on_parent(app, star.server.contact, now)

    def adverts(self) -> tuple[Advert, ...]:
        return ()

    def leave_tree(self, app: int, now: float) -> None: ...
    def disown(self, app: int, sender: Contact, now: float) -> None: ...

    def watch_tree(self, app: int, until: float, now: float) -> None: ...

    def epsilon_sums(self, app: int) -> tuple[float, float]:
        return 0.0, 0.0

    def on_round_over(self, app: int, size_bytes: int, waited_s: float, now: float) -> None: ...

    def publish(self, advert: Advert, now: float) -> None: ...


class Server(AppDevice):
    """It has no data: its own part of every round is there at once, and empty."""

    def train(self, app: int, job: TrainJob) -> None:
        self._later(0.0, self.learning.on_trained, app, job.tag, TrainResult(None, 0, ()))


def under_star(star: Star, device: AppDevice) -> None:
    """Give a device's learning layer the star in place of the overlay, before it takes part in anything."""
    device.learning = Learning(StarForest(star, device), device, device._policy)
