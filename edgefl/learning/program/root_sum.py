"""The sum of one round at one device, with every device counted once.

A batch is a part of the sum with the names of those in it. It never changes: a device that gets another parent sends it
there as it was, marked `again`, because nobody can know how far it got over the old way. Batches that were not sent
again never overlap, so they are added at once. A repeated one waits at the root until the round closes, and is added
only if none of its devices is in the sum by then. So nobody is counted twice, and a repeated batch never keeps out a
first one that is still on its way.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

import numpy as np

from edgefl.declared import dataclass
from edgefl.learning.aggregate import Accumulator

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_WEIGHT = 1_000_000
"""Of one device in one round."""


@dataclass(slots=True)
class Batch:
    """A part of a round's sum: `values` is float32 [n], the sum of weight_i * vector_i. `key` names it towards a
    parent, `acked` says that the parent has it."""

    key: int
    values: NDArray[np.float32]
    weight: int
    participants: int
    contributors: tuple[int, ...]
    again: bool = False
    sent: bool = False
    acked: bool = False


@dataclass(slots=True)
class Sum:
    """What a program hears at the root: `mean` is float32 [n], sum(weight_i * vector_i) / sum(weight_i)."""

    round: int
    mean: NDArray[np.float32]
    weight: int
    participants: int


@dataclass(slots=True)
class OpenRound:
    """A round that is open at this device, since `opened`, or below it. `closes`: when what is there is passed on,
    `ends`: when it is forgotten."""

    round: int
    sum: Accumulator
    opened: float
    closes: float
    ends: float
    own: bool = False
    sealed: bool = False
    held: list[Batch] = field(default_factory=list)
    """At the root: repeated batches, added at the end if they are still wanted."""
    batches: list[Batch] = field(default_factory=list)
    """Elsewhere: what the parent is to have."""
    crowds: set[tuple[int, int]] = field(default_factory=set)
    """(child, key) of batches without names that are in the sum."""

    @property
    def delivered(self) -> int:
        """Devices of this subtree that are in: added here, passed on, or held."""
        batches = [*self.batches, *self.wanted()]
        return self.sum.weight(0)[1] + sum(batch.participants for batch in batches)

    def mask(self, contributors: tuple[int, ...]) -> int:
        mask = 0
        for bit in self.sum.bits(contributors):
            mask |= bit
        return mask

    def counts(self, batch: Batch) -> bool:
        """Whether all of these devices are in the sum already."""
        return bool(batch.contributors) and set(batch.contributors) <= self.sum.contributors(0)

    def wanted(self) -> list[Batch]:
        """The repeated batches that may be added: none of their devices is in the sum, or in another of them."""
        taken = self.sum.contributors(0)
        chosen = []
        for batch in sorted(self.held, key=lambda one: -one.participants):
            if taken.isdisjoint(batch.contributors):
                taken |= set(batch.contributors)
                chosen.append(batch)
        return chosen

    def add(self, batch: Batch) -> None:
        """Raises WireError when the batch cannot be true, DuplicateError when a device would be counted twice."""
        self.sum.add_chunk(0, batch.values, batch.weight, batch.participants, self.mask(batch.contributors))

    def seal(self) -> tuple[NDArray[np.float32], int, int, tuple[int, ...]] | None:
        """(sum, weight, participants, contributors), or None when nobody is in it."""
        values = self.sum.seal()
        if values is None:
            return None
        weight, participants, _ = self.sum.weight(0)
        names = tuple(sorted(self.sum.contributors(0)))
        return values, weight, participants, names if len(names) == participants else ()
