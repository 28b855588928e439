"""The sum of one round at a root that does not trust every subtree: one sum for each of its children, and a trimmed
mean of their means in place of the weighted mean.

A child of the root stands for a whole subtree; or, with the strategy `trimmed-zones`, a group is a zone (forest/
direct.py). Of G groups, the
share at either end is cut off in every coordinate: k = floor(share G), at least 1 from three groups on. If no more than
k groups are wrong in any way, every coordinate of the result lies within the range of the others. Of those that are
left a weighted mean is taken; a group weighs what its samples are, but no more than the median group, since a liar says
what he likes about his samples.

Source: Yin et al., Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, ICML 2018, definition 2,
over groups in place of devices (as in the median of means): only the root needs more than one vector, and nothing more
travels. The price: one wrong device spoils its whole group, which is cut off with it; and two or fewer groups cannot be
told apart, so nothing is cut off then.

Memory, at the root alone: one vector for each group as far as its chunks have come and are not sealed yet, at most
MAX_GROUPS, and one for the result. Everywhere else it is one vector, as ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgefl.learning.aggregate import Accumulator

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_GROUPS = 16
"""More children than a root has places for (8 in its zone, 4 of other zones); further ones share the last group."""


def trimmed_mean(values: NDArray[np.float32], weights: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """Coordinate by coordinate, without the share (0..0.5) at either end. `values` [groups, n] all finite, `weights`
    [groups] above 0. Values that equal the last one kept are kept, too."""
    groups = len(values)
    cut = min(max(int(share * groups), 1), (groups - 1) // 2) if groups > 2 else 0
    weights = np.minimum(weights, np.median(weights)).astype(np.float32)
    if not cut:
        return np.average(values, axis=0, weights=weights).astype(np.float32)
    low, high = _ends(values, cut)
    total, weight = np.zeros_like(low), np.zeros_like(low)
    for row, counts in zip(values, weights, strict=True):
        kept = ((row >= low) & (row <= high)) * counts
        total += row * kept
        weight += kept
    total /= weight
    return np.clip(total, low, high, out=total)  # rounding must not lead outside


def _ends(values: NDArray[np.float32], cut: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The smallest and the largest of each column [n] without `cut` at either end. Rows are moved past each other as in
    bubble sort, whole rows at a time, `cut` + 1 times from each end: a tenth of the time that sorting columns takes."""
    rows, spare = values.copy(), np.empty_like(values[0])
    groups = len(rows)
    for done in range(cut + 1):
        for at in range(done, groups - 1 - done):  # the largest of those left to the end
            np.minimum(rows[at], rows[at + 1], out=spare)
            np.maximum(rows[at], rows[at + 1], out=rows[at + 1])
            rows[at] = spare
        for at in range(groups - 2 - done, done, -1):  # the smallest to the front
            np.maximum(rows[at], rows[at - 1], out=spare)
            np.minimum(rows[at], rows[at - 1], out=rows[at - 1])
            rows[at] = spare
    return rows[cut], rows[groups - 1 - cut]


class GroupedSum(Accumulator):
    """An Accumulator whose chunks are sealed to trimmed means."""

    __slots__ = ("_groups", "_names", "_own_group", "_parts", "_share")

    AT_ONCE: ClassVar[int] = 1
    """Cutting off the ends of sixteen groups takes about as long as encoding four chunks."""

    def __init__(self, parameters: int, max_samples: int, share: float, own_group: int | None = None) -> None:
        """`own_group`: groups are zones, and this device's own part belongs to that one; None: it is one by itself."""
        super().__init__(parameters, max_samples)
        self._share = share
        self._own_group = own_group
        self._groups: dict[int, int] = {}
        self._parts: list[dict[int, tuple[NDArray[np.float32], int]]] = [{} for _ in range(self.chunks)]
        self._names: list[dict[int, int]] = [{} for _ in range(self.chunks)]
        if own_group is not None:
            self._slot(own_group)

    def add_chunk(
        self, index: int, values: NDArray[np.float32], samples: int, participants: int, mask: int, group: int = 0
    ) -> None:
        super().add_chunk(index, values, samples, participants, mask, group)
        names, slot = self._names[index], self._slot(group)
        names[slot] = names.get(slot, 0) | mask

    def _named(self, index: int, group: int) -> int:
        """Who names devices of another zone must not keep their part out of that zone's sum."""
        if self._own_group is None:
            return super()._named(index, group)
        return self._names[index].get(self._slot(group), 0)

    def _take_own(self, delta: NDArray[np.float32]) -> None:
        """It waits to be a group of its own."""

    def _put(self, index: int, values: NDArray[np.float32], samples: int, group: int) -> None:
        known = self._slot(group)
        parts = self._parts[index]
        before = parts.get(known)
        if before is None:
            parts[known] = np.array(values, np.float32), samples
        else:
            np.add(before[0], values, out=before[0])
            parts[known] = before[0], before[1] + samples

    def _slot(self, group: int) -> int:
        """One is left for this device's own part, which may be a group by itself."""
        return self._groups.setdefault(group, min(len(self._groups), MAX_GROUPS - 2))

    def seal_mean(self) -> NDArray[np.float32] | None:
        index = self.sealed
        own = self._own_part(index)
        if own is not None and self._own_group is not None:
            delta, samples = own
            self._put(index, np.multiply(delta, np.float32(samples)), samples, self._own_group)
            own = None
        parts, self._parts[index] = list(self._parts[index].values()), {}
        values = [np.divide(part, np.float32(samples), out=part) for part, samples in parts]
        weights = [samples for _, samples in parts]
        if own is not None:
            values.append(own[0])
            weights.append(own[1])
        self._close_chunk()
        if not values:
            return None
        view = self._view(index)
        view[...] = trimmed_mean(np.stack(values), np.array(weights, np.float32), self._share)
        return view
