"""One application on one device: what it knows, and its life. What a round does is the topology's: forest/, sampled/,
consensus/ each have an `Application` of their own.

Life cycle:

    PREPARING --artifacts and data fit--> MEMBER | OBSERVER          in the tree, takes part (or only watches)
        |  \\--artifacts not to be had--> SEEKING                     in the tree as an observer, to get them from there
        '--data or artifacts do not fit--> REFUSED                   not in the tree; the reason is shown
    PREPARING --this device helps--> HELPER                          in the tree without being a member
    any --leave--> gone

Every topology uses the application's tree, if only to find the other members and to tell observers how far it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, Protocol

from edgefl.learning.border import Border
from edgefl.learning.effects import LearningEffects, Prepared, Progress, TrainResult
from edgefl.learning.history import History
from edgefl.learning.ledger import Ledger
from edgefl.wire import Contact, Message
from edgefl.wire.application import Advert, Manifest
from edgefl.wire.blob import BlobRef
from edgefl.wire.learning import Best
from edgefl.wire.overlay import Scope

if TYPE_CHECKING:
    from typing import Any

    from edgefl.learning.effects import Tag, Token
    from edgefl.learning.together import Together

RETRY_PREPARE_S = 5.0
"""How long a device waits before it asks again for artifacts that nobody could give it."""


class Child(Protocol):
    """A child in the tree, as learning needs to see it."""

    @property
    def contact(self) -> Contact: ...
    @property
    def observer(self) -> bool: ...
    @property
    def members(self) -> int: ...


class Tree(Protocol):
    """This device's place in an application's tree. `height` is 0 for a leaf, `members` counts the whole subtree,
    `root` is the root's node id as far as it has been heard of here."""

    @property
    def is_root(self) -> bool: ...
    @property
    def parent(self) -> Contact | None: ...
    @property
    def children(self) -> tuple[Child, ...]: ...
    @property
    def height(self) -> int: ...
    @property
    def members(self) -> int: ...
    @property
    def root(self) -> int: ...


class Forest(Protocol):
    """The overlay, as learning needs to see it."""

    @property
    def contact(self) -> Contact: ...
    def tree(self, app: int) -> Tree | None: ...
    def top_ranked(self, app: int, count: int) -> tuple[Contact, ...]: ...
    def join_tree(
        self, app: int, now: float, *, observer: bool = False, helper: bool = False, scope: Scope = Scope.GLOBAL
    ) -> None: ...
    def adverts(self) -> tuple[Advert, ...]: ...
    def leave_tree(self, app: int, now: float) -> None: ...
    def disown(self, app: int, sender: Contact, now: float) -> None: ...
    def watch_tree(self, app: int, until: float, now: float) -> None: ...
    def epsilon_sums(self, app: int) -> tuple[float, float]: ...
    def on_round_over(self, app: int, size_bytes: int, waited_s: float, now: float) -> None: ...
    def publish(self, advert: Advert, now: float) -> None: ...


class Stage(Enum):
    """Where an application is in its life on this device."""

    PREPARING = "preparing"
    SEEKING = "seeking"
    MEMBER = "member"
    OBSERVER = "observer"
    HELPER = "helper"
    REFUSED = "refused"


class Application(ABC):
    """What every topology shares. Pure: acts through `effects`, hears of time as `now`.

    A topology implements the events below `Events`, and names its timers in TIMERS.
    """

    TIMERS: ClassVar[tuple[str, ...]] = ()

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
        """A `helper` passes models down and sums up, and adds nothing of its own: nobody counts it."""
        self.manifest: Manifest = advert.decode_manifest()
        self.id = self.manifest.app_id
        self.advert = advert
        self.forest = forest
        self.effects = Border(effects, self.manifest, lambda: self.me, lambda: self.count("refused_foreign_zone"))
        self.observer = observer
        self.owner = owner
        self.helper = helper
        self.stage = Stage.PREPARING
        self.refusal = ""
        self.counters: dict[str, int] = {}
        self.trained = 0
        """Values of the model that are trained, 0 for all: see Prepared."""
        self.together: Together | None = None
        """The applications with which this one shares the device's training, if any."""
        self.ledger = Ledger()
        if progress is not None:
            self.ledger = Ledger(
                progress.epoch,
                progress.round,
                progress.model,
                progress.finished,
                History(progress.records),
                progress.state,
                progress.best,
            )

    @property
    def me(self) -> Contact:
        return self.forest.contact

    @property
    def tree(self) -> Tree | None:
        return self.forest.tree(self.id)

    @property
    def round(self) -> int:
        """How far the application is, as far as this device knows: the newest model's round."""
        return self.ledger.round

    @property
    def partners(self) -> tuple[Contact, ...]:
        """Those with whom this device exchanges models of its own; empty where there is only one model."""
        return ()

    @property
    def parent(self) -> Contact | None:
        tree = self.tree
        return tree.parent if tree is not None else None

    def children(self) -> tuple[Child, ...]:
        tree = self.tree
        return tree.children if tree is not None else ()

    @property
    def trains(self) -> bool:
        """Whether this device is a member: it adds a part of its own to every round, and may hold replicas."""
        return not self.observer and not self.helper

    def share_with(self, together: Together) -> None:
        """The device trains for one of a group of applications at a time, and this is one of them. Before `start`."""
        self.together = together

    def has_artifact(self, blob_id: bytes) -> bool:
        """Whether the blob is one of the trainer's files."""
        return any(artifact.blob.id == blob_id for artifact in self.manifest.artifacts)

    def count(self, name: str) -> None:
        self.counters[name] = self.counters.get(name, 0) + 1

    def set_timer(self, name: str, at: float) -> None:
        self.effects.set_timer(("learning", self.id, name), at)

    def cancel_timer(self, name: str) -> None:
        self.effects.cancel_timer(("learning", self.id, name))

    def advance(
        self,
        round_: int,
        model: BlobRef,
        *,
        finished: bool = False,
        state: tuple[BlobRef, ...] | None = None,
        best: Best | None = None,
    ) -> None:
        """This device now holds model `round_`, and with it `state` (None: what it had, if that belongs to this model)
        and `best` (None: what it had). What was there before is no longer needed."""
        ledger = self.ledger
        before = ledger.blobs()
        if state is None:
            state = ledger.state if model == ledger.model else ()
        ledger.round, ledger.model = round_, model
        ledger.finished = finished
        ledger.state = () if finished else state
        ledger.best = best or ledger.best
        for blob in sorted(before - ledger.blobs(), key=lambda blob: blob.id):
            self.effects.discard(self.id, blob)

    def start(self, now: float) -> None:
        """Get the artifacts, from whoever holds them."""
        self.stage = Stage.PREPARING
        self.prepare(now)

    def prepare(self, now: float) -> None:
        sources = [contact for contact in (self.parent, self.advert.holder) if contact is not None]
        others = tuple(contact for contact in sources if contact.node_id != self.me.node_id)
        self.effects.prepare(self.id, self.manifest, others, observer=not self.trains)

    def on_prepared(self, prepared: Prepared, now: float) -> None:
        if prepared.model is None:
            if not prepared.retry:
                self.stage = Stage.REFUSED
                self.refusal = prepared.refusal
                self.forest.leave_tree(self.id, now)
                return
            self.refusal = prepared.refusal
            if self.stage is Stage.PREPARING:
                self.stage = Stage.SEEKING
                self._join(now, observer=not self.helper)
            self.set_timer("prepare", now + RETRY_PREPARE_S)
            return
        self.refusal = ""
        self.trained = prepared.trained
        if self.ledger.model is None:
            self.ledger.model = prepared.model
        elif prepared.model not in self.ledger.blobs():
            self.effects.discard(self.id, prepared.model)
        if self.stage is Stage.SEEKING and self.trains:
            self.forest.leave_tree(self.id, now)
        self.stage = Stage.HELPER if self.helper else Stage.OBSERVER if self.observer else Stage.MEMBER
        self._join(now, observer=self.observer)
        self.on_ready(now)

    def _join(self, now: float, *, observer: bool) -> None:
        """Take a place in the tree; not from another zone than the application's: we may have moved meanwhile."""
        if self.effects.admits(self.me):
            self.forest.join_tree(self.id, now, observer=observer, helper=self.helper, scope=self.manifest.scope)

    def on_advert(self, advert: Advert, now: float) -> None:
        """A newer advert: the owner wants another state."""
        if advert.version > self.advert.version:
            self.advert = advert
            self.on_state(now)

    def stop(self, now: float) -> None:
        """Leave the tree and forget what was prepared."""
        for name in ("prepare", *self.TIMERS):
            self.cancel_timer(name)
        self.forest.leave_tree(self.id, now)
        self.effects.unsubscribe(self.id)
        self.effects.release(self.id)
        if self.together is not None:
            self.together.leave(self.id)
            self.together.on_idle(now)

    def on_root(self, now: float) -> None:
        self.effects.unsubscribe(self.id)
        if self.stage is Stage.MEMBER:
            self.on_rooted(now)

    def on_parent(self, parent: Contact, now: float) -> None:
        self.effects.subscribe(self.id, parent)
        if self.stage is Stage.SEEKING:
            self.set_timer("prepare", now)
        else:
            self.on_attached(now)

    def on_orphaned(self, now: float) -> None:
        self.effects.unsubscribe(self.id)

    def on_message(self, sender: Contact, message: Message, now: float) -> None:
        if self.effects.admits(sender):
            self.on_admitted(sender, message, now)

    def on_bulk(self, sender: Contact, message: Message, data: Any, now: float) -> None:
        """A message with a second frame, which is only read, and only now."""

    def on_timer(self, name: str, now: float) -> None:
        if name == "prepare":
            if self.stage is Stage.SEEKING:
                self.prepare(now)
        elif name in self.TIMERS:
            self.on_alarm(name, now)

    # Events, which each topology answers in its way

    @property
    @abstractmethod
    def phase(self) -> str:
        """What this device is doing for the application, in a word."""

    @property
    @abstractmethod
    def problem(self) -> str:
        """Why the rounds do not go on, as far as this device knows; empty when they do."""

    def on_ready(self, now: float) -> None:
        """The artifacts are here, and a place in the tree has been asked for."""

    def on_state(self, now: float) -> None:
        """The owner pauses, resumes or stops the application: see `advert`."""

    def on_rooted(self, now: float) -> None:
        """This member is the root of the tree."""

    def on_attached(self, now: float) -> None:
        """This device has a new parent."""

    def on_child(self, child: Contact, observer: bool, now: float) -> None: ...

    def on_child_gone(self, child: int, now: float) -> None: ...

    @abstractmethod
    def on_admitted(self, sender: Contact, message: Message, now: float) -> None:
        """A message from a device that may speak to this application."""

    @abstractmethod
    def on_alarm(self, name: str, now: float) -> None:
        """A timer of TIMERS."""

    @abstractmethod
    def on_trained(self, tag: Tag, result: TrainResult | None, now: float) -> None: ...

    @abstractmethod
    def on_fetched(self, token: Token, blob: BlobRef, data: Any, now: float) -> None:
        """`data` is the blob's content as a buffer, or None when nobody had it."""

    def on_recalled(self, token: Token, data: Any, now: float) -> None:
        """`data` is what `remember` was last given, or None."""

    @abstractmethod
    def on_kept(self, token: Token, blob: BlobRef, now: float) -> None: ...

    def on_not_kept(self, token: Token, problem: str, now: float) -> None:
        """The policy that was to make the next model has failed. Only of topologies that ask for one (`renew`)."""
