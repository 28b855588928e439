"""How a device begins: with everybody else (SYNC), or as a neighbour that has begun already (WAITING)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgefl.learning.consensus.start import Start
from edgefl.learning.consensus.surroundings import Stage
from edgefl.wire.consensus import NormShare

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgefl.learning.consensus.device import ConsensusDevice
    from edgefl.learning.consensus.heard import Announced
    from edgefl.wire import Contact

    Vector = NDArray[np.float32]

MAX_AGE = 2
"""Rounds by which a neighbour's model may be behind. A device that is agreeing on a start hears from here on, too, that
the others have gone without it."""

MAX_OFFERS = 32
"""Neighbours' answers among which a waiting device chooses."""

ASK_S = 10.0
"""How often a waiting device asks again."""


class Beginning:
    """The stages WAITING and SYNC of a device."""

    TIMERS = ("sync", "ask", "copy")

    def __init__(self, device: ConsensusDevice, initial: Callable[[int], Vector], seed: int) -> None:
        self.device = device
        self._initial, self._seed = initial, seed
        self._start: Start | None = None
        self._slots = 0
        self._offers: dict[int, Announced] = {}

    def ask(self, now: float) -> None:
        """Ask the neighbours how far they are."""
        device = self.device
        for contact in device.neighbours.outgoing(0):
            device.effects.send(contact, NormShare(device.app, 0.0, 0, waiting=True))
        device.set_timer("ask", now + ASK_S)

    def sync(self, now: float) -> None:
        """Agree with the neighbours on a start."""
        self._start = Start(self._initial, self._seed)
        self.device.vector = self._start.vector()
        self.device.stage, self._slots = Stage.SYNC, self.device.options.sync_slots
        if not self._slots:
            self._say(self._start)  # who waits begins with it
        self._exchange(self._start, now)

    def _exchange(self, start: Start, now: float) -> None:
        device = self.device
        if self._slots > 0:
            self._slots -= 1
            self._say(start)
            device.set_timer("sync", now + device.options.sync_slot_s)
            return
        if device.options.sync_slots:
            device.vector = start.vector()
        self._start = None
        device.train(now)

    def _say(self, start: Start) -> None:
        device = self.device
        for contact in {*device.neighbours.outgoing(0), *device.neighbours.incoming(0)}:
            device.effects.send(contact, NormShare(device.app, *start.best))

    def on_norm(self, sender: Contact, message: NormShare, now: float) -> None:
        """A neighbour knows of a start, or asks how far this device is."""
        device, start = self.device, self._start
        if device.stage is Stage.WAITING:
            if not message.waiting:
                device.cancel_timer("ask")
                self.sync(now)
                self.on_norm(sender, message, now)
        elif start is not None:
            if message.waiting:
                device.effects.send(sender, NormShare(device.app, *start.best))
            elif not start.on_claim(sender.node_id, message.norm, message.seed):
                device.count("start_not_true")
        else:
            device.tell((sender,))

    def on_offer(self, announced: Announced, now: float) -> None:
        """A neighbour has begun without this device."""
        device = self.device
        device.stage, self._start = Stage.WAITING, None
        if not self._offers:
            device.set_timer("copy", now + device.options.sync_slot_s)
        if len(self._offers) < MAX_OFFERS:
            self._offers[announced.sender.node_id] = announced

    def _copy(self, now: float) -> None:
        """Take the model of the neighbour in the middle of those that answered: a lie about the round is an extreme."""
        device = self.device
        if not self._offers:
            self.ask(now)
            return
        offers = sorted(self._offers.values(), key=lambda offer: (offer.key, offer.sender.node_id))
        chosen = offers[(len(offers) - 1) // 2]
        del self._offers[chosen.sender.node_id]
        token = ("copy", chosen.sender, chosen.message)
        device.effects.fetch(device.app, token, chosen.message.model, (chosen.sender,))

    def on_copied(self, round_: int, vector: Vector | None, now: float) -> None:
        """The chosen neighbour's model (None: it could not be had)."""
        device = self.device
        if device.stage is not Stage.WAITING:
            return
        if vector is None:
            self._copy(now)
            return
        self._offers.clear()
        device.count("copied")
        device.cancel_timer("ask")
        device.resume(round_, vector.copy(), now)

    def on_timer(self, name: str, now: float) -> None:
        device = self.device
        if name == "sync" and device.stage is Stage.SYNC and self._start is not None:
            self._exchange(self._start, now)
        elif name == "ask" and device.stage is Stage.WAITING:
            self.ask(now)
        elif name == "copy" and device.stage is Stage.WAITING:
            self._copy(now)
