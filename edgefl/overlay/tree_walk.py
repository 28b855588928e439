"""A walk through a whole tree, from any of its devices: ask every neighbour for its neighbours.

A tree is known to nobody: each device has its parent and its children. Who wants to see all of it (`edgefl tree APP
--plot`) asks its own neighbours where they stand, then theirs, parents first, so that the root is found early. Few
questions are open at a time, no more than MAX_DEVICES are asked, and after PATIENCE_S what has been seen is the answer.
A device that does not answer (dead, or of an older release) is seen by its parent's word alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING

from edgefl.declared import dataclass
from edgefl.wire.tree_walk import TreeAsk, TreeTold

if TYPE_CHECKING:
    from edgefl.overlay.device import Device
    from edgefl.overlay.liveness import Liveness
    from edgefl.overlay.requests import Requests
    from edgefl.wire.contact import Contact

MAX_DEVICES = 1024
"""Drawn at most: half a megabyte of answers, and no picture has room for more."""

MAX_WALKS = 4
"""Trees walked through at a time."""

PARALLEL = 8
"""Questions open at once in one walk."""

PATIENCE_S = 30.0
"""Of the whole walk; the dead take their time-out."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One device. `told` is None if it has not answered; then `parent` is who called it its child."""

    contact: Contact
    told: TreeTold | None
    parent: int | None


@dataclass(slots=True)
class _Walk:
    until: float
    then: list[Callable[[tuple[Seen, ...]], None]]
    known: dict[int, Contact] = field(default_factory=dict)
    parents: dict[int, int] = field(default_factory=dict)
    told: dict[int, TreeTold] = field(default_factory=dict)
    ahead: deque[Contact] = field(default_factory=deque)
    open: set[int] = field(default_factory=set)


class TreeWalks:
    """Walks of one device, by application. `place` tells what it says of itself."""

    __slots__ = ("_device", "_liveness", "_place", "_requests", "_walks")

    def __init__(
        self, device: Device, requests: Requests, liveness: Liveness, place: Callable[[int], TreeTold]
    ) -> None:
        self._device = device
        self._requests = requests
        self._liveness = liveness
        self._place = place
        self._walks: dict[int, _Walk] = {}

    def sizes(self) -> dict[str, int]:
        return {"walks": len(self._walks)}

    def start(self, app: int, now: float, then: Callable[[tuple[Seen, ...]], None]) -> bool:
        """`then` is called once, with every device that was seen. False: too many walks at a time."""
        walk = self._walks.get(app)
        if walk is not None:
            walk.then.append(then)
            return True
        if len(self._walks) >= MAX_WALKS:
            return False
        walk = self._walks[app] = _Walk(now + PATIENCE_S, [then])
        own = self._device.contact
        walk.known[own.node_id] = own
        self._enter(walk, own, self._place(app))
        self._go_on(app, walk, now)
        return True

    def on_told(self, sender: Contact, message: TreeTold, now: float) -> None:
        """An answer; unasked ones are ignored."""
        walk = self._walks.get(message.app)
        if walk is None or self._requests.close(self._question(message.app, sender.node_id), sender.node_id) is None:
            return
        walk.open.discard(sender.node_id)
        if min(message.cost_s, message.gain_s, message.delay_s) < 0:
            self._device.counters["walk_nonsense"] += 1
        else:
            self._enter(walk, sender, message)
        self._go_on(message.app, walk, now)

    def _enter(self, walk: _Walk, device: Contact, told: TreeTold) -> None:
        walk.told[device.node_id] = told
        if not told.takes_part:
            return
        for child in told.children:
            walk.parents.setdefault(child.node_id, device.node_id)
        for contact in told.children:
            self._meet(walk, contact, first=False)
        if told.parent is not None:
            self._meet(walk, told.parent, first=True)

    def _meet(self, walk: _Walk, contact: Contact, *, first: bool) -> None:
        if contact.node_id in walk.known or len(walk.known) >= MAX_DEVICES:
            return
        walk.known[contact.node_id] = contact
        if first:
            walk.ahead.appendleft(contact)
        else:
            walk.ahead.append(contact)

    def _go_on(self, app: int, walk: _Walk, now: float) -> None:
        while walk.ahead and len(walk.open) < PARALLEL and now < walk.until:
            contact = self._liveness.newest(walk.ahead.popleft())
            node_id, timeout_s = contact.node_id, self._liveness.timeout_s(contact.node_id, now)
            silent = partial(self._silent, app, node_id)
            if self._requests.open(self._question(app, node_id), node_id, now, timeout_s, silent):
                walk.open.add(node_id)
                self._device.send(contact, TreeAsk(app))
        if not walk.open:
            self._end(app, walk)

    def _silent(self, app: int, node_id: int, now: float) -> None:
        walk = self._walks.get(app)
        if walk is not None:
            walk.open.discard(node_id)
            self._go_on(app, walk, now)

    def _end(self, app: int, walk: _Walk) -> None:
        del self._walks[app]
        seen = tuple(self._seen(walk, node_id, contact) for node_id, contact in walk.known.items())
        for then in walk.then:
            then(seen)

    @staticmethod
    def _seen(walk: _Walk, node_id: int, contact: Contact) -> Seen:
        told = walk.told.get(node_id)
        if told is None:
            return Seen(contact, None, walk.parents.get(node_id))
        return Seen(contact, told, None if told.parent is None else told.parent.node_id)

    @staticmethod
    def _question(app: int, node_id: int) -> tuple[str, int, int]:
        return ("walk", app, node_id)
