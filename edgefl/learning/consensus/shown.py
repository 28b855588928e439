"""This device's own models that neighbours may fetch, by their blobs: the newest few, and no more memory than that."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgefl.wire.blob import BlobRef

MAX_SHOWN = 3
"""Models of the newest steps. A step waits for the neighbours that fetch them, so there are no older ones under way.
The one that a round began with is held beside them."""


class ShownModels:
    """`latest`: (round, step, blob) of the newest."""

    def __init__(self) -> None:
        self.latest: tuple[int, int, BlobRef] | None = None
        self._steps: list[BlobRef] = []
        self._base: BlobRef | None = None

    def __contains__(self, blob: BlobRef) -> bool:
        return blob in self._steps or blob == self._base

    def show(self, round_: int, step: int, blob: BlobRef, *, base: bool) -> list[BlobRef]:
        """Neighbours hear of this one now; `base`: a round begins with it, or the last one has ended. Those that nobody
        asks for any more."""
        self.latest = round_, step, blob
        added = blob
        if base:
            before, self._base = self._base, blob
            if before is None:
                return []
            added = before
        return self.outlive(added)

    def outlive(self, blob: BlobRef) -> list[BlobRef]:
        """A model that is not the newest one goes with the next ones: the very same may be about to be shown again."""
        self._steps.append(blob)
        gone, self._steps = self._steps[:-MAX_SHOWN], self._steps[-MAX_SHOWN:]
        return [old for old in gone if old not in self]
