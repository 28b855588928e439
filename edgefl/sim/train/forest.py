"""A run of the topology `forest`: the learning layer that ships, on an ideal tree (tree.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from edgefl.learning.node import Decision, Learning, Part
from edgefl.overlay.children import ZONE_CHILDREN
from edgefl.sim.train.curve import Run
from edgefl.sim.train.tree import REPAIR_S, IdealTree, Place
from edgefl.wire import Contact, Message, encode_record
from edgefl.wire.application import Advert, AppState, Manifest
from edgefl.wire.overlay import Scope

if TYPE_CHECKING:
    from edgefl.learning.application import Application
    from edgefl.learning.effects import LearningEffects, Prepared, Tag, Token, TrainResult
    from edgefl.sim.train.learner import Vector
    from edgefl.sim.train.world import Device, World
    from edgefl.wire.blob import BlobRef

ATTACH_S = 1.0
"""After the start, when everybody has read the manifest, the tree is there."""


class Member:
    """One device's learning layer: the machine of the device, and its view of the tree (`application.Forest`)."""

    def __init__(self, device: Device, tree: IdealTree, app: int) -> None:
        self.device, self.tree_of_all, self.app = device, tree, app
        self.learning = Learning(self, cast("LearningEffects", device), lambda manifest: Decision(Part.JOIN))

    @property
    def application(self) -> Application:
        return self.learning.applications[self.app]

    # The tree

    @property
    def contact(self) -> Contact:
        return self.device.contact

    def tree(self, app: int) -> Place | None:
        return self.tree_of_all.place(self.device.index)

    def top_ranked(self, app: int, count: int) -> tuple[Contact, ...]:
        others = (device for device in self.tree_of_all.order[: count + 1] if device is not self.device)
        return tuple(device.contact for device in others)[:count]

    def join_tree(
        self, app: int, now: float, *, observer: bool = False, helper: bool = False, scope: Scope = Scope.GLOBAL
    ) -> None: ...

    def leave_tree(self, app: int, now: float) -> None: ...
    def disown(self, app: int, sender: Contact, now: float) -> None: ...

    def adverts(self) -> tuple[Advert, ...]:
        return ()

    def watch_tree(self, app: int, until: float, now: float) -> None: ...

    def epsilon_sums(self, app: int) -> tuple[float, float]:
        return 0.0, 0.0

    def on_round_over(self, app: int, size_bytes: int, waited_s: float, now: float) -> None: ...

    def publish(self, advert: Advert, now: float) -> None: ...

    # The device's events

    def on_message(self, sender: Contact, message: Message, now: float) -> None:
        self.learning.on_message(sender, message, now)

    def on_bulk(self, sender: Contact, message: Message, data: Any, now: float) -> None:
        self.learning.on_bulk(sender, message, data, now)

    def on_timer(self, name: str, now: float) -> None:
        self.learning.on_timer(("learning", self.app, name), now)

    def on_prepared(self, prepared: Prepared, now: float) -> None:
        self.learning.on_prepared(self.app, prepared, now)

    def on_fetched(self, token: Token, blob: BlobRef, data: Any, now: float) -> None:
        self.learning.on_fetched(self.app, token, blob, data, now)

    def on_kept(self, token: Token, blob: BlobRef, now: float) -> None:
        self.learning.on_kept(self.app, token, blob, now)

    def on_recalled(self, token: Token, data: Any, now: float) -> None:
        self.learning.on_recalled(self.app, token, data, now)

    def on_trained(self, tag: Tag, result: TrainResult | None, now: float) -> None:
        self.learning.on_trained(self.app, tag, result, now)


class ForestRun:
    """All members and their tree, in which a device has `fan_out` children at most."""

    def __init__(self, world: World, manifest: Manifest, fan_out: int = ZONE_CHILDREN) -> None:
        self.world, self.app = world, manifest.app_id
        self.tree = IdealTree(world.devices, self.app, fan_out)
        self.members = [Member(device, self.tree, self.app) for device in world.devices]
        advert = Advert(encode_record(manifest), 1, AppState.RUNNING, bytes(64), world.devices[0].contact)
        for device, member in zip(world.devices, self.members, strict=True):
            device.machine = member
            member.learning.take_part(advert, world.clock.now)
        world.clock.at(world.clock.now + ATTACH_S, self._attach, [device.index for device in self.tree.order])

    def _attach(self, indices: list[int]) -> None:
        """Tell devices of their places: parents first, the root last, when its children are there."""
        now = self.world.clock.now
        for index in indices:
            place = self.tree.place(index)
            if place is None or not self.world.devices[index].alive or place.parent is None:
                continue
            parent = self.members[self.tree.parents[index]]
            parent.learning.on_child(self.app, self.world.devices[index].contact, False, now)
            self.members[index].learning.on_parent(self.app, place.parent, now)
        if self.tree.root in indices:
            self.members[self.tree.root].learning.on_root(self.app, now)

    def on_lost(self, lost: list[Device]) -> None:
        self.world.clock.at(self.world.clock.now + REPAIR_S, self._repair, lost)

    def _repair(self, lost: list[Device]) -> None:
        now = self.world.clock.now
        parents = {device: self.tree.parents.get(device.index) for device in lost}
        orphans = [child for device in lost for child in self.tree.children.get(device.index, [])]
        self.tree.forget(lost)
        for device, parent in parents.items():
            if parent is not None and self.world.devices[parent].alive:
                self.members[parent].learning.on_child_gone(self.app, device.contact.node_id, now)
        for child in orphans:
            if self.world.devices[child].alive:
                self.members[child].learning.on_orphaned(self.app, now)
        if self.tree.order:
            self._attach(self.tree.repair())

    @property
    def furthest(self) -> tuple[int, int]:
        """(round, index) of the live device that holds the newest model."""
        return max(
            (member.application.ledger.round, member.device.index) for member in self.members if member.device.alive
        )

    def model(self) -> Vector:
        """float32 [parameters] of that device."""
        index = self.furthest[1]
        ref = self.members[index].application.ledger.model
        data = self.world.devices[index].blob(ref) if ref is not None else None
        if data is None:  # before it has read the manifest
            return self.world.learner.initial(self.members[index].application.manifest.seed)
        return np.frombuffer(data, "<f4")[: self.world.learner.parameters]


def start_forest(world: World, manifest: Manifest) -> Run:
    """Everybody takes part; the root begins once all have their places."""
    run = ForestRun(world, manifest)
    return Run(lambda: run.furthest[0], lambda: [run.model()], run.on_lost)
