"""A consensus application on one device: its machine (device.py), with neighbours and an end from the tree.

    neighbours   tree_neighbours.py: parent, children, and the children that a parent introduces to each other
    news         reports.py: every device's metrics go up the tree, the root keeps their mean; observers hear it
    the end      ending.py: the last rounds are those of a forest, over the devices' own models

A helper mixes with its neighbours like a member, so that the graph holds together, and does not train: it counts as one
sample. A device saves its model at most every SAVE_S, since it has one for every round; after a restart it goes on from
there, and catches up with its neighbours.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgefl.learning.application import Forest
from edgefl.learning.consensus.device import ConsensusDevice
from edgefl.learning.consensus.ending import Ending
from edgefl.learning.consensus.options import ConsensusOptions
from edgefl.learning.consensus.own_models import OwnModels
from edgefl.learning.consensus.reports import REPORT_EPOCH, Report, Reports
from edgefl.learning.consensus.surroundings import Listener, Stage
from edgefl.learning.consensus.tree_neighbours import TreeNeighbours
from edgefl.learning.effects import LearningEffects, Prepared, Progress, TrainJob, TrainResult
from edgefl.learning.forest.application import ForestApplication
from edgefl.learning.forest.epoch import plausible
from edgefl.learning.metrics import TRAIN_PREFIX, merge
from edgefl.learning.options import parse_options
from edgefl.wire import Contact, Message
from edgefl.wire.application import Advert, AppState
from edgefl.wire.blob import FLOAT_BYTES, BlobRef
from edgefl.wire.consensus import Introduction, Mass, NeighbourModel, NormShare
from edgefl.wire.learning import Best, Metric, RoundKind, RoundRecord, Standing, Update

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgefl.learning.effects import Tag, Token

    Vector = NDArray[np.float32]

SAVE_S = 20.0
"""Writing every model would wear an SD card, for rounds that take a second; so much work may be lost at a power cut."""

INTRODUCE_S = 30.0
"""Children are told again whom to know, since a word may be lost."""

BYTES_METRIC = "bytes"
SAMPLES_METRIC = "train_samples"


class ConsensusApplication(ForestApplication, Listener):
    """The topology `consensus`."""

    TIMERS: ClassVar[tuple[str, ...]] = (
        *ForestApplication.TIMERS,
        *ConsensusDevice.TIMERS,
        "report",
        "introduce",
    )

    def __init__(
        self,
        advert: Advert,
        forest: Forest,
        effects: LearningEffects,
        *,
        observer: bool,
        owner: bool,
        helper: bool = False,
        progress: Progress | None = None,
    ) -> None:
        super().__init__(advert, forest, effects, observer=observer, owner=owner, helper=helper, progress=progress)
        self.options = parse_options(ConsensusOptions, self.manifest.topology_options, "consensus")
        self._own_models = OwnModels(effects, self)
        self.effects = self._own_models
        self.neighbours = TreeNeighbours(lambda: self.tree, self.me.node_id, self.options.degree)
        seed = (self.manifest.seed * 0x9E3779B97F4A7C15 ^ self.me.node_id) & (2**63 - 1)
        shared = replace(self.options, sync_slots=0) if self.options.start == "shared" else self.options
        self.device = ConsensusDevice(
            self.manifest,
            shared,  # nothing to agree on
            self.effects,
            self.neighbours,
            self._initial_of,
            seed,
            self,
            trains=self.trains,
        )
        self.device.counters = self.counters
        self.reports = Reports(self)
        self.coordinator: Ending = Ending(self)
        self._initial: Vector | None = None
        self._tensors: tuple[int, ...] = ()
        self._saved_at = float("-inf")
        self._round_began = 0.0
        self._seconds: dict[int, float] = {}
        self._reference: BlobRef | None = None  # the root's model, of the last rounds
        self._job: TrainJob | None = None  # of the last rounds, while it waits or runs
        self._has_ended = False

    # What others see

    @property
    def mixes(self) -> bool:
        """Whether this device has a model of its own."""
        return not self.observer

    @property
    def is_prepared(self) -> bool:
        """Whether this device could begin."""
        return self._initial is not None

    @property
    def round(self) -> int:
        return min(self.manifest.rounds, max(self.ledger.round, self.device.round))

    @property
    def partners(self) -> tuple[Contact, ...]:
        return self.neighbours.outgoing(0) if self.mixes else ()

    @property
    def phase(self) -> str:
        if self.ledger.finished:
            return "finished"
        if self.device.stage is Stage.DONE:
            return "ending" if self.worker.open is not None else "waiting for the others"
        return self.device.stage.value if self.mixes else "watching"

    @property
    def problem(self) -> str:
        if self.advert.state is AppState.PAUSED:
            return "paused by its owner"
        return self.coordinator.problem

    def credible(self, epoch: int, round_: int, *blobs: BlobRef) -> bool:
        fits = all(blob.size == self.manifest.parameters * FLOAT_BYTES for blob in blobs)
        return fits and round_ <= self.manifest.rounds + 1 and plausible(epoch, self.ledger.epoch)

    def standing(self, *, busy: bool = False) -> Standing | None:
        """Only what concerns the end: that another device has done more rounds is nothing that a root could use."""
        ledger, standing = self.ledger, super().standing(busy=busy)
        if standing is None or ledger.finished or ledger.round > self.manifest.rounds:
            return standing
        return Standing(self.id, ledger.epoch, 0, standing.model, self.me, busy)

    # The beginning

    def on_prepared(self, prepared: Prepared, now: float) -> None:
        self._tensors = prepared.tensors
        super().on_prepared(prepared, now)

    def on_ready(self, now: float) -> None:
        if self.mixes and not self.ledger.finished and self.ledger.model is not None:
            self.effects.fetch(self.id, ("own",), self.ledger.model, ())

    def _on_own(self, data: Any, now: float) -> None:
        """The model that this device begins or goes on with."""
        if data is None or self.is_prepared or self.ledger.finished:
            return
        self._initial = np.frombuffer(data, "<f4").astype(np.float32)
        if self.advert.state is AppState.PAUSED:
            self.device.pause()
        self._round_began = now
        if self.ledger.round:
            self.device.resume(min(self.ledger.round, self.manifest.rounds), self._initial, now)
        else:
            self.device.wait(now)

    def _initial_of(self, seed: int) -> Vector:
        """A start: the artifacts' weights, or each tensor drawn anew from the normal distribution that it has there."""
        if self._initial is None:
            raise ValueError("nothing was prepared yet")
        vector: Vector = self._initial.copy()
        if self.options.start == "own":
            rng, at = np.random.default_rng(seed), 0
            for size in self._tensors:
                part = vector[at : at + size]
                part[...] = rng.normal(part.mean(), part.std(), size)
                at += size
        return vector

    def _meet(self, now: float) -> None:
        """There are new neighbours: a device that waits asks them; those that are waited for may be others now."""
        self.set_timer("introduce", now)
        if self.is_prepared and self.device.stage is Stage.WAITING:
            self.device.beginning.ask(now)
        self.device.on_neighbours(now)

    def _introduce(self, now: float) -> None:
        records = self.ledger.history.tail(2)
        for neighbour, observer, peers in self.neighbours.introductions():
            news = Introduction(self.id, peers, self.round, records) if observer else Introduction(self.id, peers)
            self.effects.send(neighbour, news)
        self.set_timer("introduce", now + INTRODUCE_S)

    # What the machine tells

    def on_model(self, round_: int, blob: BlobRef, now: float) -> None:
        ledger = self.ledger
        if ledger.round > self.manifest.rounds:
            return  # the merged model came first
        ledger.round, ledger.model = max(round_, ledger.round), blob
        if round_ and (now >= self._saved_at + SAVE_S or self.device.stage is Stage.DONE):
            self._saved_at = now
            self.effects.save(self.id, ledger.progress())

    def on_round(self, round_: int, result: TrainResult, now: float) -> None:
        seconds, self._round_began = now - self._round_began, now
        self._seconds = {round_ - 1: self._seconds.get(round_ - 1, 0.0), round_: seconds}
        received, self.device.fetched_bytes = self.device.fetched_bytes, 0
        own = merge(
            result.metrics,
            [
                Metric(BYTES_METRIC, float(received), 0.0),
                Metric(SAMPLES_METRIC, float(result.samples), 1.0 if result.samples else 0.0),
            ],
        )
        self.reports.tell(round_, Report(int(self.trains), own), now)
        if not self._is_root:
            self._record(round_, REPORT_EPOCH, Report(1, own), seconds)

    @property
    def _is_root(self) -> bool:
        tree = self.tree
        return tree is not None and tree.is_root

    def on_total(self, round_: int, report: Report, now: float) -> None:
        """What all devices, as far as they have been heard of, say of a round."""
        if self._is_root and round_ <= self.manifest.rounds and report.participants:
            self._record(round_, self.ledger.epoch, report, self._seconds.get(round_, 0.0))
            evaluation = [metric for metric in report.metrics if not metric.name.startswith(TRAIN_PREFIX)]
            self.coordinator.on_report(evaluation, report.participants)

    def _record(self, round_: int, epoch: int, report: Report, seconds: float) -> None:
        """Evaluation is of the models before this round, training is of this round."""
        sums = {metric.name: metric.total for metric in report.metrics}
        samples, received = int(sums.get(SAMPLES_METRIC, 0.0)), int(sums.get(BYTES_METRIC, 0.0))
        training = [m for m in report.metrics if m.name.startswith(TRAIN_PREFIX) and m.name != SAMPLES_METRIC]
        evaluation = [m for m in report.metrics if not m.name.startswith(TRAIN_PREFIX) and m.name != BYTES_METRIC]
        self.ledger.history.merge(
            [
                RoundRecord(round_ - 1, epoch, 0, 0, 0.0, merge(evaluation)),
                RoundRecord(round_, epoch, report.participants, samples, seconds, merge(training), received),
            ]
        )

    def on_done(self, now: float) -> None:
        self._has_ended = True
        self.reports.tell(self.manifest.rounds + 1, Report(int(self.trains)), now)
        self._contribute()

    # The end

    def end(self, now: float) -> None:
        """No more rounds between neighbours: the last ones go over the tree."""
        if self.mixes:
            self.device.finish(now)
            self.ledger.round = max(self.ledger.round, self.manifest.rounds)

    def advance(
        self,
        round_: int,
        model: BlobRef,
        *,
        finished: bool = False,
        state: tuple[BlobRef, ...] | None = None,
        best: Best | None = None,
    ) -> None:
        """A model of the last rounds: only the merged one takes the place of this device's own."""
        merged = self.options.merge and round_ > self.manifest.rounds
        without = self.device.vector is None and not self.ledger.finished
        if not self.mixes or merged or without:
            super().advance(round_, model, finished=finished, state=state, best=best)
            return
        if round_ < self.manifest.rounds:
            return  # a new root has heard from a child; both stay with their own
        self.ledger.round, self.ledger.finished = round_, finished
        before, self._reference = self._reference, model
        if before is not None:
            self.effects.discard(self.id, before)

    def uses(self, blob: BlobRef) -> bool:
        """Whether something here still needs a blob: two models may be the very same."""
        open_ = None if self.worker.open is None else self.worker.open.model
        return blob in (self._reference, open_) or blob in self.ledger.blobs() or blob in self.device.shown

    def contribute(self, job: TrainJob) -> None:
        """This device's part in a round over the tree: evaluate its own model and, for a merge, give it."""
        self._job = job
        self._contribute()

    def _contribute(self) -> None:
        job, model = self._job, self.ledger.model
        if job is None or model is None or (self.device.vector is not None and not self._has_ended):
            return
        merged = self.ledger.round > self.manifest.rounds
        own = job.model if merged or self.device.vector is None else model
        self._own_models.compute(self.id, TrainJob(job.tag, RoundKind.EVALUATE, own, job.seed))

    def _contribution(self, job: TrainJob, result: TrainResult | None) -> TrainResult | None:
        """The own model as an update of the model that the round begins with."""
        round_, vector = self.worker.open, self.device.vector
        if job.kind is not RoundKind.TRAIN or round_ is None or vector is None or not self.trains:
            return result
        base = np.frombuffer(round_.model_data, "<f4")
        return TrainResult(vector - base, self.device.samples, result.metrics if result is not None else ())

    # Events

    def on_state(self, now: float) -> None:
        super().on_state(now)
        if self.advert.state is AppState.PAUSED:
            self.device.pause()
        else:
            self.device.unpause(now)

    def on_rooted(self, now: float) -> None:
        super().on_rooted(now)
        self.neighbours.on_rooted()
        self.device.on_neighbours(now)

    def on_attached(self, now: float) -> None:
        super().on_attached(now)
        self.reports.on_parent(now)
        self._meet(now)

    def on_child(self, child: Contact, observer: bool, now: float) -> None:
        super().on_child(child, observer, now)
        self._meet(now)

    def on_child_gone(self, child: int, now: float) -> None:
        super().on_child_gone(child, now)
        self._meet(now)

    def on_admitted(self, sender: Contact, message: Message, now: float) -> None:
        if isinstance(message, NormShare | NeighbourModel | Mass):
            if self.mixes and self.is_prepared:
                self.device.on_message(sender, message, now)
        elif isinstance(message, Introduction):
            self._on_introduction(sender, message, now)
        elif isinstance(message, Update) and message.epoch == REPORT_EPOCH:
            self.reports.on_report(sender, message, now)
        else:
            super().on_admitted(sender, message, now)
            if self.worker.open is not None and not self.worker.open.mine:
                self.end(now)

    def _on_introduction(self, sender: Contact, message: Introduction, now: float) -> None:
        before = self.partners
        if not self.neighbours.on_introduction(sender, message.peers):
            return
        if not self.mixes:
            self.ledger.round = max(self.ledger.round, min(message.round, self.manifest.rounds))
            self.ledger.history.merge(message.records)
        elif self.partners != before:
            if self.is_prepared and self.device.stage is Stage.WAITING:
                self.device.beginning.ask(now)
            self.device.on_neighbours(now)

    def on_alarm(self, name: str, now: float) -> None:
        if name in ConsensusDevice.TIMERS:
            self.device.on_timer(name, now)
        elif name == "report":
            self.reports.on_timer(now)
        elif name == "introduce":
            self._introduce(now)
        else:
            super().on_alarm(name, now)

    def on_trained(self, tag: Tag, result: TrainResult | None, now: float) -> None:
        if tag[0] == 0:
            self.device.on_trained(tag, result, now)
        elif self._job is not None and tag == self._job.tag:
            job, self._job = self._job, None
            self.worker.on_trained(tag, self._contribution(job, result), now)

    def on_fetched(self, token: Token, blob: BlobRef, data: Any, now: float) -> None:
        if token[0] == "own":
            self._on_own(data, now)
        elif token[0] in ("copy", "neighbour"):
            self.device.on_fetched(token, blob, data, now)
        else:
            super().on_fetched(token, blob, data, now)

    def on_kept(self, token: Token, blob: BlobRef, now: float) -> None:
        if token[0] in ("base", "mix", "end"):
            self.device.on_kept(token, blob, now)
        else:
            super().on_kept(token, blob, now)
