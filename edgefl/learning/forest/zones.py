"""Rounds inside the zones between two global ones (`zone_rounds` of the manifest): few bytes cross between zones.

Source: Liu et al., Client-Edge-Cloud Hierarchical Federated Learning, ICC 2020. There the edge is a server; here it is
the zone's head: the device of the application's tree whose parent is in another zone, or the root.

    a global round opens        every device gets the model. A head begins with step 1 of its zone; all others only pass
                                on what heads below them deliver
    step k of a zone closes     its mean delta is added to the zone's model; step k + 1 begins with that
    step `zone_rounds` closes   the zone's model minus the global one goes into the global sum, with the samples and the
                                names of those who were in the last step
    a step in which nobody      the zone delivers what the steps before have made, or nothing
        delivered

A step is a round like any other (worker.py), among the devices of one zone: the head is its root. Its tag is that of
the global round with the step added to the attempt (attempts are counted in units of STEPS). The models of steps are
nobody's newest model: they are fetched from the parent of the zone, not pushed, and forgotten with the next step.

A device that comes to another head in the same zone, which is not as far, answers at once that it has nothing, until
the head is further or the next global round opens. A head that gets a parent in its own zone leads no more.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from edgefl.declared import dataclass
from edgefl.errors import WireError
from edgefl.learning.forest.local import LocalTraining
from edgefl.learning.forest.round import RoundState
from edgefl.learning.forest.worker import BYTES_METRIC, Worker
from edgefl.learning.metrics import TRAIN_PREFIX, merge
from edgefl.wire.learning import CHUNK_PARAMETERS, Metric, RoundKind, RoundStart, Update

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgefl.learning.application import Child
    from edgefl.learning.effects import Tag, Token
    from edgefl.learning.forest.application import ForestApplication
    from edgefl.learning.forest.round import OpenRound
    from edgefl.wire import Contact
    from edgefl.wire.blob import BlobRef

STEPS = 64
"""Attempts of a global round are this far apart; the numbers between them are its zones' steps."""

PREFIX = "zone "
"""Of the names of a step's timers."""


def step_of(tag: Tag) -> int:
    """Which step of its zone a round is; 0 for a global one."""
    return tag[2] % STEPS


class NoObjections:
    """Steps begin with models that nobody has seen before: none can be behind."""

    def apply_to(self, message: RoundStart) -> bool:
        return False

    def raise_to(self, peer: Contact) -> None: ...


class ZoneForest:
    """The overlay as steps see it: a device may look for another parent after a step only if it carries nothing of the
    global round. What it carries would come too late at a parent that had nothing to wait for."""

    def __init__(self, app: ForestApplication) -> None:
        self._app = app

    def __getattr__(self, name: str) -> Any:
        return getattr(self._app.forest, name)

    def on_round_over(self, app: int, size_bytes: int, waited_s: float, now: float) -> None:
        whole = self._app.worker.open
        if whole is None or whole.state is RoundState.CLOSED:
            self._app.forest.on_round_over(app, size_bytes, waited_s, now)


class ZoneSide:
    """The application as the steps of its zone see it: neighbours in the zone alone, timers of their own, and models
    that are nobody's newest."""

    objections = NoObjections()

    def __init__(self, app: ForestApplication, rounds: ZoneRounds) -> None:
        self._app = app
        self.coordinator = rounds
        self.forest = ZoneForest(app)
        self._held: BlobRef | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._app, name)

    @property
    def worker(self) -> Worker:
        return self.coordinator.worker

    @property
    def parent(self) -> Contact | None:
        parent = self._app.parent
        return parent if parent is not None and parent.zone == self._app.me.zone else None

    def children(self) -> tuple[Child, ...]:
        zone = self._app.me.zone
        return tuple(c for c in self._app.children() if c.contact.zone == zone and not c.observer)

    def set_timer(self, name: str, at: float) -> None:
        self._app.set_timer(PREFIX + name, at)

    def cancel_timer(self, name: str) -> None:
        self._app.cancel_timer(PREFIX + name)

    def advance(self, round_: int, model: BlobRef, *, finished: bool = False) -> None:
        """The model of a step is here; the one before is no longer needed."""
        held, self._held = self._held, model
        if held is not None and held != model and held not in self._app.ledger.blobs():
            self._app.effects.discard(self._app.id, held)

    def pushes(self, tag: Tag) -> bool:
        """The first step begins with the global model, which comes down the tree; later ones with one of the head's."""
        return step_of(tag) <= 1


@dataclass(slots=True)
class Leading:
    """What a head has made in the global round `tag`. `model`, `start`: float32 [parameters], the zone's model and the
    global one; `weights`: (samples, participants, names) of each chunk in the last step."""

    tag: Tag
    start: NDArray[np.float32]
    model: NDArray[np.float32] | None = None
    step: int = 0
    weights: list[tuple[int, int, list[int]]] = field(default_factory=list)
    metrics: tuple[Metric, ...] = ()

    def take(self, round_: OpenRound) -> bool:
        """Add the mean of a step; False when nobody delivered."""
        sum_ = round_.sum
        if sum_.total is None or round_.model_data is None or not sum_.participants:
            return False
        self.model = np.frombuffer(round_.model_data, "<f4") + sum_.total
        self.weights = [(*sum_.weight(index)[:2], sorted(sum_.contributors(index))) for index in range(sum_.chunks)]
        judged = [m for m in self.metrics if not m.name.startswith(TRAIN_PREFIX)]
        news = [m for m in sum_.metrics if not judged or m.name.startswith(TRAIN_PREFIX) or m.name == BYTES_METRIC]
        self.metrics = merge(judged, news)
        return True


class ZoneRounds:
    """The steps of this device's zone: its part in them, and leading them if it is the head."""

    TIMERS = tuple(PREFIX + name for name in Worker.TIMERS)

    def __init__(self, app: ForestApplication) -> None:
        self._app = app
        self._side = ZoneSide(app, self)
        self.worker = Worker(cast("ForestApplication", self._side))
        self._leading: Leading | None = None

    @property
    def leads(self) -> bool:
        """Whether this device is the head of its zone, and of somebody."""
        app = self._app
        return self._side.parent is None and not app.observer and (app.trains or bool(self._side.children()))

    # Leading

    def begin(self, round_: OpenRound, now: float) -> None:
        """A global round is open here, and its model is here."""
        self._leading = Leading(round_.tag, np.frombuffer(round_.model_data, "<f4"))
        self._start_step(self._leading, round_, round_.model, now)

    def _start_step(self, leading: Leading, round_: OpenRound, model: BlobRef, now: float) -> None:
        """The time of the global round is divided evenly: one share for the way up, the rest among the steps."""
        app = self._app
        leading.step += 1
        height = app.tree.height if app.tree is not None else 0
        ends = round_.started + (round_.closes - round_.started) * (height + 1) / (height + 2)
        budget_s = max(0.0, ends - now) / (app.manifest.zone_rounds - leading.step + 1)
        epoch, number, attempt = leading.tag
        start = RoundStart(app.id, epoch, number, attempt + leading.step, RoundKind.TRAIN, model, budget_s)
        self.worker.begin(start, now, source=None)

    def on_closed(self, round_: OpenRound, now: float) -> None:
        """A step that this device leads is over."""
        leading, whole = self._leading, self._global()
        if leading is None or whole is None or round_.tag != self._step_tag(leading):
            return
        if leading.take(round_) and leading.step < self._app.manifest.zone_rounds:
            self._app.effects.keep(self._app.id, ("zone", round_.tag), leading.model)
        else:
            self._deliver(leading, whole, now)

    def on_kept(self, token: Token, blob: BlobRef, now: float) -> None:
        """The zone's model has a name: the next step can begin."""
        leading, whole = self._leading, self._global()
        if leading is None or whole is None or token[1] != self._step_tag(leading):
            self._app.effects.discard(self._app.id, blob)
        else:
            self._start_step(leading, whole, blob, now)

    def on_superseded(self) -> None:
        """Another device leads; noticed in `on_round_start`."""

    def _step_tag(self, leading: Leading) -> Tag:
        epoch, number, attempt = leading.tag
        return epoch, number, attempt + leading.step

    def _global(self) -> OpenRound | None:
        """The global round that this device leads its zone in, while it can still take the zone's part."""
        whole, leading = self._app.worker.open, self._leading
        if whole is None or leading is None or whole.tag != leading.tag or whole.state is not RoundState.COLLECTING:
            return None
        return whole

    def _deliver(self, leading: Leading, whole: OpenRound, now: float) -> None:
        """The zone's part of the global sum."""
        self._leading = None
        if leading.model is not None:
            delta = leading.model - leading.start
            for index, (samples, participants, names) in enumerate(leading.weights):
                if participants:
                    mask = 0
                    for bit in whole.sum.bits(names):
                        mask |= bit
                    values = delta[index * CHUNK_PARAMETERS : (index + 1) * CHUNK_PARAMETERS] * np.float32(samples)
                    self._add(whole, index, values, samples, participants, mask)
            whole.add_metrics(*leading.metrics)
        self._app.worker.on_own_done(whole, now)

    def _add(
        self, whole: OpenRound, index: int, values: NDArray[np.float32], samples: int, participants: int, mask: int
    ) -> None:
        try:
            whole.sum.add_chunk(index, values, samples, participants, mask, self._app.me.node_id)
        except WireError:
            self._app.count("zone_refused")  # who moved between two zones is named by the other one, too

    # Taking part

    def on_round_start(self, sender: Contact, message: RoundStart, now: float) -> None:
        """The parent begins a step."""
        app, parent = self._app, self._side.parent
        tag = (message.epoch, message.round, message.attempt)
        if app.observer:
            return
        if message.kind is not RoundKind.TRAIN:
            app.count("round_invalid")
            return
        known = self.worker.open is not None and (self.worker.open.tag, self.worker.open.model) == (tag, message.model)
        if parent is not None and sender.node_id == parent.node_id and tag <= self.worker.newest and not known:
            app.count("zone_round_fenced")
            app.effects.send(parent, Update(app.id, *tag, final=True))
            return
        self.worker.on_round_start(sender, message, now)
        whole, step = self._global(), self.worker.open
        if whole is not None and step is not None and not step.mine:
            self._leading = None
            app.worker.on_own_done(whole, now)

    def on_attached(self, now: float) -> None:
        if self._side.parent is not None:
            self.worker.on_parent(now)

    def on_child(self, child: Contact, observer: bool, now: float) -> None:
        if child.zone == self._app.me.zone and not observer:
            self.worker.on_child(child, observer, now)

    def on_timer(self, name: str, now: float) -> None:
        self.worker.on_timer(name.removeprefix(PREFIX), now)


class ZonePart(LocalTraining):
    """A device's own part of a global round: what its zone has made if it is the head, else nothing. Evaluation is
    everybody's own."""

    def __init__(self, app: ForestApplication, zones: ZoneRounds) -> None:
        super().__init__(app)
        self._zones = zones

    def open(self, round_: OpenRound, now: float) -> None:
        if round_.kind is RoundKind.TRAIN:
            round_.own_pending = round_.own_to_come = self._zones.leads
        else:
            super().open(round_, now)

    def on_ready(self, round_: OpenRound, now: float) -> None:
        if round_.kind is not RoundKind.TRAIN:
            super().on_ready(round_, now)
        elif round_.own_to_come:
            round_.own_to_come = False
            self._zones.begin(round_, now)
