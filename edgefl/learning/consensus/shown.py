"""This device's own models that neighbours may fetch, by their blobs: the newest few, and no more memory than that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgefl.learning.effects import LearningEffects
    from edgefl.wire.blob import BlobRef

MAX_SHOWN = 3
"""Models of the newest steps. A step waits for the neighbours that fetch them, so there are no older ones under way.
The one that a round began with is held beside them."""


class ShownModels:
    """`latest`: (round, step, blob) of the newest."""

    def __init__(self, app: int, effects: LearningEffects) -> None:
        self.latest: tuple[int, int, BlobRef] | None = None
        self._app, self._effects = app, effects
        self._steps: list[BlobRef] = []
        self._base: BlobRef | None = None
        self._naming = 0  # models on their way to a name
        self._unneeded: list[BlobRef] = []

    def __contains__(self, blob: BlobRef) -> bool:
        return blob in self._steps or blob == self._base

    def name(self, token: tuple[str | int, ...], model: Any) -> None:
        """Have a model named, so that it can be shown."""
        self._naming += 1
        self._effects.keep(self._app, token, model)

    def on_named(self) -> None:
        """A name has come; `show` or `outlive` follows."""
        self._naming -= 1

    def show(self, round_: int, step: int, blob: BlobRef, *, base: bool) -> None:
        """Neighbours hear of this one now; `base`: a round begins with it, or the last one has ended."""
        self.latest = round_, step, blob
        added = blob
        if base:
            before, self._base = self._base, blob
            if before is None:
                return
            added = before
        self.outlive(added)

    def outlive(self, blob: BlobRef) -> None:
        """A model that is not the newest one goes with the next ones: the very same may be about to be shown again."""
        self._steps.append(blob)
        gone, self._steps = self._steps[:-MAX_SHOWN], self._steps[-MAX_SHOWN:]
        self.let_go(gone)

    def let_go(self, blobs: Iterable[BlobRef]) -> None:
        """Blobs that are not needed any more. A neighbour's model may be the very same as the own one, also as one that
        is just being named: then it waits until the name is known."""
        self._unneeded += blobs
        if not self._naming:
            unneeded, self._unneeded = self._unneeded, []
            for blob in unneeded:
                if blob not in self:
                    self._effects.discard(self._app, blob)
