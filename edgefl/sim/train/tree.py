"""A tree that is simply there: the ideal rank tree, drawn by somebody who sees everything.

**A stand-in for the overlay**, which finds nearly the same tree by messages (`edgefl sim fleet` runs that): a device
has the nearest parent, by delay, among those of a higher level of rank with a free place; where there is none, among
those of a higher rank. When devices vanish, the tree stays broken for REPAIR_S; then those without a parent choose
again, and the highest rank is the root.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgefl.overlay.children import ZONE_CHILDREN
from edgefl.overlay.rank import Rank, level, rank

if TYPE_CHECKING:
    from edgefl.sim.train.world import Device
    from edgefl.wire import Contact

REPAIR_S = 6.0
"""What the overlay keeps below when 5 % of all trees' members vanish: `tools/bench overlay`."""


@dataclass(frozen=True, slots=True)
class Child:
    """A child as learning sees it."""

    contact: Contact
    members: int
    observer: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """A device's place in the tree as learning sees it."""

    is_root: bool
    parent: Contact | None
    children: tuple[Child, ...]
    height: int
    members: int
    root: int


class IdealTree:
    """Everybody's places. `fan_out`: children that a device carries at most."""

    def __init__(self, devices: list[Device], app: int, fan_out: int = ZONE_CHILDREN) -> None:
        self.fan_out = fan_out
        self.parents: dict[int, int] = {}
        self.children: dict[int, list[int]] = {device.index: [] for device in devices}
        self.ranks: dict[int, Rank] = {device.index: rank(device.contact, app) for device in devices}
        self.order = sorted(devices, key=lambda device: self.ranks[device.index], reverse=True)
        self._devices = {device.index: device for device in devices}
        self._places: dict[int, Place] = {}
        self._rooted: int | None = None
        self.repair()

    @property
    def root(self) -> int:
        """The index of the highest-ranked device of the tree."""
        return self.order[0].index

    def forget(self, lost: list[Device]) -> None:
        """Their parents and children have noticed."""
        for device in lost:
            for child in self.children.pop(device.index, []):
                self.parents.pop(child, None)
            parent = self.parents.pop(device.index, None)
            if parent in self.children:
                self.children[parent].remove(device.index)
        gone = {device.index for device in lost}
        self.order = [device for device in self.order if device.index not in gone]
        self._places.clear()

    def repair(self) -> list[int]:
        """Whoever has no parent gets one, the highest rank first. Who has got one, or became the root."""
        moved = []
        for at, device in enumerate(self.order):
            if device.index in self.parents or device.index == self._rooted:
                continue
            moved.append(device.index)
            above = [other for other in self.order[:at] if len(self.children[other.index]) < self.fan_out]
            own = level(self.ranks[device.index])
            higher = [other for other in above if level(self.ranks[other.index]) > own]
            if at == 0:
                self._rooted = device.index
            elif above:
                parent = min(higher or above, key=lambda other: (device.delay_to(other), other.index))
                self.parents[device.index] = parent.index
                self.children[parent.index].append(device.index)
        self._places.clear()
        return moved

    def place(self, index: int) -> Place | None:
        """None for a device that is not in the tree."""
        if index not in self.children:
            return None
        known = self._places.get(index)
        if known is None:
            below = {child: self.place(child) for child in self.children[index]}
            children = tuple(
                Child(self._devices[child].contact, place.members)
                for child, place in below.items()
                if place is not None
            )
            parent = self.parents.get(index)
            known = self._places[index] = Place(
                index == self.root,
                None if parent is None else self._devices[parent].contact,
                children,
                max((place.height + 1 for place in below.values() if place is not None), default=0),
                1 + sum(child.members for child in children),
                self._devices[self.root].contact.node_id,
            )
        return known

    def depth(self) -> int:
        """Levels below the root."""
        place = self.place(self.root)
        return place.height if place is not None else 0
