"""What learning asks of the world beyond sending and timers: blobs, training, durable progress.

Each request that takes time is answered later by an event of `Learning` with the same token:

    prepare -> on_prepared      fetch -> on_fetched      keep -> on_kept      train -> on_trained
    recall -> on_recalled       renew -> on_kept or on_not_kept
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import field
from typing import TYPE_CHECKING, Any, Protocol

from edgefl.declared import dataclass
from edgefl.effects import Effects
from edgefl.wire.application import Manifest
from edgefl.wire.blob import BlobRef
from edgefl.wire.learning import Best, Metric, RoundKind, RoundRecord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgefl.wire import Contact, Message

Token = tuple[Hashable, ...]
Tag = tuple[int, int, int]
"""(epoch, round, attempt): the name of a round. Larger is newer."""


@dataclass(frozen=True, slots=True)
class TrainJob:
    """Evaluate `model` on held-back data and, for RoundKind.TRAIN, train it locally from there. `kept`: what the last
    training left on this device (a buffer of float32, or None). Nobody waits for it after `deadline` (monotonic
    seconds)."""

    tag: Tag
    kind: RoundKind
    model: BlobRef
    seed: int
    kept: Any = None
    deadline: float = math.inf


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What local training gave. `delta`: float32 [parameters], trained minus given, or what the strategy sends in its
    place; handed over for good (the sum is built in it); None when only evaluated. `samples`: how many the delta was
    trained on. `metrics`: weighted sums over local data. `kept`: what stays here for the next training (a buffer of
    float32, or None). `square`: the delta's squared length, worked out where the result is made, which is not on the
    loop. `diverged`: the delta is not finite, or far too large. `declined`: the device may not train now, so there is
    nothing else in it."""

    delta: NDArray[np.float32] | None
    samples: int
    metrics: tuple[Metric, ...]
    kept: Any = None
    declined: bool = False
    square: float = field(init=False)

    def __post_init__(self) -> None:
        square = 0.0
        if self.delta is not None:
            from edgefl.learning.aggregate import squared_length  # numpy comes with it

            square = squared_length(self.delta)
        object.__setattr__(self, "square", square)

    @property
    def diverged(self) -> bool:
        return not math.isfinite(self.square)


DECLINED = TrainResult(None, 0, (), declined=True)
"""Said at once where a device knows that it cannot train in time: its parent need not wait for it."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What must survive a power cut: model `round` of `epoch`, and the history that led to it. On a root and its
    runners-up also what the strategy remembers as of this model, and the best model so far."""

    epoch: int
    round: int
    model: BlobRef
    finished: bool = False
    records: tuple[RoundRecord, ...] = ()
    state: tuple[BlobRef, ...] = ()
    best: Best | None = None

    def blobs(self) -> tuple[BlobRef, ...]:
        """Every blob named here, once, the model first."""
        best = () if self.best is None else (self.best.model,)
        return tuple(dict.fromkeys((self.model, *self.state, *best)))


@dataclass(frozen=True, slots=True)
class Prepared:
    """A device's answer to `prepare`: the initial model (kept as a blob), or why the application cannot run here.
    `trained`: so many of its first values are trained, and the rest are running statistics; 0 for all."""

    model: BlobRef | None
    refusal: str = ""
    retry: bool = False
    """True when only the artifacts could not be fetched: a parent in the tree may have them."""
    trained: int = 0
    tensors: tuple[int, ...] = ()
    """Sizes of the trained tensors, in the order of the vector, which may have more behind them."""


class LearningEffects(Effects, Protocol):
    """The world as learning sees it. Nothing here blocks or raises."""

    def prepare(self, app: int, manifest: Manifest, sources: tuple[Contact, ...], *, observer: bool) -> None:
        """Get the artifacts from `sources`, check them and the local data against each other (an observer needs no
        data), and be ready to train."""
        ...

    def release(self, app: int) -> None:
        """Forget what `prepare` made; stop training."""
        ...

    def subscribe(self, app: int, parent: Contact) -> None:
        """Take in what this parent broadcasts for the application."""
        ...

    def unsubscribe(self, app: int) -> None: ...

    def broadcast(self, app: int, blob: BlobRef) -> None:
        """Push a kept blob down the application's tree."""
        ...

    def fetch(
        self, app: int, token: Token, blob: BlobRef, sources: tuple[Contact, ...], *, pushed: bool = False
    ) -> None:
        """Get a blob: out of the local cache, or from the sources in turn; `pushed` when the parent broadcasts it, so
        that asking for it can wait a little."""
        ...

    def keep(self, app: int, token: Token, data: Any) -> None:
        """Name and hold the bytes of a buffer as a blob, so that others can fetch it."""
        ...

    def renew(self, app: int, token: Token, start: BlobRef, model: Any, mean: NDArray[np.float32]) -> None:
        """Let the device owner's policy `aggregate` make the next model out of the blob `start`, whose content `model`
        is, and the devices' mean delta. What comes of it is held as by `keep`: answered by on_kept, or by on_not_kept
        where the policy failed."""
        ...

    def discard(self, app: int, blob: BlobRef) -> None:
        """This application no longer needs the blob in memory (what was saved stays on disk)."""
        ...

    def train(self, app: int, job: TrainJob) -> None:
        """Run a job; a newer job of the same application cancels an older one."""
        ...

    def send_bulk(self, app: int, to: Contact, message: Message, data: Any) -> None:
        """Send a message with a second frame, straight from the buffer `data`, which will not change any more, in turn
        with other applications. Best effort: it is lost when there is no connection."""
        ...

    def uplink_bytes_s(self) -> float | None:
        """What this device's uplink has delivered while something waited for it; None before that was measured."""
        ...

    def remember(self, app: int, data: Any, name: str = "feedback") -> None:
        """Make a buffer durable, in place of the one before of this name. `data` must not change any more."""
        ...

    def recall(self, app: int, token: Token) -> None:
        """Ask for what `remember` was last given under the name that the token begins with."""
        ...

    def save(self, app: int, progress: Progress) -> None:
        """Make progress durable, all its blobs included; those saved before are no longer needed on disk."""
        ...
