"""One device of a consensus application. Theory of operation:

    SYNC   `sync_slots` exchanges of (norm, seed) with the neighbours; the largest wins everywhere within so many hops
           (max-norm synchronisation: averages of unlike starts have small norms, and small norms learn slowly)
    TRAIN  local steps from the own model
    MIX    `steps` times: send the model to the neighbours of this round, wait for theirs, at most `slot_s`, average
           with weights over those that were heard; then TRAIN of the next round

A device never waits longer than a slot for anybody, and takes models that are at most MAX_AGE rounds old. One that
starts late takes no part in SYNC, which would overwrite trained models: it copies the first model that it hears.

Source: Pranav and Moura, Peer-to-Peer Deep Learning (P2PL), arXiv 2310.18861; D-PSGD: Lian et al., 2017; gossip
learning: Hegedus et al., 2019.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from edgefl.learning.aggregate import is_finite
from edgefl.learning.consensus.mixing import RULES, weights
from edgefl.learning.effects import LearningEffects, TrainJob, TrainResult
from edgefl.wire import Contact, Message
from edgefl.wire.application import Manifest
from edgefl.wire.blob import BlobRef
from edgefl.wire.consensus import NeighbourModel, NormShare
from edgefl.wire.learning import RoundKind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgefl.learning.effects import Tag, Token

    Vector = NDArray[np.float32]

MAX_AGE = 2
"""Rounds by which a neighbour's model may be behind."""

MAX_HEARD = 64
"""Neighbours' models held for this consensus step and those to come."""

MAX_STEPS = 16


@dataclass(frozen=True, slots=True)
class ConsensusOptions:
    """`steps`: consensus steps of a round (S); `mixing`: one of mixing.RULES; `sync_slots`: exchanges at the start, 0
    for none; `slot_s`: longest wait for neighbours, and for `pace_s` > 0 the shortest length of a round (gossip)."""

    steps: int = 1
    mixing: str = "samples"
    sync_slots: int = 3
    slot_s: float = 60.0
    sync_slot_s: float = 2.0
    pace_s: float = 0.0

    def objection(self) -> str | None:
        """Why no device could run this, or None."""
        if not 1 <= self.steps <= MAX_STEPS:
            return f"steps is {self.steps}, but must be 1 to {MAX_STEPS}"
        if self.mixing not in RULES:
            return f"mixing is {self.mixing!r}, but must be one of {', '.join(RULES)}"
        if self.slot_s <= 0 or self.sync_slot_s <= 0:
            return "slots must be longer than 0 seconds"
        return None


class Stage(Enum):
    """Where a device is in its cycle."""

    WAITING = "waiting"
    SYNC = "sync"
    TRAIN = "train"
    MIX = "mix"
    DONE = "done"


class ConsensusDevice:
    """The state machine. `outgoing` and `incoming` tell the neighbours of a round, `initial` makes a start from a
    seed (float32 [parameters])."""

    def __init__(
        self,
        app: int,
        manifest: Manifest,
        options: ConsensusOptions,
        effects: LearningEffects,
        outgoing: Callable[[int], tuple[Contact, ...]],
        incoming: Callable[[int], tuple[Contact, ...]],
        initial: Callable[[int], Vector],
    ) -> None:
        self.app, self.manifest, self.options, self.effects = app, manifest, options, effects
        self.stage = Stage.WAITING
        self.round, self.step = 0, 0
        self.vector: Vector | None = None
        self.samples = 1
        self.counters: dict[str, int] = {}
        self._outgoing, self._incoming, self._initial = outgoing, incoming, initial
        self._best = (0.0, 0)
        self._slots = 0
        self._heard: dict[tuple[int, int, int], tuple[Vector, int, int]] = {}
        self._blobs: list[BlobRef] = []
        self._round_began = 0.0
        self._shared = (0, 0)
        """(round, step) of the newest model that the neighbours were told of: mixing comes after that."""

    def start(self, seed: int, now: float) -> None:
        """Begin with everybody else."""
        self.vector = self._initial(seed)
        self._best = (float(np.linalg.norm(self.vector)), seed)
        self.stage, self._slots = Stage.SYNC, self.options.sync_slots
        self._sync(now)

    def on_message(self, sender: Contact, message: Message, now: float) -> None:
        if isinstance(message, NormShare):
            if self.stage is Stage.SYNC:
                self._best = max(self._best, (message.norm, message.seed))
        elif isinstance(message, NeighbourModel):
            fits = message.model.size == 4 * self.manifest.parameters and message.samples > 0
            if not fits or message.round > self.manifest.rounds or message.step >= self.options.steps:
                self._count("implausible")
            elif message.round >= self.round - MAX_AGE:
                samples = min(message.samples, self.manifest.max_samples)
                token = ("neighbour", sender.node_id, message.round, message.step, samples, message.degree)
                self.effects.fetch(self.app, token, message.model, (sender,))

    def on_timer(self, name: str, now: float) -> None:
        if name == "sync" and self.stage is Stage.SYNC:
            self._sync(now)
        elif name == "slot" and self.stage is Stage.MIX:
            self._mix(now)
        elif name == "pace" and self.stage is Stage.MIX:
            self._train(now)

    def on_fetched(self, token: Token, blob: BlobRef, data: Any, now: float) -> None:
        if data is None or token[0] != "neighbour":
            return
        vector = np.frombuffer(data, "<f4")
        self.effects.discard(self.app, blob)
        if vector.shape != (self.manifest.parameters,) or not is_finite(vector):
            self._count("implausible")
            return
        sender, round_, step, samples, degree = (int(str(part)) for part in token[1:])
        if self.stage is Stage.WAITING:
            self.vector, self.round = vector.copy(), round_
            self._train(now)
            return
        key = (sender, round_, step)
        if key not in self._heard and len(self._heard) >= MAX_HEARD:
            self._count("too many models")
        else:
            self._heard[key] = (vector, samples, degree)
            self._mix_if_complete(now)

    def on_kept(self, token: Token, blob: BlobRef, now: float) -> None:
        while len(self._blobs) > 2 * self.options.steps:  # neighbours may still be fetching the newest ones
            old = self._blobs.pop(0)
            if old not in self._blobs and old != blob:
                self.effects.discard(self.app, old)
        self._blobs.append(blob)
        if token[0] == "base" and self.stage is Stage.TRAIN:
            self.effects.train(
                self.app, TrainJob((0, self.round, 0), RoundKind.TRAIN, blob, self.manifest.seed + self.round)
            )
        elif token == ("mix", self.round, self.step) and self.stage is Stage.MIX:
            self._shared = (self.round, self.step)
            receivers = self._outgoing(self.round)
            for contact in receivers:
                self.effects.send(
                    contact,
                    NeighbourModel(self.app, self.round, self.step, blob, self.samples, len(receivers)),
                )
            self._set_timer("slot", now + self.options.slot_s)
            self._mix_if_complete(now)

    def on_trained(self, tag: Tag, result: TrainResult | None, now: float) -> None:
        if self.stage is not Stage.TRAIN or tag[1] != self.round or self.vector is None:
            return
        if result is not None and result.delta is not None and not result.diverged:
            self.vector = self.vector + result.delta
            self.samples = max(1, min(result.samples, self.manifest.max_samples))
        else:
            self._count("diverged")
        self.stage, self.step = Stage.MIX, 0
        self._share()

    def _sync(self, now: float) -> None:
        if self._slots > 0:
            self._slots -= 1
            for contact in {*self._outgoing(0), *self._incoming(0)}:
                self.effects.send(contact, NormShare(self.app, *self._best))
            self._set_timer("sync", now + self.options.sync_slot_s)
            return
        if self.options.sync_slots:
            self.vector = self._initial(self._best[1])
        self._train(now)

    def _train(self, now: float) -> None:
        if self.round >= self.manifest.rounds:
            self.stage = Stage.DONE
            return
        self.stage = Stage.TRAIN
        self.round += 1
        self._round_began = now
        self.effects.keep(self.app, ("base", self.round), self.vector)

    def _share(self) -> None:
        self.effects.keep(self.app, ("mix", self.round, self.step), self.vector)

    def _mix_if_complete(self, now: float) -> None:
        if self.stage is not Stage.MIX or self._shared != (self.round, self.step):
            return
        wanted = {contact.node_id for contact in self._incoming(self.round)}
        here = {key[0] for key in self._heard if key[1:] >= (self.round, self.step)}
        if wanted <= here:
            self._mix(now)

    def _mix(self, now: float) -> None:
        """Average with those that were heard, and forget what was used."""
        self.effects.cancel_timer(("learning", self.app, "slot"))
        used = list(self._take().values())
        own, others = weights(
            self.options.mixing,
            self.samples,
            len(self._outgoing(self.round)),
            [heard[1] for heard in used],
            [heard[2] for heard in used],
        )
        if self.vector is not None:
            mixed = own * self.vector.astype(np.float64)
            for share, heard in zip(others, used, strict=True):
                mixed += share * heard[0]
            self.vector = mixed.astype("<f4")
        self.step += 1
        if self.step < self.options.steps:
            self._share()
        elif self.options.pace_s > 0:
            self._set_timer("pace", max(now, self._round_began + self.options.pace_s))
        else:
            self._train(now)

    def _take(self) -> dict[int, tuple[Vector, int, int]]:
        """One model of each neighbour for this step: the newest that is not ahead, or else, from a neighbour of this
        round, the one that is least ahead. What is ahead stays, for its own step."""
        here, wanted = (self.round, self.step), {contact.node_id for contact in self._incoming(self.round)}
        taken: dict[int, tuple[Vector, int, int]] = {}
        for key in sorted(self._heard):
            ahead = key[1:] > here
            if key[1] >= self.round - MAX_AGE and (not ahead or (key[0] in wanted and key[0] not in taken)):
                taken[key[0]] = self._heard[key]
        for key in [key for key in self._heard if key[1:] <= here]:
            del self._heard[key]
        return taken

    def _set_timer(self, name: str, at: float) -> None:
        self.effects.set_timer(("learning", self.app, name), at)

    def _count(self, name: str) -> None:
        self.counters[name] = self.counters.get(name, 0) + 1
